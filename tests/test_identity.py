"""Ids: what changes them, what does not, and that stored ones stay what they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import compose_config
from omegaconf import DictConfig, OmegaConf

from dl2pa import identity
from dl2pa.config import AssignmentConfig, Config
from dl2pa.identity import group_name, result_config, run_name

BASE = compose_config()

# Five runs as they may lie on somebody's disk. Values are written out: presets may change, and then so does the id.
DIGITS: dict[str, Any] = {
    "dataset": {
        "name": "digits",
        "source": "digits",
        "num_classes": 10,
        "channels": 1,
        "size": 8,
        "mean": [0.2874],
        "std": [0.354],
    },
    "backbone": {"name": "small", "width": 64, "neck": "linear"},
    "method": {"name": "dl2pa", "head": "prototypes"},
    "prototypes": {"kind": "exact"},
    "assignment": {"name": "hungarian", "statistic": "epoch_mean", "mixed": "both", "freeze_after": 0.4},
    "loss": {"name": "squared_cosine", "reduction": "sum"},
    "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 1e-4},
    "schedule": {"name": "step", "milestones": [0.4, 0.8]},
    "dimension": 4,
    "epochs": 30,
    "batch_size": 32,
}
LONG_TAIL: dict[str, Any] = {
    "dataset": {
        "name": "cifar10_lt",
        "source": "cifar10",
        "num_classes": 10,
        "long_tail": True,
        "size": 32,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.201],
    },
    "augment": {"padding": 4, "flip": True, "mixup": 1},
    "backbone": {"name": "resnet32_lt"},
    "method": {"name": "psc", "head": "softmax", "variant": "cos_scaled", "bn": True},
    "prototypes": {"kind": "none"},
    "assignment": {"name": "static"},
    "loss": {"name": "cross_entropy"},
    "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 2e-4},
    "schedule": {"name": "step", "warmup": 0.025, "milestones": [0.8, 0.9]},
    "imbalance": 0.01,
    "dimension": 64,
    "epochs": 200,
    "batch_size": 128,
}
GOLDEN: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("dl2pa-d4-s0-9a3713d312", "dl2pa-d4-9a3713d312", [], DIGITS),
    (
        "dl2pa-d4-s3-640dbb9f03",
        "dl2pa-d4-f87df1ac45",
        ["seed=3", "precision=fp32", "max_steps=20", "holdout=0.1"],
        DIGITS,
    ),
    (
        "dl2pa-d4-s1-95f4f6ab07",
        "dl2pa-d4-6b064edd38",
        ["assignment.every=step", "assignment.seed=0", "prototypes.seed=7", "seed=1"],
        DIGITS,
    ),
    ("psc.cos_scaled-imb0.01-d64-s0-c51b05f275", "psc.cos_scaled-imb0.01-d64-c51b05f275", [], LONG_TAIL),
    (
        "psc.linear-imb0.005-d64-s0-ae2ccb537e",
        "psc.linear-imb0.005-d64-ae2ccb537e",
        ["imbalance=0.005", "method.variant=linear", "optimizer.nesterov=true"],
        LONG_TAIL,
    ),
]


def stored(values: dict[str, Any], *words: str, schema: type = Config) -> DictConfig:
    cfg = OmegaConf.merge(OmegaConf.structured(schema), values, OmegaConf.from_dotlist(list(words)))
    assert isinstance(cfg, DictConfig)
    return cfg


def changed(**values: Any) -> DictConfig:
    """The default run with values set, "__" for a dot."""
    cfg = BASE.copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return cfg


@pytest.mark.parametrize(("run", "group", "words", "values"), GOLDEN)
def test_ids_of_stored_runs_never_change(run: str, group: str, words: list[str], values: dict[str, Any]) -> None:
    cfg = stored(values, *words)
    assert (run_name(cfg), group_name(cfg)) == (run, group)


def test_a_new_key_with_a_default_keeps_the_ids_of_stored_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class NewAssignment(AssignmentConfig):
        patience: int = 3

    @dataclass
    class NewGroup:
        name: str = "none"
        strength: float = 0.5

    @dataclass
    class NewConfig(Config):
        assignment: NewAssignment = field(default_factory=NewAssignment)
        distillation: NewGroup = field(default_factory=NewGroup)
        label_smoothing: float = 0.0
        tags: list[str] = field(default_factory=list)

    monkeypatch.setattr(identity, "Config", NewConfig)
    for run, group, words, values in GOLDEN:
        cfg = stored(values, *words, schema=NewConfig)
        assert (run_name(cfg), group_name(cfg)) == (run, group)
    names = {
        run_name(stored(DIGITS, word, schema=NewConfig))
        for word in ("seed=0", "assignment.patience=4", "distillation.strength=1", "label_smoothing=0.1", "tags=[a]")
    }
    assert len(names) == 5


@pytest.mark.parametrize(
    "values",
    [
        {"runtime__workers": 7, "runtime__threads": 1},
        {"runtime__eval_batch_size": 1, "runtime__checkpoint_minutes": 0.1},
        {"logger__name": "wandb", "logger__project": "x", "logger__entity": "y"},
        {"compat__name": "paper"},
        {"device": "cuda:1"},
        {"data_root": "elsewhere", "runs_dir": "there"},
        {"download": False},
        {"rerun": True},
        {"dimension": 4, "dataset__default_dimension": 7},  # acts through the dimension alone
    ],
)
def test_where_and_how_a_run_is_done_is_no_part_of_its_id(values: dict[str, Any]) -> None:
    assert run_name(changed(**values)) == run_name(BASE)
    assert group_name(changed(**values)) == group_name(BASE)


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer__lr": 0.02},
        {"optimizer__weight_decay": 0.0},
        {"assignment__every": 2},
        {"assignment__every": "step"},
        {"assignment__freeze_after": 0.5},
        {"prototypes__steps": 2},
        {"prototypes__seed": 0},
        {"assignment__seed": 0},
        {"schedule__milestones": [0.4]},
        {"schedule__warmup": 0.2},
        {"dataset__mean": [0.5]},
        {"method__bn": True},
        {"dimension": 5},
        {"epochs": 31},
        {"batch_size": 33},
        {"max_steps": 1},
        {"holdout": 0.1},
        {"eval_every": 2},
        {"precision": "bf16"},
        {"imbalance": 0.5},
    ],
)
def test_what_changes_the_result_changes_id_and_group(values: dict[str, Any]) -> None:
    assert run_name(changed(**values)) != run_name(BASE)
    assert group_name(changed(**values)) != group_name(BASE)


def test_the_seed_changes_the_id_and_not_the_group() -> None:
    assert len({run_name(changed(seed=seed)) for seed in range(4)}) == 4
    assert {group_name(changed(seed=seed)) for seed in range(4)} == {group_name(BASE)}


@pytest.mark.parametrize("key", ["prototypes__seed", "assignment__seed"])
def test_a_seed_set_by_itself_tells_groups_apart(key: str) -> None:
    """Also where it is 0, which is a seed and not the lack of one; the run's seed still does not."""
    values = (None, 0, 1)
    assert len({group_name(changed(**{key: value})) for value in values}) == 3
    assert len({run_name(changed(**{key: value})) for value in values}) == 3
    assert group_name(changed(seed=5, **{key: 1})) == group_name(changed(**{key: 1}))
    assert run_name(changed(seed=5, **{key: 1})) != run_name(changed(**{key: 1}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["optimizer.lr=1"], ["optimizer.lr=1.0"]),
        (["optimizer.lr=0.01"], ["optimizer.lr=1e-2"]),
        (["dataset=digits_lt", "imbalance=1"], ["dataset=digits_lt", "imbalance=1.0"]),
        (["dataset=digits_lt", "imbalance=0.10"], ["dataset=digits_lt", "imbalance=.1"]),
        (["holdout=0"], []),
        (["schedule.milestones=[0.5,1]"], ["schedule.milestones=[0.50,1.0]"]),
        (["seed=0"], []),
        (["assignment.hysteresis=0"], ["assignment.hysteresis=0.0"]),
        (["assignment.every=1"], []),
        (["precision=auto"], []),
        (["method=dl2pa", "compat=none"], []),
    ],
)
def test_one_value_written_in_two_ways_is_one_run(one: list[str], other: list[str]) -> None:
    assert run_name(compose_config(*one)) == run_name(compose_config(*other))


