"""launch.py -m on this machine: slots, failures, stopping, going on, and the verbs beside it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from composing import compose_config
from faults import environment
from kills import bits
from processes import LAUNCH, SECONDS, Ended, command, planned, python, undisturbed, wait_for

from dl2pa import lease
from dl2pa.errors import Stopped, UserError
from dl2pa.folder import RunFolder, State
from dl2pa.lease import Holder
from dl2pa.memory import available
from dl2pa.sweep import executors, grid, plan, record, sharing, verbs
from dl2pa.sweep.compose import composing
from dl2pa.sweep.launch import launch
from dl2pa.sweep.local import Local, gpus, work_off
from dl2pa.sweep.look import look_all
from dl2pa.sweep.record import Record
from dl2pa.sweep.sharing import Measured
from hydra_plugins.dl2pa_sweep.launchers import RunFolderLauncher

WORDS = ("runtime.threads=1", "device=cpu", "hydra.launcher.slots=2")


def start(tmp_path: Path, *words: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(LAUNCH), "-m", *WORDS, *words],
        cwd=tmp_path,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep(tmp_path: Path, *words: str, env: Mapping[str, str] | None = None) -> Ended:
    return command("-m", *WORDS, *words, cwd=tmp_path, env=env)


def verb(tmp_path: Path, *words: str, env: Mapping[str, str] | None = None) -> Ended:
    return python("-m", "dl2pa", *words, cwd=tmp_path, env=env)


def folders(tmp_path: Path) -> dict[int, RunFolder]:
    """By seed."""
    return {int(folder.run_id.split("-s")[1][0]): folder for folder in RunFolder.below(tmp_path / "runs")}


def at_work(tmp_path: Path, *seeds: int) -> bool:
    """Whether processes have the folders of these seeds, of which some may not be there yet."""
    with contextlib.suppress(UserError, KeyError):
        by_seed = folders(tmp_path)
        return all(lease.alive(by_seed[seed].path) for seed in seeds)
    return False


def delete(path: Path) -> None:
    """``rm -rf`` of a folder into which a process may be writing just then: again, until it is gone."""

    def gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    wait_for(gone)


@pytest.mark.slow
def test_one_that_raises_one_that_dies_and_one_that_works(tmp_path: Path) -> None:
    faults = {"-s0-": "1 / (3 - step)", "-s1-": "import os; step == 3 and os._exit(7)"}
    env = environment(tmp_path / "faults", faults)
    ended = sweep(tmp_path, "seed=0,1,2", "epochs=2", env=env)
    assert ended.code == 1
    assert "2 of 3 runs did not finish" in ended.said
    assert ": division by zero" in ended.said
    by_seed = folders(tmp_path)
    states = [by_seed[seed].state() for seed in (0, 1, 2)]
    assert states == [State.failed, State.lost, State.finished]
    error = by_seed[0].error()
    assert error is not None
    assert error["traceback"].rstrip().endswith("ZeroDivisionError: division by zero")
    assert "exec(statement" in ended.said, "the last lines of the traceback are shown"

    told = verb(tmp_path, "status", "runs").said
    assert "3 runs: 1 finished, 1 failed, 1 lost" in told
    assert "division by zero" in told
    assert "is gone" in told
    said = verb(tmp_path, "logs", str(by_seed[0].path)).said
    assert "dl2pa on digits" in said
    assert "ZeroDivisionError: division by zero" in said

    before = bits(by_seed[2])
    again = verb(tmp_path, "retry", "--failed", "runs")
    assert again.code == 0, again.said
    assert [folder.state() for folder in folders(tmp_path).values()] == [State.finished] * 3
    assert bits(by_seed[2]) == before, "what was finished is left alone"
    assert verb(tmp_path, "retry", "--failed", "runs").said == "no run has failed or was lost\n"


@pytest.mark.slow
def test_stopped_and_gone_on_with(tmp_path: Path) -> None:
    """Ctrl-C saves what runs and starts nothing more; the same command ends as if it had not been stopped."""
    words = ("seed=0,1,2", "epochs=4")
    process = start(tmp_path, *words, env=environment(tmp_path / "faults", {"dl2pa": "import time; time.sleep(.1)"}))
    wait_for(lambda: at_work(tmp_path, 0) and bool(folders(tmp_path)[0].lines("metrics")))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "stopped, nothing lost: 0 of 3 runs are finished; the same command goes on" in said
    by_seed = folders(tmp_path)
    assert [by_seed[seed].state() for seed in (0, 1, 2)] == [State.planned] * 3
    assert by_seed[2].attempts() == 0
    assert max(len(by_seed[seed].lines("metrics")) for seed in (0, 1)) in range(1, 4)

    ended = sweep(tmp_path, *words)
    assert ended.code == 0, ended.said
    assert "going on at epoch" in verb(tmp_path, "logs", str(by_seed[0].path)).said
    for seed in (0, 1, 2):
        assert bits(by_seed[seed]) == bits(undisturbed(tmp_path / f"alone{seed}", f"seed={seed}", words[1]))


@pytest.mark.slow
def test_a_killed_pool_leaves_its_runs_to_the_next(tmp_path: Path) -> None:
    """The runs of a killed pool go on; the same command waits for them, trains the rest and begins nothing twice."""
    env = environment(tmp_path / "faults", {"dl2pa": "import time; time.sleep(.005)"})
    words = ("seed=0,1,2", "epochs=10")
    process = start(tmp_path, *words, env=env)
    wait_for(lambda: at_work(tmp_path, 0, 1))
    process.kill()
    process.communicate()
    assert "2 running" in verb(tmp_path, "status", "runs").said
    ended = sweep(tmp_path, *words, env=env)
    assert ended.code == 0, ended.said
    assert "2 queued or running already" in ended.said
    assert [folder.attempts() for folder in folders(tmp_path).values()] == [1, 1, 1]
    assert [folder.state() for folder in folders(tmp_path).values()] == [State.finished] * 3


@pytest.mark.slow
def test_cancelled_from_another_shell(tmp_path: Path) -> None:
    env = environment(tmp_path / "faults", {"dl2pa": "import time; time.sleep(.02)"})
    process = start(tmp_path, "seed=0,1,2", "epochs=100", env=env)
    wait_for(lambda: at_work(tmp_path, 0, 1))
    cancelled = verb(tmp_path, "cancel", "runs")
    assert cancelled.said.startswith("asked 2 runs and 1 of their launchers to stop"), cancelled.said
    process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    by_seed = folders(tmp_path)
    assert [by_seed[seed].state() for seed in (0, 1, 2)] == [State.planned] * 3
    assert [by_seed[seed].attempts() for seed in (0, 1, 2)] == [1, 1, 0]


@pytest.mark.slow
def test_cancelled_where_two_pools_work_on_one_sweep(tmp_path: Path) -> None:
    """Launched again from another shell it waits for the runs of the first; both are stopped, and begin nothing."""
    slow = environment(tmp_path / "faults", {"-s": "import time; time.sleep(.05)"})
    words = ("seed=0,1,2,3,4", "prototypes=simplex", "dimension=9")
    pools = [start(tmp_path, *words, env=slow)]
    wait_for(lambda: at_work(tmp_path, 0, 1))
    pools.append(start(tmp_path, *words, env=slow))
    wait_for(lambda: at_work(tmp_path, 0, 1, 2, 3))
    assert verb(tmp_path, "cancel", "runs").code == 0
    for pool in pools:
        said, _ = pool.communicate(timeout=SECONDS)
        assert "stopped, nothing lost" in said, said
    assert [folder.state() for folder in folders(tmp_path).values()] == [State.planned] * 5


@pytest.mark.slow
def test_a_sweep_file_adds_what_is_not_there(tmp_path: Path) -> None:
    """sweep=NAME with more seeds trains the new ones alone; its record lists its runs; a wrong name is an error."""
    words = ("sweep=k8", "dataset=digits", "dimension=4", "max_steps=1", "runtime.eval_batch_size=2000")
    assert "sweep k8" in (ended := sweep(tmp_path, *words, "seed=0", "assignment.every=1")).said
    assert ended.code == 0, ended.said
    count = len(RunFolder.below(tmp_path / "runs"))
    attempts = {folder.run_id: folder.attempts() for folder in RunFolder.below(tmp_path / "runs")}
    ended = sweep(tmp_path, *words, "seed=0,1", "assignment.every=1")
    assert f"{2 * count} runs, {count} finished, {count} to run" in ended.said
    for folder in RunFolder.below(tmp_path / "runs"):
        assert folder.attempts() == 1, attempts
    assert len(record.read(tmp_path / "runs", "k8").runs) == 2 * count
    with pytest.raises(UserError, match=r"sweep=k9: no sweep of .*; there are: k8"):
        record.read(tmp_path / "runs", "k9")
    for name in ("nonsense", "k8,k9"):
        wrong = sweep(tmp_path, f"sweep={name}")
        assert wrong.code == 1
        assert name in wrong.said
        assert "k10" in wrong.said


def test_a_run_that_another_process_takes_while_ours_starts_is_waited_for(tmp_path: Path) -> None:
    """As the run of a killed pool does that had not got as far as its folder."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")

    def faster() -> None:
        wait_for(folder.output.exists)
        held = lease.Lease.acquire(folder.path)
        wait_for(lambda: "another process is working on this run" in folder.output.read_text())
        time.sleep(1)  # in which a pool that gives up does
        folder.write_result({"top1": 1.0})
        held.release()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(faster)
        work_off([folder], [os.environ], [folder])
        assert folder.state() is State.finished
        ended.result()
    assert folder.error() is None


