"""What a config is made of: its data, prototypes, trainer and evaluation, each built here from the schema's keys."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from dl2pa import ranks
from dl2pa.compiled import Compiler, pays
from dl2pa.data import datasets, loader
from dl2pa.data.datasets import Data
from dl2pa.data.split import Split
from dl2pa.data.transforms import ImageTransform
from dl2pa.device import DTYPES
from dl2pa.evaluate import Batches, Evaluation
from dl2pa.losses import build_cost, log_prior
from dl2pa.metrics import long_tailed
from dl2pa.mixing import Mixing
from dl2pa.model import build_model
from dl2pa.optimizer import make_optimizer
from dl2pa.prototypes import build as prototypes
from dl2pa.prototypes.kinds import KINDS
from dl2pa.relations import superclass_of
from dl2pa.schedule import Schedule
from dl2pa.trainer import Trainer

SAMPLE = 2048  # training images from which a backbone computes what is fixed before training


def load_data(cfg: DictConfig) -> Data:
    """The images that ``cfg`` trains on and is judged by, downloaded if need be and allowed."""
    return datasets.load(
        cfg.dataset.source,
        num_classes=cfg.dataset.num_classes,
        imbalance=cfg.imbalance,
        holdout=cfg.holdout,
        data_root=Path(cfg.data_root),
        download=cfg.download,
        label_alignment=cfg.dataset.label_alignment,
    )


def make_prototypes(cfg: DictConfig, keep: bool = True) -> Tensor | None:
    """The prototypes [C, d] of ``cfg``, from the cache under data_root or built; None for methods that learn them.

    ``keep`` what is built there; where the folder cannot be written that is left out, with a warning.
    """
    options = cfg.prototypes
    if options.kind == "none":
        return None
    seed = cfg.seed if options.seed is None else options.seed
    read = {name: options[name] for name in KINDS[options.kind].reads if name != "seed"}
    cache = Path(cfg.data_root) / "prototypes"
    return prototypes.cached(cache, cfg.dataset.num_classes, cfg.dimension, options.kind, seed, keep, **read)


def make_trainer(
    cfg: DictConfig, data: Data, device: torch.device, precision: str, say: Callable[[str], None] = print
) -> Trainer:
    """Everything that ``cfg`` trains with, at the start of its first epoch; ``say`` gets warnings."""
    counts = _train_counts(cfg, data)
    model = build_model(cfg, make_prototypes(cfg), DTYPES[precision])
    model.backbone.fit(lambda: _sample(cfg, data.train))
    # channels_last: convolutions run 1.1 to 1.5 times faster on both kinds of hardware.
    model = model.to(device).to(memory_format=torch.channels_last)
    ranks.synchronise(model)
    schedule = cfg.schedule
    part = ranks.part(partner=cfg.augment.mixup > 0 or cfg.augment.cutmix > 0)
    return Trainer(
        model=model,
        cost=build_cost(
            cfg.loss.name,
            cfg.loss.weights,
            cfg.loss.temperature,
            counts.to(device),
            cfg.loss.smoothing,
            cfg.loss.adjust,
        ),
        reduction=cfg.loss.reduction,
        optimizer=make_optimizer(cfg, model),
        schedule=Schedule(
            schedule.name,
            cfg.epochs,
            schedule.per,
            schedule.warmup,
            list(schedule.milestones),
            schedule.gamma,
            schedule.warmup_start,
            schedule.floor,
        ),
        loader=loader.training_loader(
            data.train,
            image_transform(cfg),
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            part=part,
            **_reading(cfg, device),
        ),
        num_classes=cfg.dataset.num_classes,
        dimension=cfg.dimension,
        mixing=Mixing(
            cfg.augment.mixup,
            cfg.augment.cutmix,
            cfg.augment.target,
            cfg.dataset.size,
            cfg.seed,
            device,
            epochs=max(1, round(cfg.augment.mix_until * cfg.epochs)),
            part=part,
        ),
        lr=cfg.optimizer.lr,
        seed=cfg.seed,
        epochs=cfg.epochs,
        max_steps=cfg.max_steps,
        device=device,
        compiler=Compiler(pays(cfg.runtime.compile, device, ranks.count()), device, say),
        clip=cfg.optimizer.clip,
        part=part,
    )


def make_evaluation(cfg: DictConfig, data: Data, device: torch.device, between: Callable[[], None]) -> Evaluation:
    """How ``cfg`` judges its model: on the test split and, where there is one, the holdout split."""
    transform = image_transform(cfg)
    full = transform.size if transform.resize is None else transform.resize

    def batches(split: Split, transform: ImageTransform) -> Batches:
        split, size = split.to(device), cfg.runtime.eval_batch_size
        reading = {"batch_size": size, "part": ranks.part(), **_reading(cfg, device)}
        return lambda: loader.evaluation_batches(split, transform, **reading)

    groups = superclass_of(cfg.dataset.source, cfg.dataset.num_classes)
    counts = _train_counts(cfg, data)
    left_in = None
    if cfg.loss.name == "cross_entropy" and counts.min() > 0 and long_tailed(counts.tolist()):
        left_in = ((1 - cfg.loss.adjust) * log_prior(counts)).to(device)
    return Evaluation(
        test=batches(data.test, transform),
        holdout=None if data.holdout is None else batches(data.holdout, transform),
        uncropped=batches(data.test, replace(transform, size=full)) if full > transform.size else None,
        train_counts=counts.tolist(),
        superclasses=None if groups is None else groups.to(device),
        temperature=cfg.loss.temperature,
        left_in=left_in,
        device=device,
        between=between,
        views=cfg.augment.views,
    )


def image_transform(cfg: DictConfig) -> ImageTransform:
    return ImageTransform(
        cfg.dataset.size,
        train_crop=cfg.augment.crop,
        padding=cfg.augment.padding,
        border=cfg.augment.border,
        flip=cfg.augment.flip,
        resize=cfg.dataset.resize,
        jitter=cfg.augment.jitter,
        policy=cfg.augment.policy,
        erase=cfg.augment.erase,
        cutout=cfg.augment.cutout,
    )


def _reading(cfg: DictConfig, device: torch.device) -> dict[str, Any]:
    return {"device": device, "mean": cfg.dataset.mean, "std": cfg.dataset.std, "workers": cfg.runtime.workers}


def _sample(cfg: DictConfig, split: Split) -> Tensor:
    """[N, c, H, W]: training images from all over the split, as evaluation sees them, on the CPU."""
    chosen = split.subset(np.linspace(0, len(split) - 1, min(len(split), SAMPLE), dtype=np.int64))
    reading = _reading(cfg, torch.device("cpu"))
    batches = loader.evaluation_batches(chosen, image_transform(cfg), batch_size=SAMPLE, **reading)
    return next(batches)[0]


def _train_counts(cfg: DictConfig, data: Data) -> Tensor:
    return torch.bincount(data.train.labels, minlength=cfg.dataset.num_classes)
