"""What the kinds of assignment ask of one another's options, of the loss and of the number of classes."""

from omegaconf import DictConfig, OmegaConf

from dl2pa.errors import UserError
from dl2pa.validate.values import listed, refuse_set

# (key, value): bytes for every pair of classes, at the worst moment (several matrices [C, C]). The other assignments
# hold none: from LARGE classes on they are matched in blocks (assignment/large.py).
_PAIRWISE = {
    ("assignment.statistic", "loss_matrix"): 8,
    ("assignment.name", "sinkhorn"): 36,
    ("assignment.name", "quadratic"): 64,
}
_PAIRWISE_GB = 8


def check_assignment(cfg: DictConfig) -> None:
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
            f"{listed(sorted(known))}; use means or confusion"
        )
    once = f"assignment.similarity={similarity}, by which prototypes are given once, before training"
    why = f"{once}: use assignment=related, or leave it out"
    for key in ("mixed", "every", "warmup", "freeze_after", "hysteresis"):
        refuse_set(cfg, f"assignment.{key}", why)


def _check_learned_warmup(cfg: DictConfig) -> None:
    options, learn = cfg.assignment, f"assignment.learn={cfg.assignment.learn}"
    if cfg.loss.name in ("squared_cosine", "dot_regression"):
        raise UserError(
            f"loss={cfg.loss.name} does not fit {learn}: it is zero when all images and learned class vectors are one "
            f"point, where they would go: use loss=cross_entropy"
        )
    why = f"{learn}, which says when classes are first matched: use assignment.warmup=0"
    refuse_set(cfg, "assignment.warmup", why)
    if options.freeze_after < options.learn:
        raise UserError(
            f"{learn} ends after assignment.freeze_after={options.freeze_after}: use assignment.freeze_after="
            f"{options.learn} for one matching, or more for later ones"
        )
    if options.freeze_after == options.learn < 1:
        for key in ("every", "hysteresis"):
            refuse_set(cfg, f"assignment.{key}", f"assignment.freeze_after={options.freeze_after} and {learn}")
    if cfg.epochs < 2:
        raise UserError(f"epochs={cfg.epochs} does not fit {learn}: use 2 or more, one of them for the prototypes")