def test_a_run_that_another_process_takes_after_ours_has_died_is_waited_for(tmp_path: Path) -> None:
    """As the run of a killed pool does that was still starting, while the slots are busy with others."""
    mine, busy = (planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1))
    release = tmp_path / "release"
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        f"while {str(busy.path)!r} in sys.orig_argv and not os.path.exists({str(release)!r}):\n    time.sleep(.05)\n"
        "if 'run' in sys.orig_argv:\n    os._exit(3)\n"
    )

    def later() -> None:
        wait_for(lambda: mine.error() is not None)
        held = lease.Lease.acquire(mine.path)
        mine.write_error(None)
        release.touch()
        wait_for(lambda: busy.error() is not None)
        time.sleep(1)  # in which a pool that gives up does
        mine.write_result({"top1": 1.0})
        held.release()

    slot = {**os.environ, "PYTHONPATH": str(tmp_path / "faults")}
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(later)
        work_off([mine, busy], [slot, slot], [mine, busy])
        assert mine.state() is State.finished
        ended.result()
    assert busy.state() is State.failed


def test_a_run_that_is_stopped_alone_and_one_whose_folder_is_deleted(tmp_path: Path) -> None:
    """The others go on; the command says which did not finish, and fails. A job around it is none of the runs'."""
    slow = environment(tmp_path / "faults", {"-s0-": "import time; time.sleep(.05)"}) | {"SLURM_JOB_ID": "7"}
    words = (*WORDS[:2], "hydra.launcher.slots=1", "seed=0,1,2", "epochs=2", "prototypes=simplex", "dimension=9")
    process = start(tmp_path, *words, env=slow)
    wait_for(lambda: at_work(tmp_path, 0))
    runs = folders(tmp_path)
    shutil.rmtree(runs[2].path)
    assert verb(tmp_path, "cancel", str(runs[0].path)).code == 0
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, said
    assert runs[0].state() is State.planned
    assert runs[1].state() is State.finished
    for seed in (0, 2):
        assert f"{runs[seed].run_id}: stopped, or deleted, before it finished" in said, said
    (name,) = (path.stem for path in (tmp_path / "runs" / ".sweeps").glob("*.json"))
    assert "2 runs: 1 planned, 1 finished" in verb(tmp_path, "status", "runs", f"sweep={name}").said


