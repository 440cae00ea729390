"""The schema of a run: every key with its type and default. Ranges and combinations are checked in validate/.

A default here never changes once a run has been stored: identity.py leaves out of a run's id every key that equals its
default, so a new key's default must mean what was done before the key existed.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from dl2pa.backbones.widths import feature_width
from dl2pa.prototypes.kinds import Options


class Precision(Enum):
    """Arithmetic of the forward and backward pass. ``auto`` is bf16 where the hardware has it and it is faster."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@dataclass
class DatasetConfig:
    """Facts about a data set; what a run does with it (augmentation, epochs, ...) are keys of their own."""

    name: str = MISSING
    source: str = MISSING  # the images it is made of: a name in data/datasets.py
    num_classes: int = MISSING
    default_dimension: int | None = None  # d where neither method nor command line says one
    long_tail: bool = False
    channels: int = 3
    size: int = MISSING  # pixels a side that the network sees
    mean: list[float] = MISSING
    std: list[float] = MISSING
    label_alignment: str = "fixed"  # fixed | shifted: SVHN-LT only (docs/compat.md)
    resize: int | None = None  # evaluation: short side before the centre crop, pixels


@dataclass
class AugmentConfig:
    """Training augmentation, in this order, drawn per image; mixup and cutmix are one lambda and one box a batch.

    ``views`` alone is of images that are judged.
    """

    crop: str = "pad"  # pad: pad and crop at random | resized: random resized crop
    padding: int = 0  # pixels
    border: str = "zeros"  # of the padding: zeros | reflect: the image's own pixels, mirrored at its edge
    flip: bool = False
    jitter: float = 0.0  # brightness, contrast and saturation
    policy: str = "none"  # none | trivial: TrivialAugmentWide | auto: AutoAugment, CIFAR-10's; on files ImageNet's
    erase: float = 0.0  # probability that a rectangle becomes the mean colour
    cutout: int = 0  # side in pixels of a square that becomes the mean colour; 0 is none
    mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0 is none
    cutmix: float = 0.0  # likewise; with mixup too, each batch gets one of the two
    mix_until: float = 1.0  # share of the epochs, rounded and one at least, after which images are mixed no more
    target: str = "soft"  # of a mixed image: both labels by their share | dominant: the larger share's alone
    # Of a test image, over which its scores are averaged: 1: itself alone | 2: mirrored, too | 6: both of them moved by
    # one pixel, too
    views: int = 1


@dataclass
class BackboneConfig:
    """Network from images to features, and the neck from features to the d dimensions of the metric space."""

    name: str = MISSING
    width: int | None = None  # feature width where the architecture leaves it open
    neck: str = "none"  # none | linear | mlp


@dataclass
class MethodConfig:
    """What turns the d-dimensional embedding into class scores."""

    name: str = MISSING
    head: str = MISSING  # prototypes | softmax | dnc | subspace
    # softmax head: linear | cos_unscaled | cos_scaled | frozen_linear; subspace head: norm | soft_columns | signed
    variant: str | None = None
    scale: float = 10.0  # of cos_scaled's and the subspace head's logits
    bn: bool = False  # affine BatchNorm of the embedding before the head (Yang et al. 2022)
    normalise: bool = True  # prototypes head: cosines; false takes the embedding's length into the scores
    vectors: int = 1  # vectors of a class: dnc's sub-centroids, the subspace head's columns
    column_temperature: float = 0.1  # of soft_columns' weights over the columns
    bank_batches: int = 10  # dnc: batches between two updates of the sub-centroids
    momentum: float = 0.9  # dnc: share of a sub-centroid that an update keeps


@dataclass
class PrototypesConfig(Options):
    """Fixed class prototypes; the kinds, and which of the options each reads, are in prototypes/kinds.py.

    ``seed`` null follows the run's seed.
    """

    kind: str = MISSING


@dataclass
class AssignmentConfig:
    """Which prototype each class owns, and when that is decided anew."""

    name: str = MISSING  # static | hungarian | quadratic | sinkhorn
    seed: int | None = None  # of the first permutation; null follows the run's seed
    statistic: str = "epoch_mean"  # queue | ema | epoch_mean | loss_matrix
    momentum: float = 0.9  # of queue and ema
    mixed: str = "both"  # mixup images count for both labels by their share, or for the first alone
    every: Any = 1  # epochs between matchings, or "step"
    warmup: float = 0.0  # share of the epochs before the first matching
    freeze_after: float = 0.4  # share of the epochs after which no class moves any more
    # Smallest gain for which classes are moved: per class a cosine (with quadratic a sum of cosines), with loss_matrix
    # the loss per image.
    hysteresis: float = 0.0
    rotate: bool = False  # turn the prototypes as one body, too, when classes are matched
    learn: float = 0.0  # share of the epochs in which class vectors are learned, before the first matching
    similarity: str = "means"  # of classes, for quadratic: means | confusion | tree | words
    tau: float = 0.1  # temperature of sinkhorn's first plan, in cosines


