"""What a sweep file and command-line words expand to."""

import pytest

from dl2pa.errors import UserError
from dl2pa.sweep import grid
from dl2pa.sweep.compose import CONF, composing
from dl2pa.sweep.grid import Sweep, expand

SWEEP = Sweep(
    common={"dataset": "cifar100", "seed": [0, 1]},
    grids=[{"method": "psc", "method.variant": ["linear", "cos_scaled"]}, {"method": "etf", "seed": 7}],
)


def test_a_sweep_is_the_union_of_its_grids() -> None:
    assert expand(SWEEP) == [
        ["dataset=cifar100", "seed=0", "method=psc", "method.variant=linear"],
        ["dataset=cifar100", "seed=0", "method=psc", "method.variant=cos_scaled"],
        ["dataset=cifar100", "seed=1", "method=psc", "method.variant=linear"],
        ["dataset=cifar100", "seed=1", "method=psc", "method.variant=cos_scaled"],
        ["dataset=cifar100", "seed=7", "method=etf"],
    ]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["seed=3"], ["3", "3", "3"]),
        (["seed=4,5"], ["4", "4", "5", "5", "4", "5"]),
        (["seed=range(1,3)"], ["1", "1", "2", "2", "1", "2"]),
    ],
)
def test_a_word_replaces_what_all_grids_say(words: list[str], seeds: list[str]) -> None:
    assert [job[1] for job in expand(SWEEP, words)] == [f"seed={seed}" for seed in seeds]


def test_a_word_that_no_grid_has_is_added() -> None:
    jobs = expand(SWEEP, ["epochs=2", "runs_dir=some where"])
    assert len(jobs) == 5
    assert {tuple(job[-2:]) for job in jobs} == {("epochs=2", "runs_dir=some where")}


def test_values_as_launch_takes_them() -> None:
    values = {"a": [None, True, 1.0, 2e-5, "step"], "schedule.milestones": [[0.4, 0.8]]}
    jobs = expand(Sweep(values, [{}]))
    assert [job[0] for job in jobs] == ["a=null", "a=true", "a=1.0", "a=2e-05", "a=step"]
    assert {job[1] for job in jobs} == {"schedule.milestones=[0.4, 0.8]"}


@pytest.mark.parametrize("word", ["seed", "+seed=1", "~seed", "seed=1,", "seed=glob(*)"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"use KEY=VALUE or KEY=VALUE,VALUE") as error:
        expand(SWEEP, [word])
    assert str(error.value).startswith(word)


def test_a_key_without_values_is_refused() -> None:
    with pytest.raises(UserError, match=r"^seed=range\(0\): no values, and so no runs$"):
        expand(SWEEP, ["seed=range(0)"])


def test_all_options_of_a_group() -> None:
    with composing():
        jobs = expand(Sweep(), ["method=glob(*)"])
    assert [job for (job,) in jobs] == sorted(f"method={path.stem}" for path in (CONF / "method").glob("*.yaml"))


def test_a_sweep_may_do_without_common_words() -> None:
    assert expand(Sweep(grids=[{"seed": 1}])) == [["seed=1"]]


def test_an_unknown_sweep_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^sweep=k0 is not legal: use one of .*k1, .*table_longtail"):
        grid.read("k0")