def test_a_run_whose_folder_is_deleted_under_it(tmp_path: Path) -> None:
    """Those beside it and after it do not notice."""
    slow = environment(tmp_path / "faults", {"-s": "import time; time.sleep(.05)"})
    process = start(tmp_path, "seed=0,1,2", "epochs=2", "prototypes=simplex", "dimension=9", env=slow)
    wait_for(lambda: at_work(tmp_path, 0, 1))
    runs = folders(tmp_path)
    delete(runs[0].path)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, said
    assert f"{runs[0].run_id}: stopped, or deleted, before it finished" in said, said
    assert [runs[seed].state() for seed in (1, 2)] == [State.finished] * 2, said
    assert [runs[seed].attempts() for seed in (1, 2)] == [1, 1]
    assert "Traceback" not in said


def test_what_goes_wrong_in_the_pool_costs_no_run_what_it_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planned("device=cpu", "epochs=100", f"runs_dir={tmp_path}", "prototypes=simplex", "dimension=9")

    def show(*_: object) -> None:
        if folder.lines("metrics"):
            raise OSError("the terminal is gone")

    monkeypatch.setattr("dl2pa.sweep.local.Display.show", show)
    with pytest.raises(OSError, match="the terminal is gone"):
        work_off([folder], [os.environ], [folder])
    assert folder.state() is State.planned, "it was asked to save, and not killed"
    assert folder.load("last") is not None


