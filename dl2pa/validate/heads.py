"""What each head, and its class vectors or prototypes, ask of the rest of the config."""

from collections.abc import Callable

from omegaconf import DictConfig

from dl2pa.backbones.widths import check_channels, feature_width
from dl2pa.errors import UserError
from dl2pa.prototypes.kinds import KINDS, check, check_fit, check_option
from dl2pa.validate.values import expect, listed, refuse_set


def check_head(cfg: DictConfig) -> None:
    """The head is known, fits the backbone's features, and gets what it needs."""
    expect(cfg, "method.head", cfg.method.head in HEADS, f"use one of {listed(HEADS)}")
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
        refuse_set(cfg, f"prototypes.{key}", f"method={cfg.method.name}")
    if cfg.loss.temperature != 1:
        raise UserError(
            f"loss.temperature={cfg.loss.temperature} does not fit method={cfg.method.name}, whose head scales "
            f"its logits itself: use loss=softmax (and method.scale)"
        )


def _check_softmax_head(cfg: DictConfig) -> None:
    variants = ("linear", "cos_unscaled", "cos_scaled", "frozen_linear")
    expect(cfg, "method.variant", cfg.method.variant in variants, f"use one of {listed(variants)}")
    check_learned_head(cfg)


def _check_prototype_head(cfg: DictConfig) -> None:
    kind = cfg.prototypes.kind
    if kind == "none":
        raise UserError(f"prototypes=none does not fit method={cfg.method.name}: use one of {listed(KINDS)}")
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
    expect(cfg, "method.variant", cfg.method.variant in variants, f"use one of {listed(variants)}")
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
            why = f"prototypes={kind}, which reads {listed(reads) or 'no options'}"
            refuse_set(cfg, f"prototypes.{key}", why)
        elif (problem := check_option(key, cfg.prototypes[key])) is not None:
            raise UserError(f"prototypes.{problem}")
