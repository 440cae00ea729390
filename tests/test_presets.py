"""Every option of every config group composes, validates and trains for two steps; found by listing conf/."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from composing import CONF, compose_config
from data_files import (
    own_checksums,
    write_cifar10,
    write_cifar100,
    write_image_folder,
    write_imagenet_lt,
    write_stl10,
    write_svhn,
    write_tiny_imagenet,
)
from omegaconf import DictConfig
from processes import with_few_digits

from dl2pa.backbones.widths import feature_width
from dl2pa.errors import UserError
from dl2pa.prototypes import kinds
from dl2pa.run import run
from dl2pa.validate import validate

KEYS = {
    *("run_id", "group", "dataset", "method", "imbalance", "dimension", "seed", "epochs", "num_train", "num_test"),
    *("top1", "top1_best", "top5", "macro", "head", "medium", "tail", "ece", "seconds", "images_per_second"),
    *("device", "precision", "revision"),
}
# What a group's option is tried with, where it cannot stand alone (methods can). d = 16 holds all kinds of prototypes
# for ten.
ALONE = ["dimension=16"]
# Ten names span ten dimensions.
NEEDS: dict[tuple[str, str], list[str]] = {
    ("prototypes", "none"): ["method=psc"],
    ("prototypes", "semantic"): ["dimension=9"],
    ("prototypes", "label_tree"): ["dataset=cifar100", "dimension=20", "backbone=small"],
    ("assignment", "learned_warmup"): ["loss=cross_entropy"],
    ("assignment", "dl2pa_plus"): ["loss=cross_entropy"],
}
# The vectors of ImageNet's names are the user's to bring.
WORDLESS = {("word2vec", "imagenet"), ("word2vec", "imagenet_lt")}
# The data sets of image files with three classes; the networks for 224 pixels see 64.
THREE_CLASSES = ["dataset.num_classes=3", "runtime.workers=1"]
SMALL_IMAGES = [*THREE_CLASSES, "dataset.size=64", "dataset.resize=64"]
SMALLER = {"imagenet200": THREE_CLASSES, "imagenet": SMALL_IMAGES, "imagenet_lt": SMALL_IMAGES}
HEAVY = {"imagenet_lt", "resnet50_wide", "resnet101", "resnet152"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def marked(group: str) -> list[ParameterSet]:
    """The options of a group as parameters; those whose checkpoints are hundreds of megabytes are marked slow."""
    heavy = [pytest.mark.slow]
    return [pytest.param(option, marks=heavy if option in HEAVY else []) for option in options(group)]


def groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every data set in its published format, with very few images."""
    root = tmp_path_factory.mktemp("data")
    write_cifar10(root, per_class=10, per_class_test=1)
    write_cifar100(root, per_class=10, per_class_test=1)
    write_svhn(root, train=(10,) * 10, extra=(10,) * 10, per_class_test=1)
    write_stl10(root, per_class=10, per_class_test=1)
    write_tiny_imagenet(root, num_classes=3, per_class=2)
    for split in ("train", "val"):
        write_image_folder(root / "imagenet" / split)
    write_imagenet_lt(root)
    with pytest.MonkeyPatch.context() as patch, with_few_digits():
        own_checksums(patch, root)
        yield root


def two_steps(data_root: Path, runs_dir: Path, *words: str) -> DictConfig:
    fixed = [f"data_root={data_root}", f"runs_dir={runs_dir}", "max_steps=2", "runtime.threads=1", "device=cpu"]
    return compose_config(*words, *fixed)


def trained(cfg: DictConfig) -> dict[str, Any]:
    """What the run's folder says after it, and that nothing is missing in it."""
    run(cfg)
    (folder,) = (Path(cfg.runs_dir) / cfg.dataset.name).iterdir()
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert set(result) >= KEYS
    assert result["run_id"] == folder.name
    assert result["dataset"] == cfg.dataset.name
    warming = cfg.assignment.learn > 0  # two steps end in the warm-up
    assert (result["top1_best"] is None) == warming
    best = 100 if warming else result["top1_best"]
    assert 0 <= best <= 100
    # With a holdout the best epoch is the one that is best on it.
    assert 0 <= result["top1"] <= (100 if cfg.holdout > 0 else best)
    assert math.isfinite(result["loss"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = math.ceil(result["num_train"] / cfg.batch_size)
    assert [line["epoch"] for line in lines] == list(range(1, math.ceil(2 / steps) + 1))
    files = {"config.yaml", "local.yaml", "last.pt", "log.txt"} | (set() if warming else {"best.pt"})
    assert {path.name for path in folder.iterdir()} >= files
    for place in (cfg.data_root, cfg.runs_dir):
        assert place not in (folder / "config.yaml").read_text() + (folder / "result.json").read_text()
    return result


@pytest.mark.parametrize("option", marked("dataset"))
def test_data_set(data_root: Path, tmp_path: Path, option: str) -> None:
    # The long-tail sets here have ten images in the largest class, so that a tenth of them is the smallest possible.
    long_tail = compose_config(f"dataset={option}").dataset.long_tail
    words = [*SMALLER.get(option, []), *(["imbalance=0.1"] if long_tail else [])]
    result = trained(two_steps(data_root, tmp_path, f"dataset={option}", "batch_size=4", *words))
    assert result["imbalance"] == (0.1 if long_tail else None)


def other_backbones() -> list[ParameterSet]:
    """Those that no data set picks by itself; the others are tried with their data sets."""
    texts = [path.read_text() for path in (CONF / "dataset").glob("*.yaml")]
    picked = {name for text in texts for name in re.findall(r"override /backbone: (\w+)", text)}
    assert picked
    return [option for option in marked("backbone") if option.values[0] not in picked]


@pytest.mark.parametrize("option", other_backbones())
def test_backbone(data_root: Path, tmp_path: Path, option: str) -> None:
    words = ["dataset=cifar10", f"backbone={option}", "batch_size=4", "precision=fp32"]
    backbone = compose_config(*words).backbone
    if backbone.neck == "none":
        words.append(f"dimension={feature_width(backbone.name, backbone.width)}")
    assert trained(two_steps(data_root, tmp_path, *words))["backbone"] == backbone.name


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in groups()
        if group not in ("dataset", "backbone", "logger")
        for option in options(group)
    ],
)
def test_option(data_root: Path, tmp_path: Path, group: str, option: str) -> None:
    words = [f"{group}={option}", *([] if group == "method" else ALONE), *NEEDS.get((group, option), [])]
    if (group, option) == ("prototypes", "file"):
        file = tmp_path / "points.npy"
        np.save(file, np.random.default_rng(0).normal(size=(10, 16)))
        words.append(f"prototypes.file={file}")
    # 120 digits in one batch: an epoch is a step, and the assignment is matched between the two.
    trained(two_steps(data_root, tmp_path / "runs", *words, "batch_size=128"))