def test_one_unreadable_run_hides_no_other(tmp_path: Path) -> None:
    runs = [planned(f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1)]
    (runs[0].path / "config.yaml").write_text("[")
    looks = look_all(RunFolder.below(tmp_path), None)
    assert {look.run: "config.yaml: cannot be read" in look.note for look in looks} == {
        runs[0].key: True,
        runs[1].key: False,
    }


def test_cancelling_what_has_not_begun_and_what_is_there_no_more(tmp_path: Path) -> None:
    """A run that waits for a slot is not said to be stopped; a deleted one does not keep its sweep from being."""
    slow = environment(tmp_path / "faults", {"-s": "import time; time.sleep(.05)"})
    words = (*WORDS[:2], "hydra.launcher.slots=1", "seed=0,1,2", "prototypes=simplex", "dimension=9")
    process = start(tmp_path, *words, env=slow)
    wait_for(lambda: at_work(tmp_path, 0))
    runs = folders(tmp_path)
    waiting = verb(tmp_path, "cancel", str(runs[1].path))
    assert waiting.code == 1
    assert f"{runs[1].path}: is to begin yet: its launcher goes on" in waiting.said
    shutil.rmtree(runs[2].path)
    (name,) = (path.stem for path in (tmp_path / "runs" / ".sweeps").glob("*.json"))
    cancelled = verb(tmp_path, "cancel", "runs", f"sweep={name}")
    assert cancelled.said.startswith("asked 1 runs and 1 of their launchers to stop"), cancelled.said
    assert cancelled.code == 0, cancelled.said
    said, _ = process.communicate(timeout=SECONDS)
    assert "stopped, nothing lost" in said
    assert [runs[seed].state() for seed in (0, 1)] == [State.planned] * 2
    assert [runs[seed].attempts() for seed in (0, 1)] == [1, 0]
    shutil.rmtree(tmp_path / "runs" / "digits")
    assert f"sweep={name}: all of its runs in " in verb(tmp_path, "status", "runs", f"sweep={name}").said


def test_a_run_that_is_cancelled_is_not_begun_by_another_pool_that_waits_for_it(tmp_path: Path) -> None:
    slow = environment(tmp_path / "faults", {"-s0-": "import time; time.sleep(1)"})
    words = ("epochs=10", "prototypes=simplex", "dimension=9")
    pools = [start(tmp_path, "seed=0", *words, env=slow)]
    wait_for(lambda: at_work(tmp_path, 0))
    pools.append(start(tmp_path, "seed=0,1", *words, env=slow))
    wait_for(lambda: len(folders(tmp_path)) == 2 and folders(tmp_path)[1].finished())
    runs = folders(tmp_path)
    assert runs[0].state() is State.running
    assert verb(tmp_path, "cancel", str(runs[0].path)).code == 0
    for pool in pools:
        said, _ = pool.communicate(timeout=SECONDS)
        assert pool.returncode == 1, said
    assert f"{runs[0].run_id}: stopped, or deleted, before it finished" in said, said
    assert runs[0].state() is State.planned
    assert runs[0].attempts() == 1


