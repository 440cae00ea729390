"""What a single key may hold, and when it is read; messages name the key, its value and what is legal."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dl2pa import identity
from dl2pa.config import Config
from dl2pa.errors import UserError
from dl2pa.prototypes.kinds import MAX_SEED

CHOICES = {
    "dataset.label_alignment": ("fixed", "shifted"),
    "augment.crop": ("pad", "resized"),
    "augment.border": ("zeros", "reflect"),
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
RANGES: dict[str, str] = {
    "imbalance": "(0, 1]",
    "dimension": "[1, inf)",
    "seed": f"[0, {MAX_SEED}]",
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
    "augment.mix_until": "(0, 1]",
    "backbone.width": "[1, inf)",
    "method.scale": "(0, inf)",
    "method.vectors": "[1, inf)",
    "method.column_temperature": "(0, inf)",
    "method.bank_batches": "[1, inf)",
    "method.momentum": "[0, 1)",
    "assignment.seed": f"[0, {MAX_SEED}]",
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
    "augment.mix_until": ("augment.mixup", "augment.cutmix"),
    "augment.border": ("augment.padding",),
    "optimizer.decay": ("optimizer.weight_decay",),
    "schedule.warmup_start": ("schedule.warmup",),
}


def check_values(cfg: DictConfig) -> None:
    """All keys are known, have values, and hold what is legal for each alone."""
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
    for key, legal in CHOICES.items():
        expect(cfg, key, OmegaConf.select(cfg, key) in legal, f"use one of {listed(legal)}")
    for key, interval in RANGES.items():
        value = OmegaConf.select(cfg, key)
        expect(cfg, key, value is None or _inside(value, interval), f"use a number {_said(interval)}")


def check_unread(cfg: DictConfig) -> None:
    """A key that does nothing would give one and the same run several ids."""
    for key, (decider, values) in _READ_BY.items():
        chosen = OmegaConf.select(cfg, decider)
        if chosen not in values:
            refuse_set(cfg, key, f"{decider}={'null' if chosen is None else chosen}: it is read with {listed(values)}")
    for key, needed in _NEEDS_ONE_OF.items():
        if all(OmegaConf.select(cfg, other) == 0 for other in needed):
            unset = OmegaConf.select(identity.defaults(Config), key)
            refuse_set(cfg, key, f"{'=0 and '.join(needed)}=0: use {key}={unset}")


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


def refuse_set(cfg: DictConfig, key: str, why: str) -> None:
    """Refuse a ``key`` that has another value than the schema's where it does nothing."""
    value = OmegaConf.select(cfg, key)
    if value != OmegaConf.select(identity.defaults(Config), key):
        raise UserError(f"{key}={value} does nothing with {why}")


def expect(cfg: DictConfig, key: str, holds: bool, legal: str) -> None:
    """Refuse the value of ``key`` unless it ``holds``."""
    if not holds:
        value = OmegaConf.select(cfg, key)
        raise UserError(f"{key}={'null' if value is None else value} is not legal: {legal}")


def listed(values: Iterable[Any]) -> str:
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
