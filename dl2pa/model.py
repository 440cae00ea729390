"""The whole classifier: backbone, neck, optional BatchNorm, head."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.learned import LearnedWarmup
from dl2pa.assignment.matching import match
from dl2pa.assignment.quadratic import Quadratic, arranged
from dl2pa.assignment.sinkhorn import Sinkhorn
from dl2pa.assignment.statistics import Confusion, Directions, EpochMean, Queue, build_statistic
from dl2pa.backbones.base import Backbone
from dl2pa.backbones.build import build_backbone, build_neck
from dl2pa.methods.dnc import NearestCentroidsHead
from dl2pa.methods.heads import Head, PrototypeHead, softmax_head
from dl2pa.methods.subspace import SubspaceHead
from dl2pa.relations import similarity
from dl2pa.seeding import Stream, derive


class Classifier(nn.Module):
    """Images [B, c, H, W] -> (features [B, d], scores [B, C]).

    The network runs in ``dtype``; the embedding's norm, the head and so the loss always in fp32: cosines near one lose
    what the loss is made of in bf16.
    """

    def __init__(self, backbone: Backbone, neck: nn.Module, norm: nn.Module, head: Head, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.norm = norm
        self.head = head
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            embedding = self.neck(self.backbone(images))
        features, scores = self.head(self.norm(embedding.float()))
        return features, scores


def build_model(cfg: DictConfig, prototypes: Tensor | None, dtype: torch.dtype) -> Classifier:
    """The classifier that ``cfg`` describes, on the CPU; weights are a function of cfg.seed alone.

    ``prototypes`` [C, d] are unit rows; None for heads whose class vectors are learned.
    """
    torch.manual_seed(derive(cfg.seed, Stream.WEIGHTS))
    backbone = build_backbone(cfg.backbone.name, cfg.dataset.channels, cfg.backbone.width)
    neck = build_neck(cfg.backbone.neck, backbone.width, cfg.dimension)
    norm = nn.BatchNorm1d(cfg.dimension) if cfg.method.bn else nn.Identity()
    head = _HEADS[cfg.method.head](cfg, prototypes)
    return Classifier(backbone, neck, norm, head, dtype)


def _prototype_head(cfg: DictConfig, prototypes: Tensor | None) -> Head:
    assert prototypes is not None
    mixed = cfg.assignment.mixed == "both"
    return PrototypeHead(prototypes, _assigner(cfg, prototypes), mixed=mixed, normalise=cfg.method.normalise)


def _assigner(cfg: DictConfig, prototypes: Tensor) -> Assigner:
    options = cfg.assignment
    seed = derive(cfg.seed if options.seed is None else options.seed, Stream.ASSIGNMENT)
    generator = torch.Generator().manual_seed(seed)
    num_classes, dimension = prototypes.shape
    timetable = Timetable(cfg.epochs, options.every, options.warmup, options.freeze_after, options.learn)
    if options.name == "static":
        return Assigner(torch.arange(num_classes), timetable, statistic=None)
    first = torch.randperm(num_classes, generator=generator)
    if options.name == "quadratic":
        if options.similarity in ("tree", "words"):
            first = arranged(first, prototypes, similarity(options.similarity, cfg.dataset.source, num_classes), seed)
            return Assigner(first, timetable, statistic=None)
        kind = EpochMean(num_classes, dimension) if options.similarity == "means" else Confusion(num_classes)
        return Quadratic(first, timetable, kind, seed, options.hysteresis)
    statistic = build_statistic(options.statistic, num_classes, dimension, options.momentum, generator)
    if isinstance(statistic, Queue):  # its noise is what the released code matches before the first batch
        first = torch.from_numpy(match(statistic.matchable(prototypes, first), first.numpy(), statistic.seen().numpy()))
    if options.name == "hungarian" and options.learn == 0:
        return Assigner(first, timetable, statistic, options.hysteresis, options.rotate)
    assert isinstance(statistic, Directions)
    if options.name == "sinkhorn":
        return Sinkhorn(prototypes, first, timetable, statistic, options.tau)
    vectors = F.normalize(torch.randn(num_classes, dimension, generator=generator), dim=1)
    return LearnedWarmup(first, timetable, statistic, vectors, options.hysteresis, options.rotate)


def _softmax_head(cfg: DictConfig, prototypes: Tensor | None) -> Head:
    return softmax_head(cfg.method.variant, cfg.dimension, cfg.dataset.num_classes, cfg.method.scale)


def _dnc_head(cfg: DictConfig, prototypes: Tensor | None) -> Head:
    options = cfg.method
    return NearestCentroidsHead(
        cfg.dimension,
        cfg.dataset.num_classes,
        options.vectors,
        bank_batches=options.bank_batches,
        batch_size=cfg.batch_size,
        momentum=options.momentum,
    )


def _subspace_head(cfg: DictConfig, prototypes: Tensor | None) -> Head:
    options = cfg.method
    return SubspaceHead(
        cfg.dimension,
        cfg.dataset.num_classes,
        options.vectors,
        options.scale,
        options.variant,
        options.column_temperature,
    )


_HEADS: dict[str, Callable[[DictConfig, Tensor | None], Head]] = {
    "prototypes": _prototype_head,
    "softmax": _softmax_head,
    "dnc": _dnc_head,
    "subspace": _subspace_head,
}