@dataclass
class LossConfig:
    """How far an embedding is from its class, and how a batch is summed up."""

    name: str = MISSING  # squared_cosine | dot_regression | cross_entropy
    reduction: str = "mean"  # sum | mean
    weights: str = "batch"  # dot_regression's E: from the batch | global: from the training counts
    temperature: float = 1.0  # cross_entropy
    smoothing: float = 0.0  # cross_entropy: share of the target that is spread over all classes
    adjust: float = 0.0  # cross_entropy: times the log prior on the training logits; 1 is the balanced softmax


@dataclass
class OptimizerConfig:
    name: str = MISSING  # sgd | adamw
    lr: float = MISSING
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    decay: str = "all"  # what weight_decay acts on: all | weights: neither biases nor norms
    clip: float | None = None  # largest norm of the gradient


@dataclass
class ScheduleConfig:
    """Learning-rate factor over a run; shares are of the epochs, so the whole shape scales with ``epochs``."""

    name: str = MISSING  # step | cosine | linear
    per: str = "epoch"  # the factor changes once an epoch | with every step
    warmup: float = 0.0  # share of the epochs over which the factor rises from 0 to 1
    milestones: list[float] = field(default_factory=list)  # shares at which step multiplies by gamma
    gamma: float = 0.1
    warmup_start: float = 0.0  # factor of the warm-up's first epoch (step); with 0 the first of n has 1 / n
    floor: float = 0.0  # factor that cosine and linear fall to


@dataclass
class RecipeConfig:
    """Backbone, optimizer, schedule, epochs, batch and augmentation together; the choice acts through those keys."""

    name: str = "paper"
    reduction: str = "mean"  # of the squared cosine: the published recipes for balanced data take the sum


@dataclass
class CompatConfig:
    """The fixed behaviour, or every switch at the released code's behaviour (docs/compat.md)."""

    name: str = "none"
    prototypes: str = MISSING
    statistic: str = MISSING
    mixed: str = MISSING
    freeze_after: float = MISSING
    label_alignment: str = MISSING
    psc_variant: str = MISSING
    dnc_bank_batches: int = MISSING
    dnc_momentum: float = MISSING
    target: str = MISSING


@dataclass
class RuntimeConfig:
    """Changes speed, never results: no part of a run's identity."""

    workers: int = 2  # loader processes, for image folders
    threads: int | None = None  # CPU threads; null is torch's choice
    eval_batch_size: int = 512
    compile: bool | None = None  # torch.compile of the training step; null: on a GPU, where it makes CUDA graphs
    checkpoint_minutes: float = 5.0  # a long epoch is saved on the way this often
    ddp: bool = False  # the processes that torchrun or srun has started train one run together (ranks.py)


@dataclass
class LoggerConfig:
    """Where metrics go besides the run folder."""

    name: str = "local"  # local | wandb
    project: str = "dl2pa"
    entity: str | None = None
    id_suffix: str = ""  # of the run's id there: W&B never takes a deleted id again
    finish_seconds: float = 30.0  # how long the end of a run waits for W&B


@dataclass
class Config:
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    prototypes: PrototypesConfig = field(default_factory=PrototypesConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    compat: CompatConfig = field(default_factory=CompatConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    imbalance: float | None = None  # smallest class over largest, training images
    dimension: int = MISSING  # d of the metric space
    seed: int = 0
    epochs: int = MISSING
    batch_size: int = MISSING
    max_steps: int | None = None  # stop training early, after this many steps in all
    holdout: float = 0.0  # share of the training images kept back for selection and calibration
    eval_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    precision: Precision = Precision.auto

    device: str = "auto"  # auto | cpu | cuda | cuda:N
    data_root: str = "${oc.env:DL2PA_DATA_ROOT,data}"
    runs_dir: str = "runs"
    download: bool = True
    rerun: bool = False
    strict_revision: bool = False  # a run that was planned or begun with other code is an error, not a warning


def needed_neck(dimension: int, width: int) -> str:
    """The neck that brings ``width`` features to ``dimension``: none where they are the same."""
    return "none" if dimension == width else "linear"


# What presets compute their default dimension with: ${subtract:${dataset.num_classes},1}.
_RESOLVERS: dict[str, Callable[..., Any]] = {
    "feature_width": feature_width,
    "max": max,
    "min": min,
    "needed_neck": needed_neck,
    "subtract": operator.sub,
}


def register() -> None:
    """Make known to Hydra the schema, as ``schema`` the first of conf/config.yaml's defaults, and the resolvers."""
    ConfigStore.instance().store(name="schema", node=Config)
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
