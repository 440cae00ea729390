"""One run in several processes: what one process makes of it, and what becomes of errors, signals and kills."""

import itertools
import os
import signal
import subprocess
import sys
import threading
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
    LAUNCH,
    SECONDS,
    few_digits,
    launch,
    planned,
    signal_after,
    together,
    train_together,
    with_few_digits,
)
from test_resume import assert_same, only_folder, outcome

from dl2pa import ranks
from dl2pa.__main__ import run_folders
from dl2pa.assemble import load_data, make_trainer
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder, State
from dl2pa.metrics import Tally
from dl2pa.part import Part
from dl2pa.run import run
from dl2pa.trainer import Trainer

IMAGES = 119  # three batches of 40, 40 and 39
STEPS = 3
OWN = ("epochs=3", "batch_size=40", "runtime.threads=1", "device=cpu", "precision=fp32")


def config(root: Path, *words: str) -> DictConfig:
    return compose_config(*OWN, f"runs_dir={root / 'runs'}", *words)


# -- the part of a batch


@pytest.mark.parametrize(("size", "world"), [(7, 2), (8, 2), (9, 4), (4, 4), (128, 3)])
def test_the_parts_of_a_batch_are_the_batch(size: int, world: int) -> None:
    batch = torch.arange(10, 10 + size)
    parts = [Part(rank, world).of(batch) for rank in range(world)]
    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank, part in enumerate(parts):
        loaded = Part(rank, world, partner=True).of(batch)
        assert torch.equal(loaded[1:], part)
        assert loaded[0] == batch.roll(1)[batch == part[0]]
        assert torch.equal(Part(rank, world, partner=True).own(loaded), part)


def test_a_batch_too_small_to_share_is_everybodys() -> None:
    assert torch.equal(Part(1, 3).of(torch.arange(2)), torch.arange(2))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_unequal_parts_are_those_of_the_batch(reduction: str) -> None:
    """DistributedDataParallel takes the mean of the ranks' gradients, whatever their parts."""
    losses = torch.rand(7, generator=torch.Generator().manual_seed(0))
    reduced = [getattr(losses[Part(rank, 3).rows(7)], reduction)() for rank in range(3)]
    weighted = [Part(rank, 3).weighted(loss, 7, reduction) for rank, loss in enumerate(reduced)]
    torch.testing.assert_close(torch.stack(weighted).mean(), getattr(losses, reduction)())


# -- the same steps, whatever is trained

MOVING = "assignment.freeze_after=1"
CASES: dict[str, tuple[str, ...]] = {
    "sum": (MOVING, "loss.reduction=sum", "optimizer.lr=0.001"),
    "ema": (MOVING, "assignment.statistic=ema", "augment.padding=1", "augment.flip=true", "augment.erase=0.5"),
    "queue": (MOVING, "assignment.statistic=queue", "augment.mixup=1", "augment.cutout=3", "optimizer.clip=1"),
    "class_weights": (MOVING, "assignment.statistic=loss_matrix", "loss=dot_regression", "augment.mixup=1"),
    "confusion": (MOVING, "assignment=quadratic", "assignment.similarity=confusion"),
    "every_step": (MOVING, "assignment.every=step", "assignment.statistic=loss_matrix"),
    "rotated": (MOVING, "assignment.every=step", "assignment.rotate=true"),
    "learned": ("method=dl2pa_plus", "augment.cutmix=1", "augment.target=dominant"),
    "softmax": ("method=psc", "method.variant=linear", "method.bn=true", "augment.mixup=1", "augment.cutmix=1"),
    "dnc": ("method=dnc", "method.bank_batches=2", "method.momentum=0.5"),
}


def take_steps(root: str, ddp: bool) -> None:
    """The first steps of all cases; what they leave goes to ROOT/CASE.RANK.pt, or CASE.one.pt."""
    with ranks.joined(ddp, "cpu") as device:
        torch.set_num_threads(1)
        for name, words in CASES.items():
            cfg = config(Path(root), *words)
            trainer = make_trainer(cfg, load_data(cfg), device, "fp32")
            for images, labels in itertools.islice(trainer.loader.epoch(0), STEPS):
                trainer.mixing.start(0, STEPS)
                trainer._step(images, labels)
                trainer.position.step += 1
            rank = ranks.part().rank if ddp else "one"
            torch.save({**trainer.state(), "position": trainer.position.images}, Path(root, f"{name}.{rank}.pt"))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("steps")
    before = dict.fromkeys(range(2), partial(few_digits, IMAGES))
    children = together(partial(take_steps, str(root), True), root, 2, before)
    with with_few_digits(IMAGES):
        take_steps(str(root), False)
    for child in children:
        ended = child.end()
        assert ended.code == 0, ended.said
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_steps_of_two_ranks_are_those_of_one_process(steps: Path, case: str) -> None:
    """Weights, batch norm, optimizer, class statistics, moments, meters: all but rounding, and sigma without it."""
    one, first, second = (torch.load(steps / f"{case}.{name}.pt", weights_only=True) for name in ("one", "0", "1"))
    assert_same(second, first)
    assert one["position"] == first["position"] == IMAGES
    assert list(one["model"]) == list(first["model"])
    for name, value in tensors(one).items():
        found = tensors(first)[name]
        if value.is_floating_point():
            # A ReLU whose argument rounding takes over zero changes a channel's gradient by a few parts in a thousand.
            assert (found - value).norm() <= 1e-2 * value.norm() + 1e-6, name
        else:
            assert torch.equal(found, value), name