def test_the_order_of_the_words_does_not_matter() -> None:
    words = ["dataset=digits_lt", "seed=3", "epochs=7", "optimizer.lr=0.3"]
    assert run_name(compose_config(*words)) == run_name(compose_config(*reversed(words)))


def test_compat_acts_through_the_values_it_is_copied_into() -> None:
    by_switch = compose_config("compat=paper")
    by_hand = compose_config(
        "prototypes=uniform_readme",
        "assignment.statistic=queue",
        "assignment.mixed=first",
        "assignment.freeze_after=1.0",
    )
    assert run_name(by_switch) == run_name(by_hand) != run_name(BASE)


def test_values_at_their_default_are_left_out_and_all_others_are_in() -> None:
    found = result_config(stored(DIGITS, "seed=2"))
    expected = {**DIGITS, "seed": 2}
    # The schema's own defaults, though a preset wrote them.
    expected["assignment"] = {"name": "hungarian"}
    assert found == expected


def test_names_are_readable() -> None:
    assert run_name(compose_config("seed=3")).startswith("dl2pa-d4-s3-")
    words = ("dataset=digits_lt", "method=psc", "method.variant=linear", "imbalance=0.005", "dimension=6")
    assert run_name(compose_config(*words)).startswith("psc.linear-imb0.005-d6-s0-")
    assert group_name(compose_config(*words)).startswith("psc.linear-imb0.005-d6-")
    for name in (run_name(BASE), group_name(BASE)):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_")


def test_prototypes_from_a_file_count_by_content_and_not_by_place(tmp_path: Path) -> None:
    points = np.eye(10)
    for name, array in (("here", points), ("there", points), ("other", -points)):
        np.save(tmp_path / f"{name}.npy", array)

    def name(file: str) -> str:
        return run_name(changed(prototypes__kind="file", prototypes__file=str(tmp_path / f"{file}.npy")))

    assert name("here") == name("there") != name("other")


def test_naming_changes_nothing_in_the_config() -> None:
    cfg = changed(seed=4)
    before = OmegaConf.to_yaml(cfg)
    run_name(cfg)
    group_name(cfg)
    assert OmegaConf.to_yaml(cfg) == before
