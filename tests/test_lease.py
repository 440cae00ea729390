"""The lease of a run folder: who has it, who takes it over, and who notices."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from dl2pa import lease
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder, State
from dl2pa.lease import Holder, Lease
from dl2pa.sweep import executors, slurm

ELSEWHERE = Holder("another-host", 1, 0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and patience of a tenth of what they are."""
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "MISSED", 1.0)


def held_elsewhere(folder: Path, number: int = 1, silent: float = 0.0) -> Path:
    """The lease of a process on another host, last touched ``silent`` seconds ago."""
    path = folder / f"lease.{number}"
    path.write_text(json.dumps(vars(ELSEWHERE)))
    os.utime(path, (time.time() - silent,) * 2)
    return path


def test_of_many_that_try_one_has_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom dl2pa.lease import Lease\nfrom dl2pa.errors import UserError\nsys.stdin.readline()\n"
        "try:\n    Lease.acquire(pathlib.Path(sys.argv[1])); print('mine', flush=True)\n"
        "except UserError as error:\n    print(error, flush=True)\nsys.stdin.read()\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = []
    for racer in racers:
        assert racer.stdout is not None
        said.append(racer.stdout.readline().strip())
    assert sorted(line == "mine" for line in said) == [False, False, False, True]
    (pid,) = [racer.pid for racer, line in zip(racers, said, strict=True) if line == "mine"]
    assert all(f"another process is working on this run (pid {pid} on " in line for line in said if line != "mine")
    for racer in racers:
        racer.kill()
        racer.communicate()
    taken = Lease.acquire(tmp_path)  # at once: its holder died on this host
    assert [path.name for path in tmp_path.iterdir()] == ["lease.2"]
    taken.release()


def test_one_that_comes_late_does_not_take_a_number_that_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its lease another took the folder, let go, and a third one took it."""
    Lease.acquire(tmp_path).release()
    create, others = lease._create, []

    def late(path: Path, holder: Holder) -> None:
        monkeypatch.setattr(lease, "_create", create)
        Lease.acquire(tmp_path).release()
        others.append(Lease.acquire(tmp_path))
        create(path, holder)

    monkeypatch.setattr(lease, "_create", late)
    with pytest.raises(UserError, match="another process is working on this run"):
        Lease.acquire(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lease.3"]
    others[0].release()


def test_another_process_with_the_pid_of_a_dead_holder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = Holder.this_process()
    assert alive.lives_here()
    with monkeypatch.context() as clock:  # set by a minute, which moves what psutil makes of the start
        told = psutil.Process().create_time()
        clock.setattr(psutil.Process, "create_time", lambda self: told + 60)
        assert alive.lives_here()
    (tmp_path / "lease.1").write_text(json.dumps({**vars(alive), "started": alive.started - 100}))
    assert not lease.alive(tmp_path)
    (tmp_path / "lease.1").write_text(json.dumps(vars(alive)))
    assert lease.alive(tmp_path)


def test_a_holder_elsewhere_that_beats_keeps_it(tmp_path: Path, quick: None) -> None:
    path = held_elsewhere(tmp_path)
    end = threading.Event()

    def beat() -> None:
        while not end.wait(lease.BEAT):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(UserError, match="pid 1 on another-host"):
            Lease.acquire(tmp_path)
        time.sleep(2 * lease.MISSED)
        assert lease.alive(tmp_path)
    finally:
        end.set()
        beating.join()


def test_a_holder_elsewhere_that_falls_silent_loses_it(tmp_path: Path, quick: None) -> None:
    held_elsewhere(tmp_path)
    began = time.monotonic()
    taken = Lease.acquire(tmp_path)
    assert time.monotonic() - began > 0.9 * lease.MISSED, "it was given no time to beat"
    taken.check()
    taken.release()


def test_a_holder_that_was_taken_over_ends(tmp_path: Path, quick: None) -> None:
    """As after a network that was away: it must not write another line."""
    mine = Lease.acquire(tmp_path)
    mine.check()
    (tmp_path / "lease.1").unlink()
    held_elsewhere(tmp_path, 2)
    time.sleep(3 * lease.BEAT)
    with pytest.raises(UserError, match="another process has taken this run over"):
        mine.check()
    mine.release()
    assert json.loads((tmp_path / "lease.2").read_text()) == vars(ELSEWHERE), "the new holder's lease is left alone"


def test_a_holder_whose_folder_was_deleted_ends(tmp_path: Path, quick: None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    mine = Lease.acquire(folder)
    shutil.rmtree(folder)
    time.sleep(3 * lease.BEAT)
    with pytest.raises(UserError, match="run: the folder was deleted while the run worked in it"):
        mine.check()
    mine.release()


def test_a_process_that_was_frozen_looks_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that beats was frozen, too: check() itself looks."""
    mine = Lease.acquire(tmp_path)
    (tmp_path / "lease.1").rename(tmp_path / "lease.2")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + lease.MISSED)
    with pytest.raises(UserError, match="taken this run over"):
        mine.check()