def tensors(state: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by their places in it."""
    if torch.is_tensor(state):
        return {name: state}
    if not isinstance(state, dict):
        return {}
    return {key: value for inner in state for key, value in tensors(state[inner], f"{name}.{inner}").items()}


@pytest.mark.slow
def test_the_cases_show_what_they_are_for(steps: Path) -> None:
    """Classes moved where they may at a step, centroids moved, and every statistic holds something."""
    for case, kept in (("every_step", "sigma"), ("rotated", "sigma")):
        model = torch.load(steps / f"{case}.one.pt", weights_only=True)["model"]
        assert not torch.equal(model[f"head.assigner.{kept}"], model["head.assigner.first"])
    model = torch.load(steps / "dnc.one.pt", weights_only=True)["model"]
    assert not torch.equal(model["head.centroids"], model["head.first"])
    for case in ("sum", "ema", "queue", "class_weights", "confusion", "learned"):
        model = torch.load(steps / f"{case}.one.pt", weights_only=True)["model"]
        assert any(value.any() for name, value in model.items() if name.startswith("head.assigner.statistic."))


# -- whole runs


def no_writing(below: Path) -> None:
    """Nothing below this folder may be changed by this process."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.utime", "os.rmdir", "os.link")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(str(below)):
            raise PermissionError(f"{event} {arguments[0]}")

    few_digits(IMAGES)
    sys.addaudithook(refuse)


def two(cfg: DictConfig, root: Path, **before: Callable[[], None]) -> list[Any]:
    """How the two ranks of a run ended; ``rank0`` and ``rank1`` are called first, by default for few digits."""
    few = partial(few_digits, IMAGES)
    called = {rank: before.get(f"rank{rank}", few) for rank in range(2)}
    return [child.end() for child in train_together(cfg, root, 2, called)]


def test_a_run_of_two_ranks(tmp_path: Path) -> None:
    """The same assignments as in one process, every accuracy within two of 30 test images, and one rank writes."""
    words = (MOVING, "runtime.ddp=true", "runtime.eval_batch_size=29")  # a last batch of one image
    ended = two(config(tmp_path / "two", *words), tmp_path, rank1=partial(no_writing, tmp_path / "two" / "runs"))
    assert [end.code for end in ended] == [0, 0], "\n".join(end.said for end in ended)
    assert "test accuracy" in ended[0].said
    assert ended[1].said == ""
    with with_few_digits(IMAGES):
        expected = run(config(tmp_path / "one", MOVING))
    folder, one = (RunFolder(only_folder(tmp_path / name)) for name in ("two", "one"))
    result = folder.result()
    assert result is not None
    assert folder.run_id == one.run_id
    assert folder.lines("assignments") == one.lines("assignments")
    assert result["moved"] == expected["moved"]
    assert sum(result["moved"]) > 0
    assert abs(result["top1"] - expected["top1"]) <= 100 * 2 / 30
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    assert result["flops"] == expected["flops"]
    assert result["hardware"].startswith("2 x ")
    again = two(config(tmp_path / "two", *words), tmp_path)
    assert [end.code for end in again] == [0, 0]
    assert "already finished" in again[0].said
    assert again[1].said == ""


def fail(step: int, error: type[Exception]) -> None:
    few_digits(IMAGES)
    original, steps = Trainer._step, itertools.count(1)

    def failing(self: Trainer, *batch: Any) -> None:
        original(self, *batch)
        if next(steps) == step:
            raise error("here it goes wrong")

    Trainer._step = failing  # type: ignore[method-assign]


