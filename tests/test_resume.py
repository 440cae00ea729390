"""A run that was killed or stopped, wherever, and started again ends with the bits of an undisturbed one."""

import json
import math
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import compose_config
from data_files import write_tiny_imagenet
from omegaconf import DictConfig
from processes import (
    Child,
    die_at,
    few_digits,
    launch,
    signal_after,
    signal_group_in,
    signal_twice,
    train,
    with_few_digits,
)

from dl2pa import run as run_module
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder, State
from dl2pa.metrics import Tally
from dl2pa.run import run
from dl2pa.trainer import Trainer

TIMES = ("seconds", "images_per_second", "train_seconds")
# name: words. Three epochs of a few steps; every epoch ends with a checkpoint, and so does about every step.
RUNS = {
    "digits": ["dataset=digits", "batch_size=256", "assignment.freeze_after=1"],
    "mixup": ["dataset=digits_lt", "augment.mixup=1", "imbalance=0.05", "assignment.freeze_after=1"],
    "holdout": ["dataset=digits", "holdout=0.5", "batch_size=128"],
}


def words_of(name: str, root: Path, *more: str) -> list[str]:
    own = ["epochs=3", "runtime.threads=1", "device=cpu", "runtime.checkpoint_minutes=0.0001"]
    return [*RUNS[name], *own, f"runs_dir={root / 'runs'}", *more]


def few_steps(root: Path, *words: str) -> DictConfig:
    """Digits in batches of 40: three steps an epoch with ``few_digits``."""
    moving = [] if {"method=psc", "method=dnc"} & set(words) else ["assignment.freeze_after=1"]
    fixed = ["epochs=3", "batch_size=40", "runtime.threads=1", "device=cpu", *moving]
    return compose_config(*fixed, f"runs_dir={root / 'runs'}", *words)


def only_folder(root: Path) -> Path:
    (found,) = (root / "runs").glob("*/*")
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves behind that is to be the same, bit for bit."""
    lines = {
        name: [without_times(json.loads(line)) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "assignments")
    }
    checkpoints = {which: torch.load(folder / f"{which}.pt", weights_only=True) for which in ("last", "best")}
    result = json.loads((folder / "result.json").read_text())
    return {**without_times(checkpoints), **lines, "result": without_times(result)}


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal in structure, and tensors in every bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert found.shape == expected.shape, where
        assert torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), where
    else:
        assert found == expected, where


def wait_for(child: Child, log: Path) -> None:
    """Until the run has begun to train, or is over."""
    while child.process.is_alive() and not (log.is_file() and "training images" in log.read_text()):
        time.sleep(0.01)


@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments(tmp_path: Path, name: str) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert launch(*words_of(name, undisturbed), cwd=undisturbed).end().code == 0
    expected = outcome(only_folder(undisturbed))
    log = killed / "runs" / only_folder(undisturbed).relative_to(undisturbed / "runs") / "log.txt"
    seed = random.randrange(2**32)
    print(f"{seed=}")  # shown if the test fails
    moments = random.Random(seed)
    for _ in range(3):
        child = launch(*words_of(name, killed), cwd=killed)
        log.unlink(missing_ok=True)
        wait_for(child, log)
        time.sleep(moments.uniform(0, 0.5))
        child.process.kill()
        assert child.end().code in (-signal.SIGKILL, 0)
    ended = launch(*words_of(name, killed), cwd=killed).end()
    assert ended.code == 0, ended.said
    assert_same(outcome(only_folder(killed)), expected)


def test_killed_at_every_moment_around_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Between any two of its writes, in the middle of each, and before and after the assignment moves."""
    root = tmp_path / "undisturbed"
    with with_few_digits():
        run(few_steps(root, "epochs=2"))
        folder = only_folder(root)
        expected = outcome(folder)
        assert expected["metrics"][0]["moved"] > 0
        event, ends = 0, []
        while True:
            root = tmp_path / f"killed-{event}"
            code = train(few_steps(root, "epochs=2"), root, partial(prepared, event)).end().code
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed = RunFolder(root / "runs" / folder.parent.name / folder.name)
            begun = [path.name for path in killed.path.iterdir()]
            ends.append(len(killed.lines("metrics")))
            run(few_steps(root, "epochs=2"))
            assert_same(outcome(killed.path), expected, f"event {event}: ")
            # Every moment from the first checkpoint to the end of its epoch; before and after that, every third.
            event += 1 if "best.pt.part" in begun or ("best.pt" in begun and ends[-1] == 0) else 3
    assert {0, 1, 2} <= set(ends), "some stretch of the run was never killed"