def test_an_error_before_the_run_has_its_folder(tmp_path: Path) -> None:
    """A broken installation says so in every run."""
    env = environment(tmp_path / "faults", {})
    (tmp_path / "faults" / "torch.py").write_text("raise ImportError('libbroken.so')")
    ended = sweep(tmp_path, "seed=0,1", "prototypes=simplex", "dimension=9", env=env)
    assert ended.code == 1
    assert ended.said.count("failed: runs/digits/") == 2, ended.said
    assert ended.said.count(": ImportError: libbroken.so") == 2, ended.said
    assert [folder.state() for folder in folders(tmp_path).values()] == [State.failed] * 2


def test_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    many = [RunFolder(tmp_path)] * 9
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    slots = Local().environments(1, many, ["2", "5"])
    assert slots == [{"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "25"]
    slots = Local(runs_per_gpu=2).environments(1, many, ["2", "5"])
    assert slots == [{"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "2525"]
    assert len(Local(runs_per_gpu=2).environments(1, many[:3], ["2", "5"])) == 3
    assert Local(slots=1).environments(1, many, []) == [{"OMP_NUM_THREADS": "8"}]
    assert Local(slots=4, runs_per_gpu="auto").environments(1, many, []) == [{"OMP_NUM_THREADS": "2"}] * 4, "not tried"
    monkeypatch.setattr("dl2pa.sweep.local.available", lambda: 7 * 2**30)
    assert Local().environments(1, many, []) == [{"OMP_NUM_THREADS": "2"}] * 3, "2 GiB each"
    assert Local().environments(1, many[:2], []) == [{"OMP_NUM_THREADS": "4"}] * 2, "no core is idle"
    assert len(Local().environments(4, many, [])) == 2
    for value in (0, "many"):
        with pytest.raises(UserError, match=rf"hydra.launcher.slots={value} is not legal"):
            Local(slots=value).check()


def test_runs_on_the_cpu_do_not_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Sequence[str]] = []

    def environments(
        self: Local, threads: int, runs: Sequence[RunFolder], found: Sequence[str]
    ) -> list[dict[str, str]]:
        given.append(found)
        return []

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(Local, "environments", environments)
    monkeypatch.setattr("dl2pa.sweep.local.work_off", lambda *_: None)
    for devices in (["cpu", "cpu"], ["cpu", "auto"], ["cpu", "cpu", "auto"]):
        words = [(f"device={device}", f"seed={seed}") for seed, device in enumerate(devices)]
        runs = [planned(*each, f"runs_dir={tmp_path}") for each in words]
        sweep = Record("name", [run.key for run in runs])
        executors.work_off(tmp_path, sweep, runs[:2], wait=True, running=runs[2:])
    assert given == [[], ["2", "5"], ["2", "5"]]


def test_gpus_that_nobody_counts_are_not_shared_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without nvidia-smi: each run would take the first one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("dl2pa.sweep.local._NODES", str(tmp_path / "nvidia[0-9]*"))
    (tmp_path / "nvidiactl").touch()
    assert gpus() == []
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match="nvidia0 is a GPU, and nvidia-smi, which counts them, is not here"):
        gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert gpus() == ["0", "1"]


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_a_job(version: int, tmp_path: Path) -> None:
    """A limit of the group above, 300 kB taken in it, 100 of them pages of files."""
    proc = tmp_path / "proc" / "self"
    top = tmp_path / "sys" / "fs" / "cgroup" / ("memory" if version == 1 else ".")
    job = top / "slurm" / "job"
    for folder in (proc, job):
        folder.mkdir(parents=True)
    (proc / "cgroup").write_text("1:name=systemd:/\n" + ("8:memory:" if version == 1 else "0::") + "/slurm/job\n")
    assert available(tmp_path) > 2**20, "no limit"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for folder, limit in ((job, "max"), (job.parent, "1000000")):
        for name, value in zip(names, (limit, "300000"), strict=True):
            (folder / name).write_text(value)
        pages = "inactive_file 7\ntotal_inactive_file 100000" if version == 1 else "inactive_file 100000"
        (folder / "memory.stat").write_text(f"anon 200000\n{pages}\n")
    assert available(tmp_path) == 800_000


def test_slots_that_were_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Speed of one run beside others of 0 to 16, of which each takes 10 of 100 bytes."""
    speeds = {1: 100.0, 2: 90.0, 4: 60.0, 8: 31.0}
    tried: list[int] = []

    def side_by_side(folder: RunFolder, count: int, environment: Mapping[str, str]) -> list[Measured]:
        tried.append(count)
        return [Measured(speeds[count], 10, 100)] * count

    monkeypatch.setattr(sharing, "side_by_side", side_by_side)
    many, found = [RunFolder(tmp_path)] * 99, ["2", "5"]
    assert len(Local(runs_per_gpu="auto").environments(1, many, found)) == 2 * 4, "8 do 248 images a second, 4 do 240"
    assert tried == [1, 2, 4, 8]
    speeds[8] = 60.0
    assert len(Local(slots="auto").environments(1, many, found)) == 2 * 8, "16 would fill the memory"
    speeds.update(dict.fromkeys(speeds, 0.0))
    assert len(Local(slots="auto").environments(1, many, found)) == 2, "runs that are over before they can be measured"
    monkeypatch.setattr(sharing, "side_by_side", lambda folder, count, environment: [])
    assert len(Local(slots="auto").environments(1, many, found)) == 2, (
        "one a GPU: a run that cannot be tried says why itself"
    )


def test_memory_of_runs_side_by_side() -> None:
    """Three runs take 10 of 100 bytes each, on a GPU and on the machine."""
    on_gpu = sharing.together([{"images_per_second": 5.0, "taken_by_all": 30, "free": 70}] * 3)
    here = sharing.together([{"images_per_second": 5.0, "taken": 10, "free": 70}] * 3)
    assert on_gpu == here == [Measured(5.0, 10, 100)] * 3


def test_those_that_are_tried_train_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three stands in for a probe, and ends when all have been told to begin."""
    program = f"""
import json, sys, time
from pathlib import Path
print("ready", flush=True)
sys.stdin.readline()
Path({str(tmp_path)!r}, str(time.monotonic_ns())).touch()
end = time.monotonic() + 30
while len(list(Path({str(tmp_path)!r}).iterdir())) < 3:
    assert time.monotonic() < end, "told to begin before the others"
    time.sleep(.01)
print(json.dumps(dict(images_per_second=1.0, taken=1, free=1)))
"""
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", program], **options)
    )
    assert sharing.side_by_side(RunFolder(tmp_path), 3, os.environ) == [Measured(1.0, 1, 4)] * 3


@pytest.mark.slow
def test_slots_are_tried(tmp_path: Path) -> None:
    """The processes of the trial train at the same time, and leave the run as it was."""
    cfg = compose_config(
        "epochs=2000",
        "runtime.threads=1",
        "runtime.compile=true",
        "device=cpu",
        f"runs_dir={tmp_path}",
    )
    folder = RunFolder.of(cfg)
    folder.plan(cfg)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    compiled = {**os.environ, "CXX": "none", "PYTHONUNBUFFERED": "1"}  # which a run would say on standard output
    found = sharing.side_by_side(folder, 2, compiled)
    assert len(found) == 2
    assert all(run.images_per_second > 0 and 2**26 < run.memory < run.capacity for run in found)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    assert sharing.side_by_side(RunFolder(tmp_path / "nothing"), 2, os.environ) == []


def worked_off(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: Mapping[str, object], *words: str, executor: str = "local"
) -> list[RunFolder]:
    """Launch the runs of these words as the sweep ``name``, without training; the sweep's runs as recorded."""
    found: list[RunFolder] = []

    def work_off(runs_dir: Path, sweep: Record, *_: object) -> None:
        record.write(runs_dir, sweep)
        found.extend(sweep.folders(runs_dir))
        if "rerun=true" in words:
            raise Stopped("stopped; the same command goes on", signal.SIGINT)

    monkeypatch.setattr(executors, "work_off", work_off)
    with composing():
        launch(plan.planned(grid.expand(grid.Sweep(), words)), name, executor, settings, wait=False)
    return found


def test_further_words_add_to_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"runs_dir={tmp_path / 'runs'}"
    worked_off(monkeypatch, "mine", {}, "seed=0", "max_steps=1", place)  # a trial: another cell
    seeds = [worked_off(monkeypatch, "mine", {}, f"seed={seed}", place) for seed in (0, 1, 0)]
    assert [len(found) for found in seeds] == [1, 2, 2]
    shutil.rmtree(seeds[0][0].path)
    assert len(worked_off(monkeypatch, "mine", {}, "seed=2", place)) == 2, "what was deleted is no part of it"


def test_a_stopped_rerun_goes_on_without_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped, match="the same command goes on without rerun=true"):
        worked_off(monkeypatch, "mine", {}, "seed=0", "rerun=true", f"runs_dir={tmp_path / 'runs'}")