@pytest.mark.parametrize("error", [UserError, KeyError])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_any_rank_is_the_one_that_is_told(tmp_path: Path, rank: int, error: type[Exception]) -> None:
    ended = two(config(tmp_path, "runtime.ddp=true"), tmp_path, **{f"rank{rank}": partial(fail, 4, error)})
    assert [end.code for end in ended] == [1, 1]
    assert "here it goes wrong" in ended[rank].said
    other = ended[1 - rank].said
    assert "Error" not in other
    assert "Connection closed" not in other
    folder = RunFolder(only_folder(tmp_path))
    assert folder.state() is State.failed
    told = folder.error()
    assert told is not None
    assert "here it goes wrong" in told["message"]
    assert ("in failing" in told["traceback"]) == (error is KeyError)
    assert told.get("rank", 0) == rank


def without_data() -> None:
    from dl2pa.data import readers

    def nothing(request: Any) -> readers.Source:
        raise UserError("digits: not on this node")

    readers.READERS["digits"] = nothing


def test_an_error_of_one_rank_at_the_start(tmp_path: Path) -> None:
    ended = two(config(tmp_path, "runtime.ddp=true"), tmp_path, rank1=without_data)
    assert [end.code for end in ended] == [1, 1]
    assert ended[0].said == ""
    error = RunFolder(only_folder(tmp_path)).error()
    assert error is not None
    assert error["message"] == "digits: not on this node"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(tmp_path: Path, rank: int) -> None:
    ended = two(config(tmp_path, "runtime.ddp=true"), tmp_path, **{f"rank{rank}": partial(stop, signal.SIGKILL, 4)})
    assert ended[rank].code == -signal.SIGKILL
    assert ended[1 - rank].code == 1
    assert f"rank {rank} of 2 has ended without a word" in ended[1 - rank].said.splitlines()[-1]
    folder = RunFolder(only_folder(tmp_path))
    assert folder.state() is (State.failed if rank == 1 else State.lost)
    if rank == 1:
        assert f"rank {rank} of 2 has ended without a word" in (folder.error() or {})["message"]


def stop(number: signal.Signals, step: int) -> None:
    few_digits(IMAGES)
    signal_after(number, step)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on(tmp_path: Path, rank: int) -> None:
    """To the same bits with as many ranks; and one process may take over."""
    cfg = config(tmp_path / "stopped", MOVING, "runtime.ddp=true")
    ended = two(cfg, tmp_path, **{f"rank{rank}": partial(stop, signal.SIGUSR1, 5)})
    assert [end.code for end in ended] == [1, 0], "\n".join(end.said for end in ended)
    assert "stopped by SIGUSR1, nothing lost" in ended[0].said
    assert ended[1].said == ""
    folder = RunFolder(only_folder(tmp_path / "stopped"))
    assert folder.state() is State.planned
    position = (folder.load("last") or {})["position"]
    assert (position["epoch"], position["step"]) == (1, 2)
    if rank == 1:
        with with_few_digits(IMAGES):
            assert run(config(tmp_path / "stopped", MOVING))["epochs"] == 3
        return
    assert [end.code for end in two(cfg, tmp_path)] == [0, 0]
    undisturbed = config(tmp_path / "undisturbed", MOVING, "runtime.ddp=true")
    assert [end.code for end in two(undisturbed, tmp_path)] == [0, 0]
    found, expected = (outcome(only_folder(tmp_path / name)) for name in ("stopped", "undisturbed"))
    assert_same(found, expected)


def stop_in_evaluation() -> None:
    original, calls = Tally.update, itertools.count(1)

    def update(self: Tally, scores: torch.Tensor, labels: torch.Tensor) -> None:
        original(self, scores, labels)
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    Tally.update = update  # type: ignore[method-assign]


@pytest.mark.slow
def test_image_files_and_a_stop_in_an_evaluation(tmp_path: Path) -> None:
    """Workers of each rank read its part; what is trained on is what one process trains on."""
    write_tiny_imagenet(tmp_path / "data", num_classes=3, per_class=8, per_class_test=4)
    network = ["dataset=imagenet200", "dataset.num_classes=3", "backbone=small", "dimension=2", "batch_size=5"]
    augment = ["augment.policy=trivial", "augment.erase=0.5", "augment.mixup=0.2", "augment.cutmix=1"]
    own = ["epochs=2", "runtime.eval_batch_size=5", f"data_root={tmp_path / 'data'}", "precision=fp32"]
    fixed = ["runtime.threads=1", "device=cpu", *network, *augment, *own]
    shared = compose_config(*fixed, "runtime.ddp=true", f"runs_dir={tmp_path / 'two' / 'runs'}")
    ended = [child.end() for child in train_together(shared, tmp_path, 2, {1: stop_in_evaluation})]
    assert [end.code for end in ended] == [1, 0], "\n".join(end.said for end in ended)
    assert "stopped by SIGTERM, nothing lost" in ended[0].said
    folder = RunFolder(only_folder(tmp_path / "two"))
    assert (folder.load("last") or {})["position"]["step"] == 5
    assert folder.lines("metrics") == []
    assert [child.end().code for child in train_together(shared, tmp_path)] == [0, 0]
    expected = run(compose_config(*fixed, f"runs_dir={tmp_path / 'one' / 'runs'}"))
    result = folder.result()
    assert result is not None
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    assert folder.lines("assignments") == RunFolder(only_folder(tmp_path / "one")).lines("assignments")


