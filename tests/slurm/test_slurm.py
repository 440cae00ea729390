"""Sweeps on a real SLURM: every way in which a job can end, and that nothing is lost by any."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from cluster import MEMORY_LIMITS, Cluster, missing, started
from faults import environment
from filelock import FileLock
from kills import bits
from processes import LAUNCH, SECONDS, Ended, python, undisturbed, wait_for

from dl2pa.folder import RunFolder, State
from dl2pa.sweep import slurm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

WORDS = ("runtime.threads=1", "device=cpu", "hydra/launcher=slurm", "hydra.launcher.gres=gpu:1")
SMALL = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster for one test; its ports are fixed, so one at a time, whatever pytest-xdist does."""
    options = getattr(request, "param", {})
    with FileLock(Path(tempfile.gettempdir()) / "dl2pa-slurm-tests.lock"):
        base = Path(tempfile.mkdtemp(prefix="slurm"))
        base.chmod(0o755)  # munged wants its socket to be within everybody's reach
        try:
            with started(base / "cluster", **options) as running:
                yield running
        finally:
            shutil.rmtree(base, ignore_errors=True)


def dl2pa(cluster: Cluster, folder: Path, *words: str, faults: Mapping[str, str] | None = None) -> Ended:
    """launch.py -m if the first word is -m, else python -m dl2pa."""
    program = [str(LAUNCH)] if words[0] == "-m" else ["-m", "dl2pa"]
    return python(*program, *words, cwd=folder, env={**cluster.environment, **(faults or {})})