def prepared(event: int) -> None:
    few_digits()
    die_at(event)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_stops_at_the_next_step(tmp_path: Path, number: signal.Signals) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    long = "runtime.checkpoint_minutes=60"
    assert launch(*words_of("mixup", undisturbed, long), cwd=undisturbed).end().code == 0
    steps = 8
    ended = launch(*words_of("mixup", stopped, long), cwd=stopped, before=partial(signal_after, number, steps)).end()
    assert ended.code == 1
    assert f"stopped by {number.name}, nothing lost: the same command goes on" in ended.said
    assert "Traceback" not in ended.said
    folder = only_folder(stopped)
    assert not (folder / "result.json").exists()
    position = torch.load(folder / "last.pt", weights_only=True)["position"]
    per_epoch = math.ceil(outcome(only_folder(undisturbed))["result"]["num_train"] / 32)
    assert position["epoch"] * per_epoch + position["step"] == steps
    ended = launch(*words_of("mixup", stopped, long), cwd=stopped).end()
    assert ended.code == 0
    assert f"going on at epoch {position['epoch'] + 1}, step {position['step'] + 1}" in ended.said
    assert_same(outcome(folder), outcome(only_folder(undisturbed)))


def test_a_second_signal_while_the_run_lets_go(tmp_path: Path) -> None:
    """As a job with several runs is cancelled: each is told by the scheduler, and by the process that started it."""
    ended = launch(*words_of("digits", tmp_path), cwd=tmp_path, before=partial(signal_twice, signal.SIGTERM, 4)).end()
    assert "stopped by SIGTERM, nothing lost" in ended.said
    assert RunFolder(only_folder(tmp_path)).state() is State.planned


def test_signal_to_the_whole_group_of_processes(tmp_path: Path) -> None:
    """As a job is cancelled: loader workers get it too. In a step of the second epoch, and then in its evaluation."""
    write_tiny_imagenet(tmp_path / "data", num_classes=3, per_class=8, per_class_test=4)
    network = ["dataset=imagenet200", "dataset.num_classes=3", "backbone=small", "dimension=2", "batch_size=4"]
    augment = ["augment.policy=trivial", "augment.erase=0.5", "augment.mixup=0.2", "augment.cutmix=1"]
    own = ["epochs=2", "runtime.threads=1", "device=cpu", "runtime.workers=2", "runtime.eval_batch_size=2"]
    words = [*network, *augment, *own, f"data_root={tmp_path / 'data'}"]
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert launch(*words, f"runs_dir={undisturbed / 'runs'}", cwd=undisturbed).end().code == 0
    words.append(f"runs_dir={stopped / 'runs'}")
    # The 9th step is the third of the second epoch; when resumed, three more are left, and the 2nd batch is evaluated.
    for owner, name, calls, step in ((Trainer, "_step", 9, 3), (Tally, "update", 2, 6)):
        ended = launch(*words, cwd=stopped, before=partial(signal_group_in, signal.SIGTERM, owner, name, calls)).end()
        assert ended.code == 1, ended.said
        assert "stopped by SIGTERM, nothing lost" in ended.said
        assert "Traceback" not in ended.said
        folder = only_folder(stopped)
        position = torch.load(folder / "last.pt", weights_only=True)["position"]
        assert (position["epoch"], position["step"]) == (1, step)
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1  # the second evaluation did not end
    assert launch(*words, cwd=stopped).end().code == 0
    assert_same(outcome(folder), outcome(only_folder(undisturbed)))


class StepError(Exception):
    """Stands for a kill at a step boundary, where nothing but the last checkpoint counts."""


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, save: bool) -> None:
    original: Callable[[Any], None] = run_module._Run._on_step
    taken = 0

    def on_step(self: Any) -> None:
        nonlocal taken
        original(self)
        taken += 1
        if taken == step:
            if save:
                self._save()
            raise StepError

    monkeypatch.setattr(run_module._Run, "_on_step", on_step)


