"""Every sweep that is shipped, and what ``python -m dl2pa plan`` says and refuses."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from composing import CONF, compose_config
from hydra import initialize_config_dir
from processes import ROOT

from dl2pa import config
from dl2pa.config import Config
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.sweep import grid, plan

HEADER = re.compile(
    r"# @package hydra\n"
    r"# (?P<what>(?:Table|Choice|Claims? K\d+(?:, K\d+)*): [^\n]+(?:\n#   [^\n]+)*)\n"
    r"# Command: python launch.py -m sweep=(?P<name>\w+)(?: runs_dir=\S+)?\n"
    r"# Runs: (?P<runs>\d+)\n"
    r"# Time: (?P<time>\d+) (?:h|min) on (?P<machine>[^(\n]+) \((?:estimated|measured): [^\n]+\)\n"
    r"mode: MULTIRUN\nsweeper:\n"
)
PLAIN = {item.name for item in fields(Config) if not is_dataclass(item.type)}


def planned(jobs: Iterable[Sequence[str]]) -> list[plan.Run]:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plan.distinct(plan.planned(jobs))


def seeds_of_cells(name: str) -> dict[tuple[str, ...], set[str]]:
    """The words of each cell, and the seeds it is run with; a job that is there twice is an error."""
    jobs = grid.expand(grid.read(name))
    cells: dict[tuple[str, ...], set[str]] = {}
    for job in jobs:
        cell = tuple(word for word in job if not word.startswith("seed="))
        cells.setdefault(cell, set()).update(set(job) - set(cell))
    assert sum(map(len, cells.values())) == len(jobs)
    return cells


def absent_presets(name: str) -> list[str]:
    """The options that a sweep chooses and conf/ does not have."""
    words = {word for job in grid.expand(grid.read(name)) for word in job}
    choices = [word.split("=") for word in words if "." not in word.split("=")[0]]
    return sorted(
        f"{key}/{option}"
        for key, option in choices
        if key not in PLAIN and not (CONF / key / f"{option}.yaml").exists()
    )


@pytest.mark.parametrize("name", grid.names())
def test_header_agrees_with_the_sweep(name: str) -> None:
    header = HEADER.match((grid.FOLDER / f"{name}.yaml").read_text())
    assert header
    assert header["name"] == name
    if re.fullmatch(r"k\d+", name):
        assert header["what"].startswith(f"Claim {name.upper()}:")
    assert int(header["runs"]) == len(grid.expand(grid.read(name)))
    assert int(header["time"]) > 0


@pytest.mark.parametrize("name", grid.names())
def test_every_cell_is_legal_and_no_run_is_there_twice(name: str, request: pytest.FixtureRequest) -> None:
    if absent := absent_presets(name):
        request.applymarker(pytest.mark.xfail(strict=True, raises=UserError, reason=f"no {', '.join(absent)}"))
    assert len(planned(seeds_of_cells(name))) == len(seeds_of_cells(name))


# K10 varies another seed; a table of every method is a look at one seed, and so is a choice.
CHOICES = tuple(name for name in grid.names() if name.startswith("choose_"))
FEWER_SEEDS = ("k10", "fast_first_assignment", "fast_methods", *CHOICES)


@pytest.mark.parametrize("name", [name for name in grid.names() if name not in FEWER_SEEDS])
def test_every_cell_has_three_seeds_or_more(name: str) -> None:
    assert min(map(len, seeds_of_cells(name).values())) >= 3


def test_k10_moves_one_seed_at_a_time() -> None:
    seeds = {
        (run.cfg.dimension, run.cfg.seed, run.cfg.assignment.seed) for run in planned(grid.expand(grid.read("k10")))
    }
    assert seeds == {(d, *pair) for d in (10, 50) for n in range(5) for pair in ((0, n), (n, 0))}


def test_plan_counts_runs_cells_and_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_dir = f"runs_dir={tmp_path}"
    cfg = compose_config("dataset=cifar100", "assignment.freeze_after=1.0", "dimension=25", "seed=2", runs_dir)
    folder = RunFolder.of(cfg)
    with folder.claimed():
        folder.write_config(cfg)
        folder.write_result(
            {"top1": 50.0, "dataset": "cifar100", "backbone": "resnet32", "width": None, "imbalance": None}
            | {"epochs": cfg.epochs, "seconds": 3600.0, "hardware": "a GPU", "threads": 4, "revision": "abc"}
        )
    plan.main(["sweep=k8", "seed=1,2", runs_dir, "hydra.launcher.slots=3"])
    first, heading, *rows, made, left, takes = capsys.readouterr().out.splitlines()
    assert made == "finished: 1 by revision abc"
    assert left == "to run: 7, hydra/launcher=local (slots=3 runs_per_gpu=1)"
    assert takes == ("expected: 7:00:00 of one run at a time, for 7 of 7 runs, by finished runs on a GPU, 4 threads")
    for words, hours in (
        (["hydra.launcher.gres=gpu:a100:2", "hydra.launcher.nodes=2"], "28.0"),
        (["hydra.launcher.gpus_per_node=1"], "7.0"),
        (["hydra.launcher.gres=gpu"], "7.0"),
    ):
        plan.main(["sweep=k8", "seed=1,2", runs_dir, "hydra/launcher=slurm", *words])
        assert f"of one run at a time, {hours} GPU-hours, for 7 of 7" in capsys.readouterr().out
    plan.main(["sweep=k8", "seed=1,2", runs_dir, "max_steps=2"])
    assert capsys.readouterr().out.splitlines()[-1] == "no finished run to judge by: 8 runs", "another length"
    plan.main(["sweep=k8", "seed=1,2", runs_dir, "rerun=true"])
    assert capsys.readouterr().out.startswith("sweep=k8: 8 runs in 4 cells, 0 finished"), "it is to be trained anew"
    assert first == "sweep=k8: 8 runs in 4 cells, 1 finished"
    assert heading.split() == ["dataset", "method", "d", "imbalance", "seeds", "finished"]
    assert [row.split() for row in rows] == [
        ["cifar100", "dl2pa", d, "2", finished] for d, finished in (("10", "0"), ("25", "1"), ("50", "0"), ("100", "0"))
    ]


def test_plan_says_by_what_else_cells_differ(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["sweep=k8", "dimension=10", "seed=0", "assignment.every=1,5", "epochs=10"])
    assert [row.split()[-1] for row in capsys.readouterr().out.splitlines()[2:4]] == [
        "assignment.every=1",
        "assignment.every=5",
    ]


def test_a_run_that_two_jobs_come_to_is_planned_once(capsys: pytest.CaptureFixture[str]) -> None:
    """compat acts through the keys it is copied into, and a linear softmax reads none of them."""
    plan.main(["sweep=k3", "method=psc", "method.variant=linear", "compat=none,paper"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "sweep=k3: 6 runs (12 jobs, of which 6 are the same run as another) in 2 cells, 0 finished"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["sweep=k8", "dimension=0"],
            r"sweep=k8: dataset=cifar100 method=dl2pa .*dimension=0: dimension=0 is not legal",
        ),
        (["sweep=k8", "method=nothing"], r"sweep=k8: dataset=cifar100 method=nothing .*Could not find"),
        (["sweep=k0"], "sweep=k0 is not legal: use one of"),
        ([], r"usage: .*NAME is one of .*k1"),
        (["k8"], "k8: use KEY=VALUE"),
        (["sweep=k8", "sweep=k9"], "usage"),
    ],
)
def test_what_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        plan.main(words)
    assert "\n" not in str(error.value)


def test_planning_needs_no_torch() -> None:
    code = "import sys; from dl2pa.__main__ import main; main(['plan', 'sweep=k8']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sweep=k8: 12 runs")
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "torchvision", "scipy", "sklearn"}


def test_who_reads_no_further_ends_it_without_a_traceback(tmp_path: Path) -> None:
    """As `| head` does."""
    words = [sys.executable, "-m", "dl2pa", "plan", "dataset=digits", f"runs_dir={tmp_path}"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == -signal.SIGPIPE
