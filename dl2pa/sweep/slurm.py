"""SLURM: run folders become tasks of job arrays, through submitit; states come from squeue, sacct is not needed.

A task does nothing but become ``python -m dl2pa run FOLDER...``: its exit status, signals and output are the run's own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dl2pa.errors import UserError
from dl2pa.signals import NOTICES

ANSWER = 120  # seconds within which SLURM's commands must have answered
# The same for a job that is to end, and seconds until it asks again: a whole array may ask in one and the same second.
LAST_ANSWER, LAST_PAUSES = 15, (1, 2, 4, 8)


class BusyError(UserError):
    """SLURM is here, but it is silent or refuses, as it does when it has too much to do."""


@dataclass(frozen=True)
class Resources:
    """What a task asks SLURM for; null leaves it to SLURM. The names are those of the launcher's keys."""

    timeout_min: int = 240
    mem_gb: float | None = 3
    cpus_per_task: int | None = 2
    nodes: int = 1
    tasks_per_node: int | None = None  # with nodes, the ranks of a run with runtime.ddp=true, started by srun
    gpus_per_node: int | None = None
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256  # tasks of an array at a time
    signal_delay_s: int = 90  # before the time limit, at which a run saves and is queued again
    setup: list[str] = field(default_factory=list)  # shell lines before the task
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # sbatch's own flags
    runs_per_gpu: int = 1  # runs side by side in a task

    @property
    def ranks(self) -> int:
        """The processes that srun starts for a task."""
        return self.nodes * (self.tasks_per_node or 1)

    def check(self) -> None:
        """Raises UserError where SLURM is not here, or could not make sense of these."""
        if shutil.which("sbatch") is None:
            raise UserError("hydra/launcher=slurm: there is no sbatch on this machine; hydra/launcher=local works here")
        counts = ("timeout_min", "cpus_per_task", "nodes", "tasks_per_node", "array_parallelism", "runs_per_gpu")
        for name, least in (dict.fromkeys(counts, 1) | {"mem_gb": 0, "gpus_per_node": 0, "signal_delay_s": 0}).items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"hydra.launcher.{name}={value} is not legal: use a number from {least} on")
        if self.ranks > 1 and self.runs_per_gpu > 1:
            raise UserError(
                f"hydra.launcher.runs_per_gpu={self.runs_per_gpu} does not fit several processes a run "
                f"(nodes={self.nodes}, tasks_per_node={self.tasks_per_node}): use runs_per_gpu=1"
            )

    def for_submitit(self) -> dict[str, Any]:
        """The parameters that submitit's executor takes."""
        ours = ("timeout_min", "mem_gb", "runs_per_gpu", "tasks_per_node")
        given = {key: value for key, value in asdict(self).items() if value is not None and key not in ours}
        given["time"] = self.timeout_min
        if self.tasks_per_node is not None:
            given["ntasks_per_node"] = self.tasks_per_node
        if self.mem_gb is not None:
            given["mem"] = f"{round(self.mem_gb * 1024)}MB"
        # Within a short limit the signal would be due at the start.
        given["signal_delay_s"] = min(self.signal_delay_s, self.timeout_min * 60 // 3)
        given["additional_parameters"] = {"requeue": True, **self.additional_parameters}
        given["srun_args"] = []
        if self.ranks > 1:
            # A rank that dies without a word would leave the others waiting for it.
            given["srun_args"] += ["--kill-on-bad-exit=1"]
        if self.cpus_per_task is not None:
            # srun does not take it over from sbatch since SLURM 22.05, and torch would use all cores of the node.
            given["srun_args"] += [f"--cpus-per-task={self.cpus_per_task}"]
            threads = max(1, self.cpus_per_task // self.runs_per_gpu)
            given["setup"] = [f"export OMP_NUM_THREADS={threads}", *self.setup]
        return {**given, "job_name": "dl2pa", "stderr_to_stdout": True}


def submit(folders: Sequence[Path], resources: Resources, logs: Path) -> Iterator[str]:
    """Submit the runs of ``folders``, in as few arrays as the cluster allows.

    Args:
        logs: where submitit and SLURM write; made if absent, and on a disk that the nodes share.

    Yields:
        The job of each folder, as squeue -r names it (12_3), as soon as its array is submitted.

    Raises:
        UserError: SLURM refuses; the jobs that were yielded are submitted.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    size = resources.runs_per_gpu
    tasks = [[str(path) for path in folders[start : start + size]] for start in range(0, len(folders), size)]
    most, submitted = _max_array_size(), 0
    for start in range(0, len(tasks), most):
        array = tasks[start : start + most]
        with _outside_of_a_job():
            try:
                executor = SlurmExecutor(logs / "%j")
                executor.update_parameters(**resources.for_submitit())
                jobs = executor.map_array(become_run, array)
            except (FailedJobError, FailedSubmissionError, ValueError) as error:
                so_far = f" ({submitted} of {len(folders)} runs are submitted)" if submitted else ""
                raise UserError(f"hydra/launcher=slurm: {_last_line(str(error))}{so_far}") from error
        for job, task in zip(jobs, array, strict=True):
            yield from [job.job_id] * len(task)
            submitted += len(task)


def become_run(folders: Sequence[str]) -> None:
    """What a task does, called by submitit. Nothing of submitit remains: it would keep SIGTERM and exit statuses.

    SLURM's notices wait until the run listens: a task preempted while it starts is queued again, too, instead of dying
    of it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    os.execv(sys.executable, [sys.executable, "-u", "-m", "dl2pa", "run", *folders])


def logs(runs_dir: Path) -> Path:
    """Where submitit and SLURM write about the runs of a runs_dir."""
    return runs_dir / ".sweeps" / "slurm"


def output(runs_dir: Path, job: str) -> Path:
    """What a job prints; where it ends before its run has its folder, there is nothing else."""
    return logs(runs_dir) / job / f"{job}_0_log.out"


def queue() -> dict[str, str]:
    """The states of all my jobs, by job id, that SLURM still knows: each task of an array by itself.

    Raises:
        UserError: SLURM is not here.
        BusyError: it does not answer.
    """
    lines = _ask("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T").splitlines()
    return dict(line.strip().split("|", 1) for line in lines if "|" in line)


def cancel(jobs: Sequence[str]) -> None:
    """Raises UserError if SLURM does not answer. A job that has ended is no error."""
    _ask("scancel", "--quiet", *jobs)


def requeue() -> bool:
    """Queue this process's own job again, to go on in the same folder; False where it speaks for none.

    Raises:
        UserError: SLURM refuses.
    """
    job = _own_job()
    if job is None:
        return False
    _insist("scontrol", "requeue", job)
    return True


def preempted() -> bool:
    """Whether this process's own job is to make room for another, and SLURM leaves it time to end by itself.

    SLURM says so by SIGTERM, unless it was told to send SIGUSR2, and does not queue a job again that ends in time. What
    is cancelled or out of time gets SIGTERM, too.

    Raises:
        UserError: SLURM does not answer.
    """
    job = _own_job()
    if job is None:
        return False
    words = _insist("scontrol", "--oneliner", "show", "job", job).split()
    said = dict(word.split("=", 1) for word in words if "=" in word)
    # Once it is cancelled, it is COMPLETING.
    return said["JobState"] == "RUNNING" and said["PreemptTime"] != "None"


def _own_job() -> str | None:
    """The job that this process speaks for; None outside of one, in side_by_side's runs, and beside the first rank."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return None
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        # The id of one task is also that of its array, and would mean every task.
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return job


def _max_array_size() -> int:
    for line in _ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return max(1, int(value))
    return 1001  # SLURM's default


def _insist(*command: str) -> str:
    """Ask as often as the end of a job leaves time for."""
    for pause in LAST_PAUSES:
        with contextlib.suppress(BusyError):
            return _ask(*command, seconds=LAST_ANSWER)
        time.sleep(pause)
    return _ask(*command, seconds=LAST_ANSWER)


def _ask(*command: str, seconds: float = ANSWER) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"{command[0]}: SLURM does not answer ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise BusyError(f"{command[0]}: SLURM does not answer ({error})") from error
    if done.returncode != 0:
        raise BusyError(f"{command[0]}: {_last_line(done.stderr) or f'exit status {done.returncode}'}")
    return done.stdout


@contextlib.contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """sbatch takes what a surrounding job was given for wishes."""
    ours = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(ours)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