@pytest.mark.parametrize("every", ["1", "2", "step"])
@pytest.mark.parametrize("statistic", ["queue", "ema", "epoch_mean", "loss_matrix"])
def test_statistics_survive(tmp_path: Path, statistic: str, every: str) -> None:
    words = [f"assignment.statistic={statistic}", f"assignment.every={every}", "augment.mixup=1", "optimizer.lr=0.3"]
    with with_few_digits():
        run(few_steps(tmp_path / "undisturbed", *words))
        expected = outcome(only_folder(tmp_path / "undisturbed"))
        assert any(line["moved"] > 0 for line in expected["metrics"])
        # After step 5 of 9, in the middle of the second epoch: resumed from there, or from the end of the first.
        for save in (True, False):
            root = tmp_path / f"interrupted-{save}"
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, 5, save)
                with pytest.raises(StepError):
                    run(few_steps(root, *words))
            run(few_steps(root, *words))
            assert_same(outcome(only_folder(root)), expected)


@pytest.mark.parametrize(
    "words",
    [
        ["method=psc"],
        # The bank is emptied after every second step: the fifth, the last before the interruption, is in it.
        ["method=dnc", "method.bank_batches=2", "augment.mixup=1"],
        ["optimizer=adamw"],
        ["schedule=triangular"],
        ["eval_every=2"],
        ["augment.policy=auto", "augment.cutout=3", "augment.mixup=1", "augment.cutmix=1"],
    ],
    ids=str,
)
def test_other_parts_survive(tmp_path: Path, words: list[str]) -> None:
    with with_few_digits():
        run(few_steps(tmp_path / "undisturbed", *words))
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, 5, save=True)
            with pytest.raises(StepError):
                run(few_steps(tmp_path / "interrupted", *words))
        run(few_steps(tmp_path / "interrupted", *words))
    folders = [only_folder(tmp_path / name) for name in ("interrupted", "undisturbed")]
    if words == ["method=psc"]:
        for folder in folders:
            assert not (folder / "assignments.jsonl").read_text()
    assert_same(outcome(folders[0]), outcome(folders[1]))


def test_finished_run_is_read_and_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with with_few_digits():
        first = run(few_steps(tmp_path))
        folder = only_folder(tmp_path)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        capsys.readouterr()
        monkeypatch.setattr(run_module, "_Run", None)  # nothing can be trained any more
        assert run(few_steps(tmp_path)) == json.loads(json.dumps(first))
    said = capsys.readouterr().out
    assert f"already finished: {folder} (rerun=true trains anew)" in said
    assert f"test accuracy {first['top1']:.2f} %" in said
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_run_that_another_process_finishes_before_ours_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read, not taken up at its last epoch and written again."""
    with with_few_digits():
        first = run(few_steps(tmp_path))
    folder = only_folder(tmp_path)
    (folder / "result.json").rename(folder / "aside")
    claimed = RunFolder.claimed

    def later(self: RunFolder) -> Any:
        (folder / "aside").rename(folder / "result.json")
        return claimed(self)

    monkeypatch.setattr(RunFolder, "claimed", later)
    monkeypatch.setattr(run_module, "_Run", None)
    assert run(few_steps(tmp_path)) == json.loads(json.dumps(first))


def test_rerun_sets_the_old_folder_aside(tmp_path: Path) -> None:
    with with_few_digits():
        run(few_steps(tmp_path))
        folder = only_folder(tmp_path)
        expected = outcome(folder)
        (folder / "mark").touch()
        for number in (0, 1):
            run(few_steps(tmp_path, "rerun=true"))
            assert_same(outcome(folder), expected)
            old = tmp_path / "runs" / ".old" / "digits" / f"{folder.name}.{number}"
            assert (old / "mark").exists() == (number == 0)
            assert_same(outcome(old), expected)


def test_another_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    with with_few_digits():
        cfg = few_steps(tmp_path)
        with RunFolder.of(cfg).claimed():
            ended = train(cfg, tmp_path / "other", few_digits).end()
            assert ended.code == 1
            assert "another process is working on this run" in ended.said
            again = train(few_steps(tmp_path, "rerun=true"), tmp_path / "other", few_digits).end()
            assert again.code == 1
            assert "another process is working on this run" in again.said
            assert not (tmp_path / "runs" / ".old").exists()
        run(cfg)


def test_checkpoint_holds_the_assignment_that_was_evaluated(tmp_path: Path) -> None:
    """The last line of assignments.jsonl is the sigma in last.pt, though classes were moved after other epochs."""
    with with_few_digits():
        run(few_steps(tmp_path))
    folder = RunFolder(only_folder(tmp_path))
    state = folder.load("last")
    assert state is not None
    assert state["model"]["head.assigner.sigma"].tolist() == folder.lines("assignments")[-1]["assignment"]
    with pytest.raises(UserError, match="checkpoint of run"):
        RunFolder(folder.path.rename(folder.path.with_name("renamed"))).load("last")
