"""Ranges and combinations that the schema's types cannot say; messages name the key, its value and what is legal."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dl2pa import identity
from dl2pa.backbones.widths import check_channels, feature_width
from dl2pa.config import Config
from dl2pa.errors import UserError
from dl2pa.prototypes.kinds import KINDS, check, check_fit, check_option

_CHOICES = {
    "dataset.label_alignment": ("fixed", "shifted"),
    "augment.crop": ("pad", "resized"),
    "augment.policy": ("none", "trivial", "auto"),
    "augment.target": ("soft", "dominant"),
    "backbone.neck": ("none", "linear", "mlp"),
    "assignment.name": ("static", "hungarian", "quadratic", "sinkhorn"),
    "assignment.similarity": ("means", "confusion", "tree", "words"),
    "assignment.statistic": ("queue", "ema", "epoch_mean", "loss_matrix"),
    "assignment.mixed": ("both", "first"),
    "loss.name": ("squared_cosine", "dot_regression", "cross_entropy"),
    "loss.reduction": ("mean", "sum"),
    "loss.weights": ("batch", "global"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.decay": ("all", "weights"),
    "schedule.name": ("step", "cosine", "linear"),
    "schedule.per": ("epoch", "step"),
    "logger.name": ("local", "wandb"),
}
# Intervals in the notation of mathematics. A key that is null is not checked.
_RANGES: dict[str, str] = {
    "imbalance": "(0, 1]",
    "dimension": "[1, inf)",
    "seed": "[0, 4294967295]",  # numpy pads a longer one into the next word of its entropy
    "epochs": "[1, inf)",
    "batch_size": "[2, inf)",  # BatchNorm cannot normalise one image
    "max_steps": "[1, inf)",
    "holdout": "[0, 0.9]",
    "eval_every": "[1, inf)",
    "dataset.num_classes": "[2, inf)",
    "dataset.channels": "[1, inf)",
    "dataset.size": "[1, inf)",
    "dataset.resize": "[1, inf)",
    "augment.padding": "[0, inf)",
    "augment.jitter": "[0, 1]",
    "augment.erase": "[0, 1]",
    "augment.cutout": "[0, inf)",
    "augment.mixup": "[0, inf)",
    "augment.cutmix": "[0, inf)",
    "backbone.width": "[1, inf)",
    "method.scale": "(0, inf)",
    "method.vectors": "[1, inf)",
    "method.column_temperature": "(0, inf)",
    "method.bank_batches": "[1, inf)",
    "method.momentum": "[0, 1)",
    "assignment.seed": "[0, 4294967295]",
    "assignment.momentum": "[0, 1)",
    "assignment.warmup": "[0, 1]",
    "assignment.freeze_after": "[0, 1]",
    "assignment.hysteresis": "[0, inf)",
    "assignment.learn": "[0, 1]",
    "assignment.tau": "(0, inf)",
    "loss.temperature": "(0, inf)",
    "loss.smoothing": "[0, 1)",
    "loss.adjust": "[0, inf)",
    "optimizer.lr": "(0, inf)",
    "optimizer.weight_decay": "[0, inf)",
    "optimizer.momentum": "[0, 1)",
    "optimizer.clip": "(0, inf)",
    "schedule.warmup": "[0, 1]",
    "schedule.warmup_start": "[0, 1]",
    "schedule.floor": "[0, 1]",
    "schedule.gamma": "(0, inf)",
    "runtime.workers": "[0, inf)",
    "runtime.threads": "[1, inf)",
    "runtime.eval_batch_size": "[1, inf)",
    "runtime.checkpoint_minutes": "(0, inf)",
    "logger.finish_seconds": "[0, inf)",
}
# key: the key that decides whether it is read, and the values of that key under which it is
_READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"assignment.{key}": ("assignment.name", ("hungarian", "quadratic", "sinkhorn"))
        for key in ("seed", "mixed", "every", "warmup", "freeze_after")
    },
    "assignment.statistic": ("assignment.name", ("hungarian", "sinkhorn")),
    "assignment.hysteresis": ("assignment.name", ("hungarian", "quadratic")),
    "assignment.rotate": ("assignment.name", ("hungarian",)),
    "assignment.learn": ("assignment.name", ("hungarian",)),
    "assignment.similarity": ("assignment.name", ("quadratic",)),
    "assignment.tau": ("assignment.name", ("sinkhorn",)),
    "assignment.momentum": ("assignment.statistic", ("queue", "ema")),
    **{f"loss.{key}": ("loss.name", ("cross_entropy",)) for key in ("temperature", "smoothing", "adjust")},
    "loss.weights": ("loss.name", ("dot_regression",)),
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "optimizer.nesterov": ("optimizer.name", ("sgd",)),
    "schedule.milestones": ("schedule.name", ("step",)),
    "schedule.gamma": ("schedule.name", ("step",)),
    "schedule.floor": ("schedule.name", ("cosine", "linear")),
    "method.variant": ("method.head", ("softmax", "subspace")),
    "method.scale": ("method.variant", ("cos_scaled", "norm", "soft_columns", "signed")),
    "method.normalise": ("method.head", ("prototypes",)),
    "method.vectors": ("method.head", ("dnc", "subspace")),
    "method.column_temperature": ("method.variant", ("soft_columns",)),
    "method.bank_batches": ("method.head", ("dnc",)),
    "method.momentum": ("method.head", ("dnc",)),
    "augment.padding": ("augment.crop", ("pad",)),
}
# key: it is read where one of these is over 0
_NEEDS_ONE_OF = {
    "augment.target": ("augment.mixup", "augment.cutmix"),
    "optimizer.decay": ("optimizer.weight_decay",),
    "schedule.warmup_start": ("schedule.warmup",),
}
# (key, value): bytes for every pair of classes, at the worst moment (several matrices [C, C]). The other assignments
# hold none: from 3,000 classes on they are matched in blocks (assignment/large.py).
_PAIRWISE = {
    ("assignment.statistic", "loss_matrix"): 8,
    ("assignment.name", "sinkhorn"): 36,
    ("assignment.name", "quadratic"): 64,
}
_PAIRWISE_GB = 8
# dataset.source: those that are read whole, in the size they have.
_ARRAYS = ("digits", "cifar10", "cifar100", "svhn", "stl10")


def validate(cfg: DictConfig) -> None:
    """Check a composed config before anything is read or written.

    Raises:
        UserError: the first thing found wrong.
    """
    if unknown := _unknown(cfg):  # +KEY=VALUE adds what nothing reads
        raise UserError(f"{unknown}={OmegaConf.select(cfg, unknown)}: no such key; python launch.py --help lists them")
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value: give one") from None
    except OmegaConfBaseException as error:
        # Our own errors come in OmegaConf's wrapping: of a backbone whose width a default dimension is worked out from.
        message = str(error).splitlines()[0].removeprefix("UserError raised while resolving interpolation: ")
        raise UserError(message) from None
    _expect(cfg, "method.head", cfg.method.head in HEADS, f"use one of {_listed(HEADS)}")
    for key, legal in _CHOICES.items():
        _expect(cfg, key, OmegaConf.select(cfg, key) in legal, f"use one of {_listed(legal)}")
    for key, interval in _RANGES.items():
        value = OmegaConf.select(cfg, key)
        _expect(cfg, key, value is None or _inside(value, interval), f"use a number {_said(interval)}")
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
    _check_head(cfg)
    _check_times(cfg)
    _check_unread(cfg)
    _check_assignment(cfg)


def _check_unread(cfg: DictConfig) -> None:
    """A key that does nothing would give one and the same run several ids."""
    for key, (decider, values) in _READ_BY.items():
        chosen = OmegaConf.select(cfg, decider)
        if chosen not in values:
            _refuse_set(
                cfg, key, f"{decider}={'null' if chosen is None else chosen}: it is read with {_listed(values)}"
            )
    for key, needed in _NEEDS_ONE_OF.items():
        if all(OmegaConf.select(cfg, other) == 0 for other in needed):
            _refuse_set(cfg, key, f"{'=0 and '.join(needed)}=0")


def _check_data(cfg: DictConfig) -> None:
    name, channels = cfg.dataset.name, cfg.dataset.channels
    if cfg.dataset.source in _ARRAYS:
        for key in ("augment.crop", "dataset.resize", "augment.jitter"):
            _refuse_set(cfg, key, f"dataset={name}, which is no data set of image files")
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


def _check_head(cfg: DictConfig) -> None:
    width = feature_width(cfg.backbone.name, cfg.backbone.width)
    check_channels(cfg.backbone.name, cfg.dataset.channels)
    d = cfg.dimension
    if cfg.backbone.neck == "none" and d != width:
        raise UserError(
            f"dimension={d} does not fit backbone={cfg.backbone.name}, whose features have {width}: "
            f"use dimension={width}, or backbone.neck=linear or mlp for another dimension"
        )
    HEADS[cfg.method.head](cfg)


def check_learned_head(cfg: DictConfig) -> None:
    """For heads that learn their class vectors: they have logits, and nothing to assign."""
    for key, value, legal, why in (
        ("prototypes", cfg.prototypes.kind, "none", "which learns its class vectors"),
        ("assignment", cfg.assignment.name, "static", "which has no prototypes to assign"),
        ("loss", cfg.loss.name, "cross_entropy", "whose scores are logits"),
    ):
        if value != legal:
            option = "softmax" if key == "loss" else legal
            raise UserError(f"{key}={value} does not fit method={cfg.method.name}, {why}: use {key}={option}")
    for key in sorted(set(cfg.prototypes) - {"kind"}):
        _refuse_set(cfg, f"prototypes.{key}", f"method={cfg.method.name}")
    if cfg.loss.temperature != 1:
        raise UserError(
            f"loss.temperature={cfg.loss.temperature} does not fit method={cfg.method.name}, whose head scales "
            f"its logits itself: use loss=softmax (and method.scale)"
        )


def _check_softmax_head(cfg: DictConfig) -> None:
    variants = ("linear", "cos_unscaled", "cos_scaled", "frozen_linear")
    _expect(cfg, "method.variant", cfg.method.variant in variants, f"use one of {_listed(variants)}")
    check_learned_head(cfg)


def _check_prototype_head(cfg: DictConfig) -> None:
    kind = cfg.prototypes.kind
    if kind == "none":
        raise UserError(f"prototypes=none does not fit method={cfg.method.name}: use one of {_listed(KINDS)}")
    if (problem := check(kind, cfg.dataset.num_classes, cfg.dimension)) is not None:
        raise UserError(problem)
    if not cfg.method.normalise and cfg.loss.name == "squared_cosine":
        raise UserError(
            f"method.normalise=false does not fit loss={cfg.loss.name}, which compares directions: "
            f"use loss=cross_entropy or dot_regression"
        )
    if cfg.loss.adjust != 0 and cfg.assignment.name == "hungarian" and cfg.assignment.statistic == "loss_matrix":
        raise UserError(
            f"assignment.statistic=loss_matrix does not fit loss.adjust={cfg.loss.adjust}, under which the loss of one "
            f"class depends on what prototypes the others own: use epoch_mean, ema or queue"
        )
    if cfg.loss.adjust != 0 and cfg.assignment.name == "quadratic" and cfg.assignment.similarity == "confusion":
        raise UserError(
            f"assignment.similarity=confusion does not fit loss.adjust={cfg.loss.adjust}, whose loss takes an image "
            f"for another class than the scores do: use means"
        )
    _check_prototypes(cfg)
    options = {str(key): value for key, value in cfg.prototypes.items() if key != "kind"}
    if (problem := check_fit(kind, cfg.dataset.num_classes, cfg.dimension, **options)) is not None:
        raise UserError(problem)


def _check_subspace_head(cfg: DictConfig) -> None:
    variants = ("norm", "soft_columns", "signed")
    _expect(cfg, "method.variant", cfg.method.variant in variants, f"use one of {_listed(variants)}")
    if cfg.method.vectors > cfg.dimension:
        raise UserError(
            f"method.vectors={cfg.method.vectors} does not fit dimension={cfg.dimension}, which holds no more than "
            f"{cfg.dimension} orthonormal columns"
        )
    if cfg.method.variant == "norm" and cfg.method.vectors == cfg.dimension:
        raise UserError(
            f"method.vectors={cfg.method.vectors} does not fit method.variant=norm at dimension={cfg.dimension}: a "
            f"class that spans all of it has the same score for every image; use fewer vectors"
        )
    if cfg.method.variant == "signed" and cfg.method.vectors != 1:
        raise UserError(
            f"method.vectors={cfg.method.vectors} does not fit method.variant=signed, a single direction a class: "
            f"use method.vectors=1"
        )
    check_learned_head(cfg)


# What each method.head asks of the rest of the config.
HEADS: dict[str, Callable[[DictConfig], None]] = {
    "prototypes": _check_prototype_head,
    "softmax": _check_softmax_head,
    "dnc": check_learned_head,
    "subspace": _check_subspace_head,
}


def _check_prototypes(cfg: DictConfig) -> None:
    kind = cfg.prototypes.kind
    if kind == "file" and cfg.prototypes.file is None:
        raise UserError("prototypes.file=null does not fit prototypes=file: use prototypes.file=PATH")
    reads = KINDS[kind].reads
    for key in sorted(set(cfg.prototypes) - {"kind"}):
        if key not in reads:
            why = f"prototypes={kind}, which reads {_listed(reads) or 'no options'}"
            _refuse_set(cfg, f"prototypes.{key}", why)
        elif (problem := check_option(key, cfg.prototypes[key])) is not None:
            raise UserError(f"prototypes.{problem}")


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


def _check_assignment(cfg: DictConfig) -> None:
    """What the kinds of assignment ask of one another's options, and of the loss."""
    options = cfg.assignment
    directions = "which needs a direction for each class: use assignment.statistic=epoch_mean, ema or queue"
    for key, chosen in (
        ("assignment.rotate=true", options.rotate),
        (f"assignment.learn={options.learn}", options.learn > 0),
        ("assignment=sinkhorn", options.name == "sinkhorn"),
    ):
        if chosen and options.statistic == "loss_matrix":
            raise UserError(f"assignment.statistic=loss_matrix does not fit {key}, {directions}")
    for (key, value), size in _PAIRWISE.items():
        most = int((_PAIRWISE_GB * 1e9 / size) ** 0.5)
        if options.name != "static" and OmegaConf.select(cfg, key) == value and cfg.dataset.num_classes > most:
            raise UserError(
                f"{key}={value} does not fit dataset.num_classes={cfg.dataset.num_classes}: it takes {size} bytes for "
                f"every pair of classes, {size * cfg.dataset.num_classes**2 / 1e9:.0f} GB, and is meant for at most "
                f"{most} classes ({_PAIRWISE_GB} GB): use assignment=hungarian with assignment.statistic=epoch_mean, "
                f"ema or queue"
            )
    if options.name == "sinkhorn" and options.every == "step":
        raise UserError("assignment.every=step does not fit assignment=sinkhorn: use a number of epochs from 1 on")
    if options.name == "quadratic" and options.similarity in ("tree", "words"):
        _check_known_similarity(cfg)
    if options.learn > 0:
        _check_learned_warmup(cfg)


