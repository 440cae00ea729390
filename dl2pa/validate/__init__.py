"""Ranges and combinations that the schema's types cannot say; messages name the key, its value and what is legal."""

from omegaconf import DictConfig

from dl2pa.errors import UserError
from dl2pa.validate.assignments import check_assignment
from dl2pa.validate.heads import check_head
from dl2pa.validate.values import check_unread, check_values, expect, refuse_set

# dataset.source: those that are read whole, in the size they have.
_ARRAYS = ("digits", "cifar10", "cifar100", "svhn", "stl10")


def validate(cfg: DictConfig) -> None:
    """Check a composed config before anything is read or written.

    Raises:
        UserError: the first thing found wrong.
    """
    check_values(cfg)
    if cfg.runtime.ddp and cfg.runtime.compile:
        raise UserError(
            "runtime.compile=true does not fit runtime.ddp=true, a step over several processes: use null or false"
        )
    if cfg.runtime.ddp and cfg.device.startswith("cuda:"):
        raise UserError(
            f"device={cfg.device} does not fit runtime.ddp=true, where each process has a device of its own: use "
            f"device=cuda or auto"
        )
    _check_data(cfg)
    check_head(cfg)
    _check_times(cfg)
    check_unread(cfg)
    check_assignment(cfg)


def _check_data(cfg: DictConfig) -> None:
    name, channels = cfg.dataset.name, cfg.dataset.channels
    if cfg.dataset.source in _ARRAYS:
        for key in ("augment.crop", "dataset.resize", "augment.jitter"):
            refuse_set(cfg, key, f"dataset={name}, which is no data set of image files")
    if cfg.dataset.label_alignment != "fixed" and (cfg.dataset.source != "svhn" or cfg.imbalance is None):
        raise UserError(
            f"dataset.label_alignment={cfg.dataset.label_alignment} does not fit dataset={name}: it is SVHN-LT alone "
            f"whose labels the released code shifts"
        )
    for key in ("mean", "std"):
        values = list(cfg.dataset[key])
        if len(values) != channels or (key == "std" and not all(value > 0 for value in values)):
            above = " over 0" if key == "std" else ""
            raise UserError(f"dataset.{key}={values} is not legal: use {channels} numbers{above}, one a channel")
    if cfg.dataset.resize is not None and cfg.dataset.resize < cfg.dataset.size:
        raise UserError(
            f"dataset.resize={cfg.dataset.resize} is not legal: use dataset.size={cfg.dataset.size} or more"
        )
    if cfg.augment.border == "reflect" and cfg.augment.padding >= cfg.dataset.size:
        raise UserError(
            f"augment.padding={cfg.augment.padding} is not legal with augment.border=reflect: use less than "
            f"dataset.size={cfg.dataset.size}"
        )
    expect(cfg, "augment.views", cfg.augment.views in (1, 2, 6), "use one of 1, 2, 6")
    if cfg.augment.views > 1 and not cfg.augment.flip:
        raise UserError(
            f"augment.views={cfg.augment.views} does not fit augment.flip=false: a network that is trained on no "
            f"mirror images is not judged by them; use augment.views=1"
        )
    if cfg.augment.cutout > cfg.dataset.size:
        raise UserError(
            f"augment.cutout={cfg.augment.cutout} is not legal: use at most dataset.size={cfg.dataset.size} pixels"
        )
    if cfg.dataset.long_tail and cfg.imbalance is None:
        raise UserError(f"imbalance=null does not fit dataset={name}: use a number over 0 up to 1")
    if not cfg.dataset.long_tail and cfg.imbalance is not None:
        raise UserError(
            f"imbalance={cfg.imbalance} does not fit dataset={name}, which is used as it is: "
            f"use imbalance=null or a long-tail data set such as cifar10_lt"
        )


def _check_times(cfg: DictConfig) -> None:
    every = cfg.assignment.every
    if every != "step" and not (isinstance(every, int) and not isinstance(every, bool) and every >= 1):
        raise UserError(f"assignment.every={every} is not legal: use a number of epochs from 1 on, or step")
    if cfg.assignment.warmup > cfg.assignment.freeze_after:
        raise UserError(
            f"assignment.warmup={cfg.assignment.warmup} ends after assignment.freeze_after="
            f"{cfg.assignment.freeze_after}: no class could ever move"
        )
    if cfg.optimizer.nesterov and cfg.optimizer.momentum == 0:
        raise UserError("optimizer.nesterov=true does not fit optimizer.momentum=0.0: use a momentum over 0")
    milestones = list(cfg.schedule.milestones)
    if milestones != sorted(milestones) or not all(0 < milestone <= 1 for milestone in milestones):
        raise UserError(
            f"schedule.milestones={milestones} is not legal: use rising shares of the epochs over 0 up to 1"
        )
