"""A data set by name, balanced or long-tailed, with an optional held-out part of its training images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dl2pa.data.fetch import Request
from dl2pa.data.longtail import longtail_indices, shifted_labels, stratified_holdout
from dl2pa.data.readers import READERS, Source
from dl2pa.data.split import Split, concatenate
from dl2pa.errors import UserError


@dataclass(frozen=True, eq=False)
class Data:
    """``holdout``: training images kept from training, to select on; None if nothing is held out."""

    train: Split
    holdout: Split | None
    test: Split
    class_names: list[str]


def load(
    name: str,
    *,
    num_classes: int,
    imbalance: float | None,
    holdout: float,
    data_root: Path,
    download: bool,
    label_alignment: str = "fixed",
) -> Data:
    """Reads the data set ``name``, one of READERS; its reader says where below ``data_root`` the files lie.

    ``imbalance``: smallest / largest class of the long-tail training set in (0, 1], or None to leave it as it is;
    each published training split is made long-tailed on its own, for one ``holdout`` always with the same images
    (another one has another tail: of CIFAR-10's rarest class no image that holdout=0 trains on). ``holdout``: fraction
    in [0, 1) of each class that is split off before the tail is cut: as many of a rare class as of a common one where
    the published set is balanced, as in ImageNet-LT's own validation images, since the tenth of a tail of 50 images
    would tell nothing. ``label_alignment``: "shifted" gives a long-tail set the labels of the published code (see
    ``shifted_labels``). The test set is never touched.

    Raises UserError if ``name`` has no reader, the data are missing, damaged or not ``num_classes`` classes, or a class
    has none left.
    """
    if name not in READERS:
        raise UserError(f"dataset.source={name}: not one of {', '.join(READERS)}")
    dataset = name if imbalance is None else f"{name}_lt"
    source = READERS[name](Request(name, dataset, Path(data_root).expanduser(), download))
    _check(name, source, num_classes)
    kept, held_out = _held_out(source.train, holdout)
    train = concatenate([_longtail(part, num_classes, imbalance, label_alignment) for part in kept])
    if imbalance is not None:
        _check_longtail(name, source, train, num_classes, imbalance)
    return Data(train, concatenate(held_out) if held_out else None, source.test, source.class_names)


def _held_out(parts: Sequence[Split], fraction: float) -> tuple[Sequence[Split], Sequence[Split]]:
    """(Training, held-out) images of each published training split; none of the latter for a fraction of 0."""
    if fraction == 0:
        return parts, []
    indices = [stratified_holdout(part.labels.numpy(), fraction) for part in parts]
    kept = [part.subset(inside) for part, (inside, _) in zip(parts, indices, strict=True)]
    return kept, [part.subset(outside) for part, (_, outside) in zip(parts, indices, strict=True)]


def _check(name: str, source: Source, num_classes: int) -> None:
    found = len(source.class_names)
    if found != num_classes:
        names = ", ".join(source.class_names[:3])
        raise UserError(
            f"dataset.num_classes={num_classes}: {name} as found on disk has {found} classes ({names}, ...)"
        )
    for split in (*source.train, source.test):
        outside = split.labels[(split.labels < 0) | (split.labels >= num_classes)]
        if len(outside):
            raise UserError(f"dataset {name}: found the label {int(outside[0])}, expected 0 to {num_classes - 1}")


def _longtail(part: Split, num_classes: int, imbalance: float | None, label_alignment: str) -> Split:
    if imbalance is None:
        return part
    labels = part.labels.numpy()
    subset = part.subset(longtail_indices(labels, num_classes, imbalance))
    if label_alignment == "shifted":
        return replace(subset, labels=torch.from_numpy(shifted_labels(labels, num_classes, imbalance)))
    return subset


def _check_longtail(name: str, source: Source, train: Split, num_classes: int, imbalance: float) -> None:
    if source.longtail:
        raise UserError(f"imbalance={imbalance}: {name} is long-tailed as published; leave it null")
    empty = (torch.bincount(train.labels, minlength=num_classes) == 0).nonzero()
    if len(empty):
        raise UserError(f"imbalance={imbalance}: leaves class {int(empty[0])} of {name} without a training image")
