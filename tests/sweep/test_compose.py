"""Composing once per set of group choices gives what composing every job gives."""

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from dl2pa.errors import UserError
from dl2pa.identity import run_name
from dl2pa.sweep.compose import Composer, composing
from dl2pa.sweep.grid import Sweep, expand, read

# Switches that presets copy, defaults that are computed from other keys, and values of every type.
CROSSED = Sweep(
    common={"dataset": "cifar10_lt", "compat": ["none", "paper"], "seed": 3},
    grids=[
        {"method": "psc", "backbone.neck": "linear", "dimension": [8, 16]},
        {"method": "dl2pa", "assignment.every": ["step", 5], "assignment.seed": None, "imbalance": 0.005},
        {"dataset": "svhn_lt", "assignment": "static", "schedule.milestones": [[0.5, 0.75]]},
    ],
)


def composed(jobs: list[list[str]]) -> list[object]:
    with composing():
        composer = Composer()
        return [composer(words) for words in jobs]


def composed_by_hydra(words: list[str]) -> DictConfig:
    with composing():
        return compose("config", overrides=words)


@pytest.mark.parametrize("sweep", [read("k8"), CROSSED], ids=["k8", "crossed"])
def test_every_job_is_what_launch_runs(sweep: Sweep) -> None:
    jobs = expand(sweep)
    assert len({tuple(words) for words in jobs}) == len(jobs) >= 10
    for words, cfg in zip(jobs, composed(jobs), strict=True):
        full = composed_by_hydra(words)
        for resolve in (False, True):
            assert OmegaConf.to_container(cfg, resolve=resolve) == OmegaConf.to_container(full, resolve=resolve)
        assert run_name(cfg) == run_name(full)
        assert OmegaConf.is_struct(cfg)


def test_a_value_never_reaches_another_job() -> None:
    one, other = composed([["dimension=7", "schedule.milestones=[0.1]"], []])
    assert (one.dimension, list(one.schedule.milestones)) == (7, [0.1])
    assert (other.dimension, list(other.schedule.milestones)) == (4, [])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("method=nothing", "Could not find 'method/nothing'.*dl2pa"),
        ("nothing=1", "nothing=1: Key 'nothing'"),
        ("seed=much", "seed=much: Value 'much'"),
        ("assignment.nothing=1", "nothing"),
        ("method@there=psc", "method@there"),
    ],
)
def test_what_launch_refuses_is_refused(word: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        composed([[word]])
    assert "\n" not in str(error.value)


def test_what_composes_can_be_called_by_what_composes() -> None:
    """A report, for one, by a benchmark that trains."""
    with composing():
        before = Composer()(["method=etf"])
        with composing():
            assert Composer()(["method=etf"]) == before
        assert Composer()(["method=etf"]) == before