def _check_known_similarity(cfg: DictConfig) -> None:
    from dl2pa.data.superclasses import GROUPED  # these import numpy, which no other config needs here
    from dl2pa.prototypes.words import NAMED

    similarity = cfg.assignment.similarity
    known = {"tree": GROUPED, "words": NAMED}[similarity]
    if cfg.dataset.source not in known:
        raise UserError(
            f"assignment.similarity={similarity} does not fit dataset={cfg.dataset.name}: it is known for "
            f"{_listed(sorted(known))}; use means or confusion"
        )
    why = f"assignment.similarity={similarity}, by which prototypes are given once, before training: leave it out"
    for key in ("mixed", "every", "warmup", "freeze_after", "hysteresis"):
        _refuse_set(cfg, f"assignment.{key}", why)


def _check_learned_warmup(cfg: DictConfig) -> None:
    options, learn = cfg.assignment, f"assignment.learn={cfg.assignment.learn}"
    if cfg.loss.name in ("squared_cosine", "dot_regression"):
        raise UserError(
            f"loss={cfg.loss.name} does not fit {learn}: it is zero when all images and learned class vectors are one "
            f"point, where they would go: use loss=cross_entropy"
        )
    why = f"{learn}, which says when classes are first matched: use assignment.warmup=0"
    _refuse_set(cfg, "assignment.warmup", why)
    if options.freeze_after < options.learn:
        raise UserError(
            f"{learn} ends after assignment.freeze_after={options.freeze_after}: use assignment.freeze_after="
            f"{options.learn} for one matching, or more for later ones"
        )
    if options.freeze_after == options.learn < 1:
        for key in ("every", "hysteresis"):
            _refuse_set(cfg, f"assignment.{key}", f"assignment.freeze_after={options.freeze_after} and {learn}")
    if cfg.epochs < 2:
        raise UserError(f"epochs={cfg.epochs} does not fit {learn}: use 2 or more, one of them for the prototypes")