# -- where the ranks are


@pytest.mark.slow
@pytest.mark.parametrize("program", ["launch", "run"])
def test_ranks_that_torchrun_starts(tmp_path: Path, program: str) -> None:
    words = [*OWN, "max_steps=2", f"runs_dir={tmp_path / 'runs'}", f"data_root={tmp_path / 'data'}", "runtime.ddp=true"]
    what = [str(LAUNCH), *words] if program == "launch" else ["-m", "dl2pa", "run", str(planned(*words).path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*torchrun, *what], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    result = RunFolder(only_folder(tmp_path)).result()
    assert result is not None
    assert result["hardware"].startswith("2 x ")


def run_and_tell_who_listens(cfg: DictConfig) -> None:
    run(cfg)
    print("listening:", [thread.name for thread in threading.enumerate() if "listen" in thread.name])


def test_nobody_listens_any_longer_than_the_run(tmp_path: Path) -> None:
    """At the interpreter's end such a thread would abort the process."""
    cfg = config(tmp_path, "runtime.ddp=true", "max_steps=1")
    ended = [child.end() for child in together(partial(run_and_tell_who_listens, cfg), tmp_path)]
    assert [end.code for end in ended] == [0, 0]
    assert all("listening: []" in end.said for end in ended)


def test_the_places_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    assert ranks.place(torchrun) == ranks.Place(5, 8, 1, "env://")
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "17"}
    found = ranks.place({**step, "SLURM_STEP_ID": "0", "MASTER_ADDR": "node-1"})
    assert found == ranks.Place(3, 4, 1, "tcp://node-1:16717")
    urls = [ranks.place({**step, "SLURM_JOB_ID": str(job), "MASTER_ADDR": "node-1"}).url for job in range(15000)]
    assert len(set(urls)) == len(urls), "jobs whose numbers lie near one another do not share a port"
    assert ranks.place({**step, "MASTER_ADDR": "node-1", "MASTER_PORT": "7"}).url == "tcp://node-1:7"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"scontrol does not say which nodes node-.* are: set MASTER_ADDR"):
        ranks.place({**step, "SLURM_STEP_NODELIST": "node-[1-2]"})


@pytest.mark.parametrize("environment", [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}])
def test_ddp_without_ranks(environment: dict[str, str]) -> None:
    """A batch script, too, is told of all the tasks of its job, and is none of them."""
    with pytest.raises(UserError, match=r"runtime\.ddp=true: this process is not one of several ranks; .*torchrun"):
        ranks.place(environment)


def test_more_ranks_than_images_in_a_batch(tmp_path: Path) -> None:
    cfg = config(tmp_path, "runtime.ddp=true", "batch_size=2")
    ended = [child.end() for child in train_together(cfg, tmp_path, 3)]
    assert [end.code for end in ended] == [1, 1, 1]
    assert sum("3 processes train on each" in end.said for end in ended) == 1
    error = RunFolder(only_folder(tmp_path)).error()
    assert error is not None
    assert error["message"].startswith("batch_size=2 makes batches of 2 images, and 3 processes train on each")


def test_a_sweep_here_has_no_ranks(tmp_path: Path) -> None:
    ended = launch("-m", "runtime.ddp=true", "max_steps=1", "device=cpu", cwd=tmp_path).end()
    assert ended.code == 1
    assert "runtime.ddp=true does not fit hydra/launcher=local, which starts one process a run" in ended.said


def test_ranks_train_one_folder_at_a_time(tmp_path: Path) -> None:
    folders = [str(planned(*OWN, f"seed={seed}", f"runs_dir={tmp_path}", "runtime.ddp=true").path) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"runtime\.ddp=true: .* one run folder at a time"):
        run_folders(folders)


def test_a_device_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"device=cuda:1 does not fit runtime\.ddp=true"):
        run(config(tmp_path, "runtime.ddp=true", "device=cuda:1"))
