"""The run folder under kills, full disks, strangers' files and two processes at once."""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import compose_config
from omegaconf import OmegaConf
from processes import planned

from dl2pa.__main__ import run_folders
from dl2pa.errors import UserError
from dl2pa.folder import Onlooker, RunFolder
from dl2pa.identity import run_name

BIG = {"top1": 1.0, "text": "x" * 300_000}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "digits" / "some-run")
    made.path.mkdir(parents=True)
    return made


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


@contextlib.contextmanager
def full_disk(free: int = 1000) -> Iterator[None]:
    """No file may grow beyond ``free`` bytes: the system's own refusal, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- whole or not at all


def test_a_reader_never_sees_half_a_file(folder: RunFolder) -> None:
    folder.write_result({**BIG, "number": -1})
    folder.save({"number": -1, "weights": torch.zeros(20_000)}, "last")
    found: list[tuple[int, int]] = []
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                result, state = folder.result(), folder.load("last")
                assert result is not None
                assert state is not None
                assert result["text"] == BIG["text"]
                assert (state["weights"] == state["number"] + 1).all()
                found.append((result["number"], state["number"]))
        except BaseException as error:
            problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        folder.write_result({**BIG, "number": number})
        folder.save({"number": number, "weights": torch.full((20_000,), number + 1.0)}, "last")
    done.set()
    reader.join()
    assert not problems
    assert found == sorted(found)
    assert names(folder) == ["last.pt", "result.json"]


@pytest.mark.parametrize("what", ["result", "last"])
def test_a_kill_before_the_file_is_whole_leaves_the_old_one(
    folder: RunFolder, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(number: float) -> None:
        if what == "result":
            folder.write_result({"top1": number})
        else:
            folder.save({"top1": number}, what)

    def read() -> Any:
        found = folder.result() if what == "result" else folder.load(what)
        assert found is not None
        return found["top1"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    write(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(2.0)
    assert read() == 1.0
    write(3.0)  # over what the kill left behind
    assert read() == 3.0
    assert not [name for name in names(folder) if name.endswith(".part")]


def test_what_cannot_be_made_again_is_on_the_disk_before_it_has_its_name(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses its power forgets what was only written, and may keep the name."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        done.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{file}')).split('.')[0]}")
        fsync(file)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"name {target.stem}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    folder.save({"weights": torch.ones(3)}, "last")
    folder.append("metrics", {"epoch": 1})
    folder.write_result({"top1": 1.0})
    assert done == ["sync last", "name last", "sync metrics", "sync result", "name result"]


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_file(folder: RunFolder) -> None:
    folder.save({"weights": torch.ones(3)}, "last")
    with full_disk(), pytest.raises(UserError, match=r"runs_dir.*last\.pt.*MiB free") as caught:
        folder.save({"weights": torch.zeros(100_000)}, "last")
    assert "\n" not in str(caught.value)
    state = folder.load("last")
    assert state is not None
    assert state["weights"].tolist() == [1, 1, 1]
    assert names(folder) == ["last.pt"]  # and no part that goes on filling the disk
    folder.save({"weights": torch.zeros(100_000)}, "last")  # there is room again


def test_a_full_disk_leaves_the_old_result_and_names_the_file(folder: RunFolder) -> None:
    folder.write_result({"top1": 1.0})
    with full_disk(), pytest.raises(UserError, match=r"result\.json.*File too large.*MiB free"):
        folder.write_result(BIG)
    assert folder.result() == {"top1": 1.0}
    assert names(folder) == ["result.json"]


def test_a_full_disk_loses_one_line_and_none_before_it(folder: RunFolder) -> None:
    folder.append("metrics", {"epoch": 1})
    with full_disk(), pytest.raises(UserError, match=r"metrics\.jsonl"):
        folder.append("metrics", {"epoch": 2, **BIG})
    with full_disk(), pytest.raises(UserError, match=r"log\.txt"):
        folder.log(BIG["text"])  # type: ignore[arg-type]
    assert folder.lines("metrics") == [{"epoch": 1}]
    folder.keep_epochs("metrics", 1)
    folder.append("metrics", {"epoch": 2})
    assert folder.lines("metrics") == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("below", ["file", "file/runs"])
def test_a_runs_dir_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    """A path below a regular file: refused to root as well."""
    (tmp_path / "file").write_text("")
    folder = RunFolder.of(compose_config(f"runs_dir={tmp_path / below}"))
    assert folder.result() is None
    with pytest.raises(UserError, match=r"runs_dir: cannot write .*file.*runs_dir=DIR"), folder.claimed():
        pytest.fail("the folder cannot exist")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs another user, or rights that can be taken away")
def test_a_runs_dir_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(0)
    folder, user = RunFolder(shut / "digits" / "run"), os.geteuid()
    try:
        if user == 0:  # whom no mode keeps out
            os.seteuid(65534)
        with pytest.raises(UserError, match=r"result\.json.*Permission denied"):
            folder.result()
        with pytest.raises(UserError, match="Permission denied"), folder.claimed():
            pytest.fail("the folder cannot exist")
    finally:
        os.seteuid(user)
        shut.chmod(0o700)


# -- lines


def test_lines_come_back_as_they_were_written(folder: RunFolder) -> None:
    assert folder.lines("metrics") == []
    records = [{"epoch": 1, "loss": 0.1, "top1": None}, {"epoch": 2, "assignment": [2, 0, 1], "name": "ä\n"}]
    for record in records:
        folder.append("metrics", record)
    folder.append("assignments", {"epoch": 1})
    assert folder.lines("metrics") == records
    assert folder.lines("assignments") == [{"epoch": 1}]


@pytest.mark.parametrize("cut", range(1, len('{"epoch": 3, "loss": 0.25}\n')))
def test_a_line_cut_short_is_as_if_never_written(folder: RunFolder, cut: int) -> None:
    for epoch in (1, 2, 3):
        folder.append("metrics", {"epoch": epoch, "loss": 0.25})
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text()[:-cut])
    whole = 3 if cut == 1 else 2  # only the line break is missing
    assert [line["epoch"] for line in folder.lines("metrics")] == [1, 2, 3][:whole]
    # What a resumed run does, from a checkpoint of two epochs.
    folder.keep_epochs("metrics", 2)
    folder.append("metrics", {"epoch": 3, "loss": 0.5})
    assert [(line["epoch"], line["loss"]) for line in folder.lines("metrics")] == [(1, 0.25), (2, 0.25), (3, 0.5)]


def test_keep_epochs(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.keep_epochs("metrics", 0)  # before anything was written
    assert folder.lines("metrics") == []
    for epoch in (1, 2, 3):
        folder.append("metrics", {"epoch": epoch})
        folder.append("assignments", {"epoch": epoch})
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    folder.keep_epochs("metrics", 3)  # nothing to drop
    assert not synced
    folder.keep_epochs("metrics", 2)
    assert synced, "a machine that loses its power must not lose the epochs that were kept"
    assert folder.lines("metrics") == [{"epoch": 1}, {"epoch": 2}]
    assert len(folder.lines("assignments")) == 3
    folder.keep_epochs("metrics", 0)
    assert folder.lines("metrics") == []
    assert names(folder) == ["assignments.jsonl", "metrics.jsonl"]


def test_the_log_grows_by_lines(folder: RunFolder) -> None:
    folder.log("first")
    folder.log("second")
    assert (folder.path / "log.txt").read_text() == "first\nsecond\n"


# -- checkpoints


def test_checkpoints_come_back_bit_for_bit_and_apart(folder: RunFolder) -> None:
    assert folder.load("last") is None
    model = {"w": torch.randn(3, 4), "sigma": torch.tensor([2, 0, 1])}
    folder.save({"model": model, "position": {"epoch": 3, "best": None}}, "last")
    folder.save({"model": {}}, "best")
    loaded = folder.load("last")
    assert loaded is not None
    assert all(torch.equal(loaded["model"][key], model[key]) for key in ("w", "sigma"))
    assert loaded["position"] == {"epoch": 3, "best": None}
    assert folder.load("best") == {"run_id": "some-run", "model": {}}
    assert names(folder) == ["best.pt", "last.pt"]


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is no checkpoint\n")
    elif how == "tensor":
        torch.save(torch.zeros(3), path)
    elif how == "code":  # anything that unpickling would have to run or look up
        torch.save({"run_id": "some-run", "path": Path("x")}, path)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "tensor", "code"])
def test_a_damaged_checkpoint_is_named_with_the_way_out(folder: RunFolder, how: str) -> None:
    folder.save({"weights": torch.zeros(1000)}, "last")
    damaged(folder.path / "last.pt", how)
    with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint.*rerun=true") as caught:
        folder.load("last")
    assert "\n" not in str(caught.value)


def test_another_runs_checkpoint_is_refused(folder: RunFolder) -> None:
    other = RunFolder(folder.path.with_name("other-run"))
    other.path.mkdir()
    other.save({"weights": torch.zeros(3)}, "last")
    (other.path / "last.pt").rename(folder.path / "last.pt")
    with pytest.raises(UserError, match=r"checkpoint of run other-run, not of some-run.*rerun=true"):
        folder.load("last")
    torch.save({"model": {}}, folder.path / "last.pt")
    with pytest.raises(UserError, match=r"not of some-run.*rerun=true"):
        folder.load("last")


# -- the result


def test_a_result_means_finished(folder: RunFolder) -> None:
    assert folder.result() is None
    folder.write_result({"top1": 12.5, "moved": [1, 2], "imbalance": None})
    assert folder.result() == {"top1": 12.5, "moved": [1, 2], "imbalance": None}


@pytest.mark.parametrize("content", ["", '{"top1": 1', "[]", "{}"])
def test_a_damaged_result_is_named_with_the_way_out(folder: RunFolder, content: str) -> None:
    (folder.path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json: not a readable result.*rerun=true"):
        folder.result()


# -- one process at a time


def test_two_claims_at_once(folder: RunFolder) -> None:
    with folder.claimed():
        with pytest.raises(UserError, match="another process is working on this run"), RunFolder(folder.path).claimed():
            pytest.fail("claimed twice")
        folder.append("metrics", {"epoch": 1})
    with RunFolder(folder.path).claimed():
        assert folder.lines("metrics") == [{"epoch": 1}]


def test_a_claim_of_another_process_ends_with_it(folder: RunFolder) -> None:
    code = (
        "import sys, pathlib\nfrom dl2pa.folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).claimed():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), folder.claimed():
            pytest.fail("claimed twice")
        holder.kill()  # as a scheduler does: nobody lets go of anything
    with folder.claimed():
        pass


def test_a_claim_ends_with_an_error(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.claimed():
        raise ZeroDivisionError
    with folder.claimed():
        pass


def test_a_claim_on_a_full_disk_ends_with_the_error_it_had(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="nothing more fits"), folder.claimed():
        raise UserError("nothing more fits")
    assert names(folder) == ["lease.1"]


@pytest.mark.parametrize("content", ["", "epochs: [", "just words", "seed: 1"])
def test_a_damaged_config_is_named(folder: RunFolder, content: str) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "config.yaml").write_text(content)
    for read in (folder.frozen, folder.config):
        with pytest.raises(UserError, match=r"some-run/config\.yaml: (not a run's config|cannot be read) \(.*\)$"):
            read()


def test_a_config_with_an_unknown_key_is_named(tmp_path: Path) -> None:
    cfg = compose_config(f"runs_dir={tmp_path}")
    folder = RunFolder.of(cfg)
    folder.plan(cfg)
    with open(folder.path / "config.yaml", "a") as file:
        file.write("nonsense: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: does not fit this revision of the code \(.*nonsense.*\)"):
        folder.config()


def test_set_aside_numbers_old_folders(folder: RunFolder) -> None:
    runs = folder.path.parent.parent
    for number in range(3):
        with folder.claimed():
            folder.write_result({"top1": number})
            folder.set_aside()
        assert not folder.path.exists()
        kept = json.loads((runs / ".old" / "digits" / f"some-run.{number}" / "result.json").read_text())
        assert kept == {"top1": number}
    folder.set_aside()  # nothing there: nothing done
    assert len(list((runs / ".old" / "digits").iterdir())) == 3
    shutil.rmtree(runs / ".old" / "digits" / "some-run.0")
    assert folder.reruns() == 3  # no number is given twice
    with folder.claimed():  # a fresh start
        assert folder.result() is None


# -- the config


WORDS = ("dataset=digits_lt", "imbalance=0.05", "seed=3", "precision=bf16", "assignment.every=step", "device=cpu")


def test_the_config_comes_back_with_this_machines_paths(tmp_path: Path) -> None:
    cfg = compose_config(*WORDS, f"runs_dir={tmp_path}/runs", f"data_root={tmp_path}/data", "rerun=true")
    folder = RunFolder.of(cfg)
    with folder.claimed():
        folder.write_config(cfg)
        folder.write_local({"data_root": str(cfg.data_root), "precision": "bf16"})
    back = folder.config()
    assert run_name(back) == folder.run_id == run_name(cfg)
    assert RunFolder.of(back).path == folder.path
    expected = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(expected, dict)
    assert OmegaConf.to_container(back, resolve=True) == {**expected, "rerun": False}
    assert str(tmp_path) not in (folder.path / "config.yaml").read_text()


def test_a_moved_folder_knows_where_it_is(tmp_path: Path) -> None:
    cfg = compose_config(*WORDS, f"runs_dir={tmp_path}/here")
    folder = RunFolder.of(cfg)
    with folder.claimed():
        folder.write_config(cfg)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = RunFolder.existing(tmp_path / "there" / "digits_lt" / folder.run_id)
    assert moved.config().runs_dir == str(tmp_path / "there")
    assert RunFolder.of(moved.config()).path == moved.path


def test_the_first_config_stands(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "digits" / "x")
    folder.path.mkdir(parents=True)
    folder.write_config(compose_config("runtime.workers=1"))
    folder.write_config(compose_config("runtime.workers=5"))
    assert folder.config().runtime.workers == 1


def test_a_prototype_file_is_found_again_and_named_in_local_yaml_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", np.eye(10))
    cfg = compose_config(
        "prototypes=file", f"prototypes.file={tmp_path}/points.npy", "dimension=10", f"runs_dir={tmp_path}/runs"
    )
    folder = RunFolder.of(cfg)
    with folder.claimed():
        folder.write_config(cfg)
    assert folder.config().prototypes.file == str(tmp_path / "points.npy")
    assert run_name(folder.config()) == folder.run_id
    assert str(tmp_path) not in (folder.path / "config.yaml").read_text()


def test_prototypes_that_are_not_those_of_the_plan(tmp_path: Path) -> None:
    points = tmp_path / "points.npy"
    np.save(points, np.eye(10))
    folder = planned("prototypes=file", f"prototypes.file={points}", "dimension=10", f"runs_dir={tmp_path}/runs")
    np.save(points, np.eye(10)[::-1])
    with pytest.raises(UserError, match=rf"^prototypes\.file={points}: not the points with which .* was planned$"):
        run_folders([str(folder.path)])
    points.unlink()
    with pytest.raises(UserError, match=rf"^prototypes\.file={points}: gone, and {folder.path} begins with it$"):
        run_folders([str(folder.path)])


def test_local_values_add_up(folder: RunFolder) -> None:
    assert folder.local() == {}
    folder.write_local({"precision": "fp32", "threads": 2})
    folder.write_local({"threads": 4})
    assert folder.local() == {"precision": "fp32", "threads": 4}


def test_the_environment_says_where_data_are_as_the_run_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as it is worked off, by another process or elsewhere; one that somebody else planned looks there as well."""
    runs = f"runs_dir={tmp_path / 'runs'}"
    monkeypatch.setenv("DL2PA_DATA_ROOT", str(tmp_path / "mine"))
    folder = planned(runs)
    monkeypatch.setenv("DL2PA_DATA_ROOT", str(tmp_path / "yours"))
    assert folder.config().data_root == str(tmp_path / "mine")
    (folder.path / "local.yaml").unlink()
    assert folder.config().data_root == str(tmp_path / "yours")
    assert planned(runs, "data_root=typed").config().data_root == str(Path("typed").resolve())
    monkeypatch.delenv("DL2PA_DATA_ROOT")
    assert planned(runs).config().data_root == str(Path("data").resolve())


def test_a_folder_without_a_config_is_no_run_folder(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder.existing(folder.path)


# -- ranks beside the first one


def test_an_onlooker_writes_nothing() -> None:
    """Each method of a run folder that is not known to read alone is another one in an onlooker's."""
    reads = """
        of existing below within run_id runs_dir key reruns frozen config group local classes finished state attempts
        holder job error failed_since output said lines load taking result mirror_log wandb_dir mirrored
    """.split()  # noqa: SIM905 - a list of strings would fill a page
    # The first rank's alone: launchers plan and submit, and one process mirrors.
    elsewhere = {"plan", "write_job", "mirroring", "write_mirrored"}
    public = {name for name in vars(RunFolder) if not name.startswith("_")}
    assert public - set(vars(Onlooker)) == {*reads, *elsewhere}