def standing_in(folder: Path, command: str, before: str) -> dict[str, str]:
    """The environment in which a command of SLURM is itself, but after these lines of shell, which may end it."""
    folder.mkdir()
    script = folder / command
    script.write_text(f'#!/bin/sh\n{before}\nexec {shutil.which(command)} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def seeds(runs_dir: Path) -> dict[int, RunFolder]:
    return {int(re.search(r"-s(\d+)-", folder.run_id)[1]): folder for folder in RunFolder.below(runs_dir)}  # type: ignore[index]


def test_a_sweep_of_which_some_runs_go_wrong(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven runs on four GPUs: one raises, one dies without a word, one is cancelled, one queued again by hand."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    slow = "import time; time.sleep(.05)"
    faults = environment(
        tmp_path / "faults",
        {"-s0-": "1 / (3 - step)", "-s1-": "import os; step == 3 and os._exit(7)", "-s2-": slow, "-s3-": slow},
    )
    words = ("dataset=digits_lt", "imbalance=0.1", "seed=range(7)", "epochs=3", *WORDS, *SMALL)
    ended = dl2pa(cluster, tmp_path, "-m", *words, faults=faults)
    assert ended.code == 0, ended.said
    assert "7 runs, 0 finished, 7 to run" in ended.said
    runs = seeds(tmp_path / "runs")
    assert len(cluster.states()) == 7, "chunked under MaxArraySize=6"
    assert {re.sub(r"_\d+$", "", str(folder.job())) for folder in runs.values()} == {
        re.sub(r"_\d+$", "", job) for job in cluster.states()
    }
    again = dl2pa(cluster, tmp_path, "-m", *words, faults=faults)
    assert "0 to run, 7 queued or running already" in again.said, again.said
    assert len(cluster.states()) == 7

    wait_for(lambda: all(runs[seed].state(slurm.queue()) is State.running for seed in (2, 3)))
    assert "running" in dl2pa(cluster, tmp_path, "status", "runs").said
    wait_for(lambda: bool(runs[3].lines("metrics")))
    cluster.ask("scancel", str(runs[2].job()))
    cluster.ask("scontrol", "requeue", str(runs[3].job()))
    wait_for(lambda: runs[3].state(slurm.queue()) is State.queued)

    def ended_all() -> bool:
        queue = slurm.queue()
        return all(folder.state(queue) not in (State.queued, State.running) for folder in runs.values())

    wait_for(ended_all)
    queue = slurm.queue()
    states = {seed: folder.state(queue) for seed, folder in runs.items()}
    assert states == {0: State.failed, 1: State.lost, 2: State.lost} | {seed: State.finished for seed in range(3, 7)}
    wait_for(lambda: not cluster.ask("squeue", "-h"))  # SLURM takes a moment more than the run
    by_slurm = {seed: cluster.states()[str(folder.job())] for seed, folder in runs.items()}
    assert by_slurm == {0: "FAILED", 1: "FAILED", 2: "CANCELLED"} | {seed: "COMPLETED" for seed in range(3, 7)}
    assert runs[3].attempts() == 2
    said = dl2pa(cluster, tmp_path, "status", "runs").said
    assert "7 runs: 4 finished, 1 failed, 2 lost" in said
    assert "division by zero" in said

    retried = dl2pa(cluster, tmp_path, "retry", "--failed", "runs")  # without the faults
    assert retried.code == 0, retried.said
    assert [runs[seed].state() for seed in (0, 1, 2)] == [State.queued] * 3
    wait_for(lambda: all(folder.state() is State.finished for folder in runs.values()))
    for seed in (0, 3):
        words_of_one = ("dataset=digits_lt", "imbalance=0.1", f"seed={seed}", "epochs=3")
        assert bits(runs[seed]) == bits(undisturbed(tmp_path / f"here{seed}", *words_of_one))


ACCOUNTED = pytest.param(
    {"more": MEMORY_LIMITS, "accounting": True},
    marks=[pytest.mark.accounting, pytest.mark.skipif(missing(True) is not None, reason=str(missing(True)))],
    id="sacct",
)


@pytest.mark.parametrize("cluster", [pytest.param({"more": MEMORY_LIMITS}, id="no sacct"), ACCOUNTED], indirect=True)
def test_killed_for_want_of_memory(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that holds more than it asked for, one run of two in a task (as the kernel does it), and beside them an
    error and a good end: within 30 s status says so, to the same words whether SLURM keeps accounts or not."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    hungry = tmp_path / "hungry"
    takes = f"open({str(hungry)!r}, 'w'); trainer.taken = b'x' * (3 << 30); time.sleep(300)"
    faults = environment(
        tmp_path / "faults",
        {
            "-s0-": f"import time\nif step == 3: {takes}",
            "-s1-": "1 / (3 - step)",
            "-s3-": "import os; step == 3 and os.kill(os.getpid(), 9)",
            "-s4-": "import time; step > 3 and time.sleep(1)",
        },
    )
    alone = ("seed=0,1,2", "epochs=2", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2")
    assert dl2pa(cluster, tmp_path, "-m", *alone, *WORDS, faults=faults).code == 0
    wait_for(hungry.exists)
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: runs[0].state(slurm.queue()) is State.lost, 30)
    wait_for(lambda: runs[1].state(slurm.queue()) is State.failed)
    wait_for(lambda: runs[2].state(slurm.queue()) is State.finished)
    said = dl2pa(cluster, tmp_path, "status", "runs").said
    assert "3 runs: 1 finished, 1 failed, 1 lost" in said
    wait_for(lambda: not cluster.ask("squeue", "-h"))
    expected = {str(runs[0].job()): "FAILED", str(runs[1].job()): "FAILED", str(runs[2].job()): "COMPLETED"}
    assert cluster.states() == expected

    def accounts() -> dict[str, str]:
        return dict(line.split("|") for line in cluster.ask("sacct", "-nPX", "-o", "JobID,State").splitlines())

    if "AccountingStorageType" in (cluster.base / "slurm.conf").read_text():
        wait_for(lambda: accounts() == expected)  # it lags behind
    else:
        assert accounts() == {}

    two = ("seed=3,4", "epochs=2", "hydra.launcher.runs_per_gpu=2", "hydra.launcher.mem_gb=4")
    assert dl2pa(cluster, tmp_path, "-m", *two, *WORDS, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    assert runs[3].job() == runs[4].job()
    wait_for(lambda: runs[3].attempts() == runs[4].attempts() == 1)
    wait_for(lambda: runs[3].state(slurm.queue()) is State.lost)
    assert runs[4].state(slurm.queue()) is State.running, "the other goes on"


def test_preempted_and_then_out_of_time(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both notices (SIGUSR2) save and queue the run again, until it is finished; two runs share a task."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.15)"})
    words = ("seed=0,1", "epochs=8", *WORDS, *SMALL, "hydra.launcher.timeout_min=1", "hydra.launcher.runs_per_gpu=2")
    assert dl2pa(cluster, tmp_path, "-m", *words, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    (job,) = {folder.job() for folder in runs.values()}
    wait_for(lambda: all(folder.attempts() == 1 for folder in runs.values()))
    wait_for(lambda: all(folder.state() is State.running for folder in runs.values()))
    cluster.ask("sbatch", "-p", "high", "-N2", "--exclusive", "--wrap", "srun sleep 1", "-o", f"{tmp_path}/high.txt")
    wait_for(lambda: all(folder.state(slurm.queue()) is State.queued for folder in runs.values()))
    # On a busy machine much of each minute goes into starting.
    wait_for(lambda: all(folder.state() is State.finished for folder in runs.values()), 3 * SECONDS)
    wait_for(lambda: cluster.states().get(job) == "COMPLETED")
    for seed, folder in runs.items():
        assert folder.attempts() >= 3, "preempted once, and out of time at least once"
        assert bits(folder) == bits(undisturbed(tmp_path / f"here{seed}", f"seed={seed}", "epochs=8"))


@pytest.mark.parametrize("cluster", [pytest.param({"user_signal": False}, id="SIGTERM")], indirect=True)
def test_preempted_by_sigterm(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's default: the preempted task of an array is queued again, whether of two runs or of one; not the other
    task, nor one that got SIGTERM for any other reason."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.1)"})
    words = (
        "epochs=20",
        "runtime.threads=1",
        "device=cpu",
        "hydra/launcher=slurm",
        "hydra.launcher.gres=gpu:2",
        *SMALL,
    )
    assert (
        dl2pa(cluster, tmp_path, "-m", "seed=range(4)", *words, "hydra.launcher.runs_per_gpu=2", faults=faults).code
        == 0
    )
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: all(folder.lines("metrics") for folder in runs.values()))
    tasks = {
        name: (raw, node)
        for name, raw, node in map(str.split, cluster.ask("squeue", "-hr", "-o", "%i %A %N").splitlines())
    }
    # Each has a node to itself, and the id of one is that of the array.
    (noticed,) = [job for job, (raw, _) in tasks.items() if job.split("_")[0] == raw]
    hit = [folder for folder in runs.values() if folder.job() == noticed]

    def preempt(node: str) -> None:
        cluster.ask(
            "sbatch", "-p", "high", "-w", node, "--exclusive", "--wrap", "srun sleep 1", "-o", f"{tmp_path}/high.txt"
        )

    preempt(tasks[noticed][1])
    wait_for(lambda: all(folder.state(slurm.queue()) is State.queued for folder in hit), 30)
    wait_for(lambda: all(folder.attempts() == 2 and folder.state() is State.running for folder in hit))
    epochs = [len(folder.lines("metrics")) for folder in hit]
    wait_for(lambda: [len(folder.lines("metrics")) for folder in hit] > epochs)
    assert [folder.attempts() for folder in runs.values() if folder not in hit] == [1, 1]
    cluster.ask("scancel", "--signal=TERM", noticed)
    wait_for(lambda: cluster.states()[noticed] == "FAILED")
    assert [folder.state(slurm.queue()) for folder in hit] == [State.lost] * 2
    cluster.ask("scancel", "--me")
    wait_for(lambda: not cluster.ask("squeue", "-h"))
    assert set(cluster.states().values()) == {"FAILED", "CANCELLED", "COMPLETED"}

    assert dl2pa(cluster, tmp_path, "-m", "seed=4", "epochs=8", *words[1:], faults=faults).code == 0
    alone = seeds(tmp_path / "runs")[4]
    wait_for(lambda: bool(alone.lines("metrics")))
    preempt(cluster.ask("squeue", "-h", "-j", str(alone.job()), "-o", "%N"))
    wait_for(lambda: alone.state(slurm.queue()) is State.queued, 30)
    wait_for(lambda: alone.state(slurm.queue()) is State.finished)
    assert alone.attempts() == 2
    assert bits(alone) == bits(undisturbed(tmp_path / "here", "seed=4", "epochs=8"))


def test_a_notice_to_one_task_of_an_array(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that one is queued again, though it is the task whose own id is the id of the array."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.1)"})
    assert dl2pa(cluster, tmp_path, "-m", "seed=range(3)", "epochs=4", *WORDS, *SMALL, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: all(folder.attempts() == 1 for folder in runs.values()))
    ids = dict(line.split() for line in cluster.ask("squeue", "-h", "-r", "-o", "%i %A").splitlines())
    (noticed,) = [seed for seed, folder in runs.items() if str(folder.job()).split("_")[0] == ids[str(folder.job())]]
    cluster.ask("scancel", "--signal=USR2", str(runs[noticed].job()))
    wait_for(lambda: all(folder.state() is State.finished for folder in runs.values()))
    assert {seed: folder.attempts() for seed, folder in runs.items()} == {0: 1, 1: 1, 2: 1, noticed: 2}


def test_a_lost_node(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is begun again where there is room, from its last checkpoint."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.05)"})
    assert dl2pa(cluster, tmp_path, "-m", "seed=0", "epochs=10", *WORDS, *SMALL, faults=faults).code == 0
    (folder,) = seeds(tmp_path / "runs").values()
    job = str(folder.job())
    wait_for(lambda: bool(folder.lines("metrics")))
    node = cluster.ask("squeue", "-h", "-r", "-j", job, "-o", "%N")
    cluster.lose(node, job)
    wait_for(lambda: folder.state(slurm.queue()) is State.lost, 30)
    wait_for(lambda: folder.state(slurm.queue()) is State.queued)
    wait_for(lambda: folder.state(slurm.queue()) is State.finished)
    assert folder.attempts() == 2
    assert cluster.ask("squeue", "-h", "-r", "--states=all", "-j", job, "-o", "%N") != node
    assert bits(folder) == bits(undisturbed(tmp_path / "here", "seed=0", "epochs=10"))


