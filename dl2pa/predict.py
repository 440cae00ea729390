"""A trained model for new images: the network with its assignment, and the way evaluation prepares an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dl2pa.data.augment import Normalise
from dl2pa.data.transforms import ImageTransform, fit, open_image
from dl2pa.data.views import over_views
from dl2pa.device import DTYPES
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.model import Classifier, build_model

if TYPE_CHECKING:
    from PIL.Image import Image


class Scorer(nn.Module):
    """Normalised images [B, c, H, W] -> scores [B, C], columns in class order whatever prototype a class owns.

    The scores are averaged over as many ``views`` of an image as the run was judged by (data/views.py).
    """

    def __init__(self, classifier: Classifier, views: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.views = views

    def forward(self, images: Tensor) -> Tensor:
        return over_views(self.classifier, images, self.views)[1]


class Preparation:
    """An image as evaluation sees it: scaled by its shorter side, cut to its centre, normalised.

    A data set in memory has no rule for images of another size: they are scaled to its own.
    """

    def __init__(self, cfg: DictConfig) -> None:
        data = cfg.dataset
        self._transform = ImageTransform(data.size, resize=data.size if data.resize is None else data.resize)
        self._mode = "L" if data.channels == 1 else "RGB"
        self._normalise = Normalise(data.mean, data.std, torch.device("cpu"))

    def __call__(self, image: "Image | str | Path") -> Tensor:
        """A Pillow image, or the path of an image file, as float32 [c, H, W]. Raises UserError if it cannot be read."""
        if isinstance(image, str | Path):
            opened = open_image(str(image), self._mode)
        else:
            opened = image if image.mode == self._mode else image.convert(self._mode)
        pixels = np.array(fit(opened, "image", self._transform))
        batch = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1))
        return self._normalise(batch)[0]


@dataclass(frozen=True)
class Model:
    """A trained classifier, on the CPU.

    ``module``: normalised images [B, c, H, W] to scores [B, C], in evaluation mode; ``transform``: one image, or the
    path of one, to [c, H, W]; ``classes``: C names in the order of the scores; ``score``: cosine or logit.
    """

    module: nn.Module
    transform: Preparation
    classes: list[str]
    dataset: str
    score: str


def load(run: str | Path, which: str = "last") -> Model:
    """The model that the finished run in folder ``run`` trained: its ``last`` epoch's, or its ``best``.

    Neither the data set nor the prototypes' file is needed: the checkpoint holds the prototypes and the assignment that
    its weights were trained with.

    Raises:
        UserError: not a run folder, not finished, or no such checkpoint.
    """
    if which not in ("last", "best"):
        raise UserError(f"which={which}: use last or best")
    folder = RunFolder.existing(run)
    if (result := folder.result()) is None:
        raise UserError(f"{run}: this run is not finished; python -m dl2pa run {run} goes on with it")
    if (state := folder.load(which)) is None:
        raise UserError(f"{run}: this run has no {which}.pt")
    cfg = folder.config()
    with torch.random.fork_rng(devices=[]):  # the random first weights are overwritten, and the caller's draws kept
        model = build_model(cfg, state["model"].get("head.prototypes"), DTYPES[result["precision"]])
    with folder.taking(which):
        model.load_state_dict(state["model"])
    module = Scorer(model.to(memory_format=torch.channels_last), cfg.augment.views).eval()
    score = "cosine" if cfg.method.head == "prototypes" and cfg.method.normalise else "logit"
    return Model(
        module,
        Preparation(cfg),
        folder.classes() or [str(label) for label in range(cfg.dataset.num_classes)],
        cfg.dataset.name,
        score,
    )


def main(arguments: Sequence[str]) -> None:
    """python -m dl2pa predict RUN IMAGE... [top=5]: the classes with the highest scores, for each image.

    Raises UserError as ``load`` does, for an image that cannot be read, and for arguments that are not as above.
    """
    options = [word[len("top=") :] for word in arguments if word.startswith("top=")]
    places = [word for word in arguments if not word.startswith("top=")]
    top = options[-1] if options else "5"
    if len(places) < 2:
        raise UserError("usage: python -m dl2pa predict RUN IMAGE... [top=5]")
    if not top.isdecimal() or int(top) < 1:
        raise UserError(f"top={top}: use a number from 1 on")
    run, *paths = places
    model = load(run)
    images = torch.stack([model.transform(path) for path in paths])
    with torch.inference_mode():
        scores = torch.cat([model.module(batch) for batch in images.split(256)])
    found = scores.topk(min(int(top), len(model.classes)))
    rows = [("image", "class", model.score)]
    for path, values, labels in zip(paths, found.values.tolist(), found.indices.tolist(), strict=True):
        names = [path, *[""] * (len(labels) - 1)]
        rows += [
            (name, model.classes[label], f"{value:.4f}")
            for name, value, label in zip(names, values, labels, strict=True)
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, label, value in rows:
        print(f"{name:<{widths[0]}}  {label:<{widths[1]}}  {value:>{widths[2]}}")