@cache
def _known() -> dict[str, set[str]]:
    """The schema's keys and, of those that are groups, the keys in them."""
    schema = identity.defaults(Config)
    groups = {key: None if OmegaConf.is_missing(schema, key) else schema[key] for key in map(str, schema)}
    return {key: set(map(str, group)) if isinstance(group, DictConfig) else set() for key, group in groups.items()}


def _unknown(cfg: DictConfig) -> str | None:
    """The first key, by its dotted name, that the schema does not have."""
    known = _known()
    for key in map(str, cfg):
        if key not in known:
            return key
        if known[key] and (more := sorted(set(map(str, cfg[key])) - known[key])):
            return f"{key}.{more[0]}"
    return None


def _refuse_set(cfg: DictConfig, key: str, why: str) -> None:
    """Refuse a ``key`` that has another value than the schema's where it does nothing."""
    value = OmegaConf.select(cfg, key)
    if value != OmegaConf.select(identity.defaults(Config), key):
        raise UserError(f"{key}={value} does nothing with {why}")


def _expect(cfg: DictConfig, key: str, holds: bool, legal: str) -> None:
    if not holds:
        value = OmegaConf.select(cfg, key)
        raise UserError(f"{key}={'null' if value is None else value} is not legal: {legal}")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join("null" if value is None else str(value) for value in values)


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    return (value >= low if interval[0] == "[" else value > low) and (
        value <= high if interval[-1] == "]" else value < high
    )


def _said(interval: str) -> str:
    low, high = interval[1:-1].split(", ")
    start = f"from {low}" if interval[0] == "[" else f"over {low}"
    end = "on" if high == "inf" else f"up to {high}" if interval[-1] == "]" else f"on, below {high}"
    return f"{start} {end}"