def test_a_search_trains_each_of_its_points_anew_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rerun=true; every batch adds to the sweep of those before it, and leaves also their failures alone."""
    place = f"runs_dir={tmp_path / 'runs'}"
    for seed in (0, 1):
        planned(f"seed={seed}", place).write_result({"top1": 10.0})
    trained: list[str] = []

    def work_off(runs_dir: Path, sweep: Record, folders: Sequence[RunFolder], *_: object) -> None:
        record.write(runs_dir, sweep)
        for folder in folders:
            trained.append(str(folder.frozen()["seed"]))
            if trained[-1] == "2":
                folder.write_error(UserError("diverged"))
            else:
                folder.write_result({"top1": 50.0 + len(trained)})

    monkeypatch.setattr(executors, "work_off", work_off)
    launcher = RunFolderLauncher("local", wait=True)
    launcher.name, launcher.launched = None, []
    with composing():
        batches = [launcher.launch([[f"seed={seed}", "rerun=true", place]], seed) for seed in (2, 0, 1, 0)]
    assert trained == ["2", "0", "1"]
    assert [batch[0]._return_value for batch in batches[1:]] == [52.0, 53.0, 52.0]
    assert isinstance(batches[0][0]._return_value, UserError)
    (sweep,) = record.every(tmp_path / "runs")
    assert [run.split("-")[2] for run in sweep.runs] == ["s2", "s0", "s1"]


@pytest.mark.parametrize("state", [State.running, State.queued])
def test_a_rerun_of_what_is_worked_on_changes_nothing(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the other run, which has a result."""
    place = f"runs_dir={tmp_path / 'runs'}"
    done, busy = (planned(f"seed={seed}", place) for seed in (0, 1))
    done.write_result({"top1": 50.0})
    monkeypatch.setattr("dl2pa.sweep.slurm.queue", lambda: {"7": "PENDING"})
    with contextlib.ExitStack() as stack:
        if state is State.running:
            stack.enter_context(busy.claimed())
        else:
            busy.write_job("7")
        with pytest.raises(UserError, match=rf"rerun=true: {busy.path} is {state.value}: python -m dl2pa cancel"):
            worked_off(monkeypatch, "mine", {}, "seed=0,1", "rerun=true", place)
    assert done.result() == {"top1": 50.0}
    assert not (tmp_path / "runs" / ".old").exists()


