"""The schema of a run: every key with its type and default. Ranges and combinations are checked in validate.py.

A default here never changes once a run has been stored: identity.py leaves out of a run's id every key that equals its
default, so a new key's default must mean what was done before the key existed.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from dl2pa.prototypes.kinds import Options


class Precision(Enum):
    """Arithmetic of the forward and backward pass. ``auto`` is bf16 where the hardware computes it natively."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


@dataclass
class DatasetConfig:
    """Facts about a data set; what a run does with it (augmentation, epochs, ...) are keys of their own."""

    name: str = MISSING
    source: str = MISSING  # the images it is made of: a name in data/datasets.py
    num_classes: int = MISSING
    long_tail: bool = False
    channels: int = 3
    size: int = MISSING  # pixels a side that the network sees
    mean: list[float] = MISSING
    std: list[float] = MISSING
    label_alignment: str = "fixed"  # fixed | shifted: SVHN-LT only (docs/compat.md)
    resize: int | None = None  # evaluation: short side before the centre crop, pixels


@dataclass
class AugmentConfig:
    """Training augmentation, in this order, drawn per image; mixup and cutmix are one lambda and one box a batch."""

    crop: str = "pad"  # pad: zero-pad and crop at random | resized: random resized crop
    padding: int = 0  # pixels
    flip: bool = False
    jitter: float = 0.0  # brightness, contrast and saturation
    policy: str = "none"  # none | trivial: TrivialAugmentWide | auto: AutoAugment, CIFAR-10's; on files ImageNet's
    erase: float = 0.0  # probability that a rectangle becomes the mean colour
    cutout: int = 0  # side in pixels of a square that becomes the mean colour; 0 is none
    mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0 is none
    cutmix: float = 0.0  # likewise; with mixup too, each batch gets one of the two
    target: str = "soft"  # of a mixed image: both labels by their share | dominant: the larger share's alone


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
    head: str = MISSING  # prototypes | softmax
    variant: str | None = None  # softmax head: linear | cos_unscaled | cos_scaled | frozen_linear
    scale: float = 10.0  # of cos_scaled's logits
    bn: bool = False  # affine BatchNorm of the embedding before the head (Yang et al. 2022)


@dataclass
class PrototypesConfig(Options):
    """Fixed class prototypes; the kinds, and which of the options each reads, are in prototypes/kinds.py.

    ``seed`` null follows the run's seed.
    """

    kind: str = MISSING


@dataclass
class AssignmentConfig:
    """Which prototype each class owns, and when that is decided anew."""

    name: str = MISSING  # static | hungarian
    seed: int | None = None  # of the first permutation; null follows the run's seed
    statistic: str = "epoch_mean"  # queue | ema | epoch_mean | loss_matrix
    momentum: float = 0.9  # of queue and ema
    mixed: str = "both"  # mixup images count for both labels by their share, or for the first alone
    every: Any = 1  # epochs between matchings, or "step"
    warmup: float = 0.0  # share of the epochs before the first matching
    freeze_after: float = 0.4  # share of the epochs after which no class moves any more
    hysteresis: float = (
        0.0  # smallest mean gain for which classes are moved: a cosine, or with loss_matrix a sum of losses
    )


@dataclass
class LossConfig:
    """How far an embedding is from its class, and how a batch is summed up."""

    name: str = MISSING  # squared_cosine | dot_regression | cross_entropy
    reduction: str = "mean"  # sum | mean
    weights: str = "batch"  # dot_regression's E: from the batch | global: from the training counts
    temperature: float = 1.0  # cross_entropy


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
class CompatConfig:
    """The fixed behaviour, or every switch at the released code's behaviour (docs/compat.md)."""

    name: str = "none"
    prototypes: str = MISSING
    statistic: str = MISSING
    mixed: str = MISSING
    freeze_after: float = MISSING
    label_alignment: str = MISSING
    psc_variant: str = MISSING
    target: str = MISSING


@dataclass
class RuntimeConfig:
    """Changes speed, never results: no part of a run's identity."""

    workers: int = 2  # loader processes, for image folders
    threads: int | None = None  # CPU threads; null is torch's choice
    eval_batch_size: int = 512
    checkpoint_minutes: float = 5.0  # a long epoch is saved on the way this often


@dataclass
class LoggerConfig:
    """Where metrics go besides the run folder."""

    name: str = "local"  # local | wandb
    project: str = "dl2pa"
    entity: str | None = None
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
    data_root: str = "data"
    runs_dir: str = "runs"
    download: bool = True
    rerun: bool = False


def register() -> None:
    """Make the schema known to Hydra as ``schema``, the first entry of conf/config.yaml's defaults."""
    ConfigStore.instance().store(name="schema", node=Config)