def test_a_holder_whose_name_is_just_being_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lease.1"
    path.touch()
    looked = lease._beaten

    def beaten(folder: Path, number: int) -> float:
        seen = looked(folder, number)
        path.write_text(json.dumps(vars(Holder.this_process())))
        return seen

    monkeypatch.setattr(lease, "_beaten", beaten)
    with pytest.raises(UserError, match=rf"pid {os.getpid()} on "):
        Lease.acquire(tmp_path)


def test_the_state_of_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.state() is State.planned
    held_elsewhere(tmp_path, silent=1)
    assert folder.state() is State.running
    held_elsewhere(tmp_path, silent=lease.MISSED + 1)
    assert folder.state() is State.lost
    folder.write_job("12_3")
    assert folder.state({"12_3": "PENDING"}) is State.queued  # requeued after its node was lost
    # Its node, or the file system, may be away for a moment only, and SLURM will know.
    assert folder.state({"12_3": "RUNNING"}) is State.running
    folder.write_job("12_3", shared=True)
    assert folder.state({"12_3": "RUNNING"}) is State.lost  # another run of the same task may go on
    assert folder.state({"12_3": "NODE_FAIL"}) is State.lost
    with folder.claimed():
        assert folder.state({}) is State.running, "what it does itself counts more than the scheduler's word"
    assert folder.state({"12_3": "RUNNING"}) is State.running  # queued again, and about to take the folder over
    assert folder.state({"12_3": ""}) is State.lost  # stopped in good order, but nobody will go on with it
    folder.write_error(ValueError("broken"))
    assert folder.state({"12_3": "FAILED"}) is State.failed
    assert folder.state({"12_3": "RUNNING"}) is State.failed  # another run of the same task may go on
    assert folder.state({"12_3": "PENDING"}) is State.queued
    folder.write_error(None)
    folder.write_job(None)
    assert folder.state() is State.planned
    folder.write_result({"top1": 1.0})
    assert folder.state({}) is State.finished


@pytest.mark.parametrize("ends", ["finished", "stopped", "taken over"])
def test_the_state_of_a_run_that_ends_while_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Between the look at the lease and at its process: a run that ends in good order is neither lost nor planned."""
    folder, held = RunFolder(tmp_path), Lease.acquire(tmp_path)
    later: list[Lease] = []

    def ending(holder: Holder) -> bool:
        monkeypatch.undo()
        if ends == "finished":
            folder.write_result({"top1": 1.0})
        held.release()
        if ends == "taken over":
            later.append(Lease.acquire(tmp_path))
        return False  # the process is not there any more

    monkeypatch.setattr(Holder, "lives_here", ending)
    expected = {"finished": State.finished, "stopped": State.planned, "taken over": State.running}
    assert folder.state() is expected[ends]
    for lease_ in later:
        lease_.release()


def test_the_result_of_a_run_that_lets_go_while_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, held, seen = RunFolder(tmp_path), Lease.acquire(tmp_path), lease.seen

    def ending(*asked: object) -> tuple[Holder | None, bool]:
        folder.write_result({"top1": 1.0})
        held.release()
        return seen(tmp_path)

    monkeypatch.setattr(lease, "seen", ending)
    assert folder.state() is State.finished


def test_an_unreadable_lease_counts_as_one_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lease.1").write_text("")
    assert lease.alive(tmp_path)
    os.utime(tmp_path / "lease.1", (time.time() - lease.MISSED - 1,) * 2)
    assert not lease.alive(tmp_path)


def test_a_run_submitted_while_the_scheduler_is_asked_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = RunFolder(tmp_path / "old"), RunFolder(tmp_path / "new")
    for folder in (old, new):
        folder.path.mkdir()
    old.write_job("1")

    def queue() -> dict[str, str]:
        new.write_job("2")
        return {"3": "RUNNING"}

    monkeypatch.setattr(slurm, "queue", queue)
    answer = executors.queue_of([old, new])
    assert [folder.state(answer) for folder in (old, new)] == [State.lost, State.queued]