@pytest.mark.parametrize(
    ("executor", "name", "value", "legal"),
    [
        ("local", "slotz", 2, "no such key; there are slots, runs_per_gpu"),
        ("local", "slots", 1.5, "use an integer or a word"),
        ("local", "runs_per_gpu", 2, "there is no GPU for these runs; hydra.launcher.slots=N"),
        ("slurm", "mem_gb", "4GB", "use a number"),
        ("slurm", "timeout_min", "4:00:00", "use an integer"),
        ("slurm", "timeout_min", 0, "use a number from 1 on"),
        ("slurm", "runs_per_gpu", "auto", "use an integer"),
        ("slurm", "setup", "module load cuda", r"use a list, \[A,B\]"),
        ("slurm", "additional_parameters", "requeue", r"use a map, \{NAME:VALUE\}"),
    ],
)
def test_settings_are_looked_at_before_anything_is_written(
    executor: str, name: str, value: object, legal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=rf"hydra\.launcher\.{name}={value}.*: {legal}"):
        worked_off(monkeypatch, "mine", {name: value}, f"runs_dir={tmp_path / 'runs'}", executor=executor)
    assert not (tmp_path / "runs").exists()


def test_where_nothing_is_left_to_run_no_gpu_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = planned("seed=0", f"runs_dir={tmp_path}")
    done.write_result({"top1": 50.0})
    executors.work_off(tmp_path, Record("mine", [done.key], "local", {"runs_per_gpu": 4}), [], wait=True)