def test_cancel_and_wait(cluster: Cluster, tmp_path: Path) -> None:
    """cancel forgets the jobs: what is left is planned; the same command with wait=true goes on and comes back, though
    SLURM does not always answer."""
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.05)"})
    words = ("seed=range(5)", "epochs=2", *WORDS, *SMALL)
    assert dl2pa(cluster, tmp_path, "-m", *words, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: any(folder.attempts() for folder in runs.values()))
    said = dl2pa(cluster, tmp_path, "cancel", "runs").said
    assert "runs to stop" in said
    wait_for(lambda: not cluster.ask("squeue", "-h"))
    # SLURM kills after KillWait, which is short here, what has not got as far as its first step.
    assert {folder.state() for folder in runs.values()} <= {State.planned, State.lost}
    assert not any(folder.job() for folder in runs.values())
    asked = tmp_path / "asked"
    busy = standing_in(
        tmp_path / "busy",
        "squeue",
        f"""date +%s.%N >> {asked}
n=$(wc -l < {asked})
[ $n = 2 ] || [ $n = 3 ] && {{ echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }}""",
    )
    ended = dl2pa(cluster, tmp_path, "-m", *words, "hydra.launcher.wait=true", faults=busy)
    assert ended.code == 0, ended.said
    assert ended.said.count("squeue: slurm_load_jobs error: Socket timed out; asking again for 5 minutes") == 1
    times = [float(line) for line in asked.read_text().split()]
    assert all(later - earlier >= 4.5 for earlier, later in pairwise(times[:-1])), "the last is for the outcomes"
    assert [folder.state() for folder in runs.values()] == [State.finished] * 5