@pytest.mark.parametrize("option", [option for option in options("logger") if option != "wandb"])
def test_logger(data_root: Path, tmp_path: Path, option: str) -> None:
    trained(two_steps(data_root, tmp_path, f"logger={option}", "batch_size=128"))


@pytest.mark.parametrize("variant", ["linear", "cos_unscaled", "cos_scaled", "frozen_linear"])
def test_softmax_variant(data_root: Path, tmp_path: Path, variant: str) -> None:
    words = ["method=psc", f"method.variant={variant}", "batch_size=128", "holdout=0.2"]
    result = trained(two_steps(data_root, tmp_path, *words))
    assert result["method"] == f"psc.{variant}"
    assert 0 <= result["ece"] <= 100


@pytest.mark.parametrize("every", ["1", "step"])
@pytest.mark.parametrize("statistic", ["queue", "ema", "epoch_mean", "loss_matrix"])
def test_assignment_statistic(data_root: Path, tmp_path: Path, statistic: str, every: str) -> None:
    words = ["assignment=hungarian", f"assignment.statistic={statistic}", f"assignment.every={every}", "batch_size=128"]
    result = trained(two_steps(data_root, tmp_path, *words))
    assert len(result["moved"]) == 2


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_data_set_takes_every_method_and_compat(dataset: str) -> None:
    for method in options("method"):
        cfg = compose_config(f"dataset={dataset}", f"method={method}")
        for compat in options("compat"):  # the switches are plain values: nothing need be composed anew
            cfg.compat = compose_config(f"compat={compat}").compat
            if (method, dataset) in WORDLESS:
                with pytest.raises(UserError, match=rf"words={dataset}: no class names are known"):
                    validate(cfg)
            else:
                validate(cfg)


def test_parts_cross(data_root: Path, tmp_path: Path) -> None:
    """{prototypes} x {assignment} x {loss}: what the number of classes and d allow is trained, the rest is refused."""
    base = two_steps(data_root, tmp_path, "dimension=5", "batch_size=128")
    # Composed one by one and put together here: composing takes longer than the run.
    # Options of one kind that differ in numbers alone are tried in test_option; here the first of each.
    parts: dict[str, list[DictConfig]] = {}
    for group, key in (("prototypes", "kind"), ("assignment", "name"), ("loss", "name")):
        all_parts = [compose_config(f"{group}={option}")[group] for option in reversed(options(group))]
        parts[group] = list({part[key]: part for part in all_parts}.values())
    file = tmp_path / "points.npy"
    np.save(file, np.random.default_rng(0).normal(size=(10, 5)))
    refused, trained_kinds = set(), set()
    for number, chosen in enumerate(itertools.product(*parts.values())):
        cfg = base.copy()
        for group, part in zip(parts, chosen, strict=True):
            cfg[group] = part
        cfg.runs_dir = str(tmp_path / f"runs-{number}")
        kind = cfg.prototypes.kind
        # To an assignment prototypes are points, of whatever kind: all kinds are crossed with the two plain ones.
        if kind != "exact" and (cfg.assignment.name not in ("static", "hungarian") or cfg.assignment.learn > 0):
            continue
        if kind == "file":
            cfg.prototypes.file = str(file)
        if kind in ("none", "label_tree") or kinds.check(kind, 10, 5) is not None:
            with pytest.raises(UserError, match=r"no superclasses" if kind == "label_tree" else kind):
                run(cfg)
            assert not Path(cfg.runs_dir).exists()
            refused.add(kind)
        elif cfg.assignment.learn > 0 and cfg.loss.name != "cross_entropy":
            with pytest.raises(UserError, match="does not fit assignment"):
                run(cfg)
        else:
            trained(cfg)
            trained_kinds.add(kind)
    assert refused == {"none", "etf", "simplex", "label_tree"}
    assert trained_kinds >= {"exact", "uniform", "file", "separation", "equiangular", "semantic"}


def test_another_assignment_takes_the_place_of_all_that_a_preset_says_of_it() -> None:
    own = compose_config("method=dl2pa_plus").assignment
    assert own.learn == 0.5
    for name in ("static", "hungarian", "learned_warmup"):
        given = compose_config("method=dl2pa_plus", f"assignment={name}").assignment
        assert given.learn == compose_config(f"assignment={name}").assignment.learn != own.learn