def test_slots_leave_what_a_scheduler_runs_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take over from slots that die; a job whose node is silent for a moment goes on by itself."""
    here, there = (planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1))
    there.write_job("7")
    given: list[Sequence[RunFolder]] = []
    monkeypatch.setattr("dl2pa.sweep.local.work_off", lambda folders, slots, shown, running: given.append(running))
    executors.work_off(tmp_path, Record("mine", [here.key, there.key]), [], True, running=[here, there])
    assert given == [[here]]
    assert there.job() == "7"


def test_a_run_that_was_stopped_elsewhere_since_is_left_alone(tmp_path: Path) -> None:
    """It was running when this was launched, and was stopped before the first look."""
    folder = planned("device=cpu", f"runs_dir={tmp_path}")
    with folder.claimed():
        pass
    work_off([], [os.environ], [folder], [folder])
    assert (folder.state(), folder.attempts()) == (State.planned, 1)


def test_cancel_leaves_the_launchers_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose sweep has no run that is still there."""
    mine, gone, other = (planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1, 2))
    for name, runs, pid in (("mine", [mine], 11), ("gone", [gone], 12), ("other", [mine, other], 13)):
        pool = replace(Holder.this_process(), pid=pid)
        record.write(tmp_path, Record(name, [run.key for run in runs], pools=[pool]))
    shutil.rmtree(gone.path)
    asked: list[int] = []
    monkeypatch.setattr(verbs, "_terminate", lambda holder: not asked.append(holder.pid))
    verbs.cancel([str(mine.path)])
    assert asked == [11]


def test_cancel_goes_on_past_what_it_cannot_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that ends between the look and the signal, and one of another user."""
    runs = [planned("device=cpu", f"seed={seed}", f"runs_dir={tmp_path}") for seed in (0, 1, 2)]
    answers: list[Exception | None] = [psutil.NoSuchProcess(1), psutil.AccessDenied(1), None]

    def send_signal(process: psutil.Process, number: signal.Signals) -> None:
        assert number is signal.SIGTERM
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(psutil.Process, "send_signal", send_signal)
    with contextlib.ExitStack() as held:
        for folder in runs:
            held.enter_context(folder.claimed())
        with pytest.raises(UserError, match=rf"^\S+: runs in another user's process \(pid {os.getpid()}\), [^\n]+$"):
            verbs.cancel([str(tmp_path)])
    assert not answers
    assert "asked 2 runs to stop" in capsys.readouterr().out


def test_an_old_error_is_not_shown_as_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = planned("device=cpu", "max_steps=1", f"runs_dir={tmp_path}", "prototypes=simplex", "dimension=9")
    folder.write_error("of an earlier attempt")
    work_off([folder], [os.environ], [folder])
    said = capsys.readouterr().out
    assert "finished" in said
    assert "earlier attempt" not in said


def test_a_run_of_a_sweep_is_given_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"device=cuda:1 does not fit -m, .*: use device=cuda or auto"):
        worked_off(monkeypatch, "mine", {}, "device=cuda:1", f"runs_dir={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


def test_the_record_of_a_sweep_says_how_it_was_launched(tmp_path: Path) -> None:
    ended = sweep(tmp_path, "seed=0", "max_steps=1")
    assert ended.code == 0, ended.said
    (path,) = (tmp_path / "runs" / ".sweeps").glob("*.json")
    stored = json.loads(path.read_text())
    assert stored["executor"] == "local"
    assert stored["settings"]["slots"] == 2
    assert stored["runs"] == [folder.key for folder in RunFolder.below(tmp_path / "runs")]
    path.write_text("{")
    refused = verb(tmp_path, "cancel", "runs")
    assert "not a readable sweep" in refused.said
    assert "launch it again" in refused.said
    again = sweep(tmp_path, "seed=0", "max_steps=1")
    assert again.code == 0, again.said
    assert json.loads(path.read_text())["runs"] == stored["runs"]