def test_one_of_two_runs_in_a_task_fails(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is failed at once, and can be tried again, while the other goes on; if the task is queued again, so is it."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    slow = "import time; time.sleep(.1)"
    faults = environment(tmp_path / "faults", {"-s0-": "1 / (3 - step)", "-s1-": slow})
    words = ("seed=0,1", "epochs=20", *WORDS, *SMALL, "hydra.launcher.runs_per_gpu=2")
    assert dl2pa(cluster, tmp_path, "-m", *words, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: bool(runs[1].lines("metrics")) and runs[0].state(slurm.queue()) is State.failed)
    task = str(runs[1].job())
    assert cluster.states()[task] == "RUNNING"
    cluster.ask("scancel", "--signal=USR2", task)
    wait_for(lambda: runs[0].state(slurm.queue()) is State.queued)
    wait_for(lambda: runs[0].attempts() == 2 and runs[0].state(slurm.queue()) is State.failed)
    wait_for(lambda: runs[1].attempts() == 2 and runs[1].state(slurm.queue()) is State.running)

    retried = dl2pa(cluster, tmp_path, "retry", "--failed", "runs")  # without the fault
    assert retried.code == 0, retried.said
    assert (runs[1].job(), runs[0].job()) == (task, next(job for job in cluster.states() if job != task))
    wait_for(lambda: runs[0].state(slurm.queue()) is State.finished)
    assert runs[1].state(slurm.queue()) is State.running


def test_cancel_runs_that_share_a_task(cluster: Cluster, tmp_path: Path) -> None:
    """All of them are planned again: those that were meant, and one beside them, which is named."""
    faults = environment(tmp_path / "faults", {"dl2pa-d4": "import time; time.sleep(.1)"})
    words = ("seed=range(4)", "epochs=20", *WORDS, *SMALL, "hydra.launcher.runs_per_gpu=2")
    assert dl2pa(cluster, tmp_path, "-m", *words, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    assert runs[0].job() == runs[1].job() != runs[2].job() == runs[3].job()
    wait_for(lambda: all(folder.lines("metrics") for folder in runs.values()))
    ended = dl2pa(cluster, tmp_path, "cancel", str(runs[0].path))
    assert ended.code == 0, ended.said
    assert f"in one job with them, and stopped, too: digits/{runs[1].run_id}\nasked 1 runs to stop" in ended.said
    wait_for(lambda: [runs[seed].state() for seed in (0, 1)] == [State.planned] * 2)
    assert runs[2].job() in cluster.states()
    ended = dl2pa(cluster, tmp_path, "cancel", "runs")
    assert ended.code == 0, ended.said
    assert ended.said == "asked 2 runs to stop; what they have done is kept\n"
    wait_for(lambda: [folder.state() for folder in runs.values()] == [State.planned] * 4)
    assert set(cluster.states().values()) <= {"CANCELLED", "COMPLETING"}


def test_a_job_that_ends_before_its_run_begins(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of setup fails, or an import: status names what the job printed, and logs shows it."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    setup = "hydra.launcher.setup=['echo no such module; exit 3']"
    assert dl2pa(cluster, tmp_path, "-m", "seed=0", "epochs=1", *WORDS, *SMALL, setup).code == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    without = "import sys\nif 'run' in sys.orig_argv: sys.modules['dl2pa.lease'] = None\n"
    (broken / "sitecustomize.py").write_text(without)
    faults = {"PYTHONPATH": str(broken)}
    assert dl2pa(cluster, tmp_path, "-m", "seed=1,2", "epochs=1", *WORDS, *SMALL, faults=faults).code == 0
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: all(folder.state(slurm.queue()) is State.lost for folder in runs.values()))
    status = dl2pa(cluster, tmp_path, "status", "runs").said
    for seed, words in {0: "no such module", 1: "ModuleNotFoundError", 2: "ModuleNotFoundError"}.items():
        job = str(runs[seed].job())
        printed = tmp_path / "runs" / ".sweeps" / "slurm" / job / f"{job}_0_log.out"
        assert f"job {job} is gone; its output: {printed}" in status
        said = dl2pa(cluster, tmp_path, "logs", str(runs[seed].path)).said
        assert said.startswith(f"-- {printed}\n")
        assert words in said


def test_runs_of_several_ranks(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks on each of two nodes train each run; a notice queues it again once; one rank's error is the run's."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    wrong = "import os, time; time.sleep(.05); os.environ['SLURM_PROCID'] == '2' and step == 3 and 1 / 0"
    faults = environment(tmp_path / "faults", {"-s0-": "import time; time.sleep(.05)", "-s1-": wrong})
    faults["MASTER_ADDR"] = "127.0.0.1"  # the nodes' names mean nothing to this machine
    both = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2")
    words = ("seed=0,1", "epochs=3", "precision=fp32", *WORDS, *SMALL)
    said = dl2pa(cluster, tmp_path, "-m", *words, *both, faults=faults).said
    assert "nodes and tasks_per_node make 4 processes a run: use runtime.ddp=true" in said
    said = dl2pa(cluster, tmp_path, "-m", *words, "runtime.ddp=true", faults=faults).said
    assert "runtime.ddp=true needs several processes a run: use hydra.launcher.tasks_per_node=N" in said
    assert cluster.states() == {}
    ended = dl2pa(cluster, tmp_path, "-m", *words, "runtime.ddp=true", *both, faults=faults)
    assert ended.code == 0, ended.said
    runs = seeds(tmp_path / "runs")
    wait_for(lambda: bool(runs[0].lines("metrics")))
    cluster.ask("scancel", "--signal=USR2", str(runs[0].job()))
    wait_for(lambda: runs[0].state(slurm.queue()) is State.finished)
    wait_for(lambda: runs[1].state(slurm.queue()) is State.failed)
    assert {seed: folder.attempts() for seed, folder in runs.items()} == {0: 2, 1: 1}
    wait_for(lambda: not cluster.ask("squeue", "-h"))
    assert [cluster.states()[str(runs[seed].job())] for seed in (0, 1)] == ["COMPLETED", "FAILED"]
    error = runs[1].error()
    assert error is not None
    assert error["message"] == "division by zero"
    assert error["rank"] == 2
    result = runs[0].result()
    assert result is not None
    assert result["hardware"].startswith("4 x ")
    alone = undisturbed(tmp_path / "here", "seed=0", "epochs=3", "precision=fp32")
    assert runs[0].run_id == alone.run_id
    assert runs[0].lines("assignments") == alone.lines("assignments")


def test_what_is_submitted(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sbatch text, as it was recorded; and what surrounds it when it is submitted from within a job."""
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("SBATCH_PARTITION", "there-is-none")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    resources = slurm.Resources(
        timeout_min=30, gres="gpu:1", partition="gpu", setup=["echo ready"], additional_parameters={"comment": "a test"}
    )
    folders = [tmp_path / "runs" / "digits" / f"run-{number}" for number in range(3)]
    jobs = list(slurm.submit(folders, resources, tmp_path / "logs"))
    assert [job.split("_")[1] for job in jobs] == ["0", "1", "2"]
    assert os.environ["SLURM_JOB_ID"] == "7", "put back"
    cluster.ask("scancel", "--me")
    (text,) = {path.read_text() for path in (tmp_path / "logs").rglob("*.sh")}
    text = text.replace(str(tmp_path), "BASE").replace(sys.executable, "PYTHON")
    assert text == Path(__file__).with_name("sbatch.txt").read_text()


def test_a_refusal_half_way(cluster: Cluster, tmp_path: Path) -> None:
    """Of two arrays the second is refused, as by a limit of jobs a user: those of the first are known, and go on."""
    asked = tmp_path / "asked"
    refusing = standing_in(
        tmp_path / "refusing",
        "sbatch",
        f"""[ -e {asked} ] && {{ echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }}
touch {asked}""",
    )
    words = ("-m", "seed=range(8)", "epochs=1", *WORDS, *SMALL)
    ended = dl2pa(cluster, tmp_path, *words, faults=refusing)
    assert ended.code == 1
    assert "QOSMaxSubmitJobPerUserLimit (6 of 8 runs are submitted)" in ended.said
    jobs = {folder.job() for folder in RunFolder.below(tmp_path / "runs")}
    assert jobs == {*cluster.states(), None}
    again = dl2pa(cluster, tmp_path, *words)
    assert "2 to run, " in again.said, again.said
    cluster.ask("scancel", "--me")


def test_without_an_answer(cluster: Cluster, tmp_path: Path) -> None:
    """A partition that is not there, a cluster that is not there, no SLURM at all: a line each."""
    said = dl2pa(cluster, tmp_path, "-m", "seed=0", *WORDS, "hydra.launcher.partition=nonsense").said
    assert "hydra/launcher=slurm: " in said
    assert "invalid partition" in said
    assert "Traceback" not in said
    (folder,) = RunFolder.below(tmp_path / "runs")
    assert folder.state() is State.planned
    folder.write_job("1_0")
    no_slurm = {"PATH": "/nonexistent"}
    ended = dl2pa(cluster, tmp_path, "status", "runs", faults=no_slurm)
    assert ended.code == 1
    assert "squeue: SLURM does not answer" in ended.said
    folder.write_job(None)
    done = undisturbed(tmp_path / "here", "seed=1", "max_steps=1")
    shutil.copytree(done.path, folder.path.with_name(done.run_id))
    finished = ("-m", "seed=1", "max_steps=1", *WORDS)
    assert "1 finished, 0 to run" in dl2pa(cluster, tmp_path, *finished, faults=no_slurm).said, "needs no SLURM"
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    ended = dl2pa(cluster, tmp_path, "-m", "seed=0", "rerun=true", *WORDS, faults=no_slurm)
    assert {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before, "nothing is set aside"
    assert "there is no sbatch on this machine; hydra/launcher=local works here" in ended.said
