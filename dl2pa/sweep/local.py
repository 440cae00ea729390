"""Working run folders off on this machine: a pool of slots, each run in a process of its own."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO

from dl2pa import lease
from dl2pa.errors import Stopped, UserError
from dl2pa.folder import RunFolder, State
from dl2pa.memory import available
from dl2pa.signals import held_back, listening
from dl2pa.sweep import sharing
from dl2pa.sweep.look import Display, Look, look

POLL = 0.05  # seconds
ELSEWHERE = 2.0  # seconds between two looks at a run that another process works on
MEMORY = 2 * 2**30  # bytes that a run on the CPU is expected to take
MOST = 16  # runs that are tried on one GPU
_NODES = "/dev/nvidia[0-9]*"  # of GPUs, which a container may have without nvidia-smi


@dataclass(frozen=True)
class Local:
    """``slots``: runs at a time; null is one for each GPU, or on the CPU one for each core that has memory enough, and
    no more than there are runs.
    ``runs_per_gpu``: how many share a GPU. Either may be auto: what is fastest is found by trying (sharing.py)."""

    slots: int | str | None = None
    runs_per_gpu: int | str = 1

    def check(self) -> None:
        """Raises UserError where there can be no such number of slots."""
        for name, value in (("slots", self.slots), ("runs_per_gpu", self.runs_per_gpu)):
            if value not in (None, "auto") and (isinstance(value, str) or value < 1):
                raise UserError(f"hydra.launcher.{name}={value} is not legal: use an integer from 1 on, or auto")

    def environments(self, threads: int, runs: Sequence[RunFolder], found: Sequence[str]) -> list[dict[str, str]]:
        """For each slot what its runs' environment has besides this process's.

        Args:
            threads: CPU threads that a run asks for, at least 1.
            runs: all of them: the first is one to try with, and no more slots than runs are made unasked.
            found: the GPUs that the runs may use, as ``gpus`` names them.
        """
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        devices = len(found) or 1

        def environment(count: int, slot: int = 0) -> dict[str, str]:
            """``count``: of all runs at a time."""
            own = {"CUDA_VISIBLE_DEVICES": found[slot % devices]} if found else {}
            return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cpus // count))), **own}

        if isinstance(self.slots, int):
            return [environment(self.slots, slot) for slot in range(self.slots)]
        most = max(1, -(-len(runs) // devices))  # on each device
        if "auto" in (self.slots, self.runs_per_gpu):
            most = min(most, MOST if found else max(1, cpus // threads))
            counts = [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
            share = sharing.best(runs[0], counts, lambda count: environment(count * devices)) if runs else 1
        elif found:
            share = int(self.runs_per_gpu)
        else:
            share = max(1, min(cpus // threads, available() // MEMORY))
        count = max(1, min(share * devices, len(runs)))
        return [environment(count, slot) for slot in range(count)]


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; without loading torch.

    Raises:
        UserError: there are some, and nobody to count them: all runs would share the first one.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        if nodes := glob.glob(_NODES):
            raise UserError(
                f"{sorted(nodes)[0]} is a GPU, and nvidia-smi, which counts them, is not here: use the environment's "
                f"CUDA_VISIBLE_DEVICES=0,1,... to say which the runs may have, or device=cpu"
            )
        return []
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
    )
    return asked.stdout.split() if asked.returncode == 0 else []


def work_off(
    folders: Sequence[RunFolder],
    slots: Sequence[Mapping[str, str]],
    shown: Sequence[RunFolder],
    running: Sequence[RunFolder] = (),
) -> None:
    """Train the runs of ``folders``, as many at a time as there are slots; what became of each is in its folder.

    A run that another process works on, as on those that are ``running`` now, is left to it, and begun if that dies,
    not if it is stopped or fails. What is seen meanwhile is all of ``shown``.

    Raises:
        Stopped: a signal came; every run has saved what it had.
    """
    mine = [*folders, *running]
    pool = _Pool(mine, slots, shown, running)
    with listening() as stop, Display() as display:
        try:
            while pool.unfinished() and not stop:
                pool.step()
                if display.due():
                    display.show(pool.looks())
                time.sleep(POLL)
            pool.stop()  # nothing to do where all have ended
        except Exception:
            pool.stop()  # what goes wrong here costs no run what it has done
            raise
        finally:
            pool.kill()  # a second Ctrl-C comes here first
        display.show(pool.looks())
        if stop.signal is not None:
            done = f"{sum(folder.finished() for folder in mine)} of {len(mine)}"
            raise Stopped(f"stopped, nothing lost: {done} runs are finished; the same command goes on", stop.signal)


def side_by_side(folders: Sequence[RunFolder]) -> None:
    """Train all runs of ``folders`` at once, in one job of a scheduler.

    Raises:
        UserError: some did not finish.
        Stopped: by a signal; every run has saved what it had.
    """
    with listening() as stop:
        slots = [_Slot(os.environ) for _ in folders]
        for slot, folder in zip(slots, folders, strict=True):
            slot.start(folder)
        while any(slot.busy() for slot in slots) and not stop:
            time.sleep(POLL)
        for slot in slots:
            slot.terminate()
        for slot in slots:
            slot.end()
        left = [folder.run_id for folder in folders if folder.state() is not State.finished]
        if left and stop.signal is not None:
            raise Stopped(f"stopped by {stop.signal.name}, nothing lost: {', '.join(left)}", stop.signal)
    if left:
        raise UserError(f"{len(left)} of {len(folders)} runs did not finish: {', '.join(left)}")


class _Pool:
    def __init__(
        self,
        folders: Sequence[RunFolder],
        slots: Sequence[Mapping[str, str]],
        shown: Sequence[RunFolder],
        running: Sequence[RunFolder],
    ) -> None:
        self._shown = shown
        self._folders, self._waiting = folders, list(folders)
        # When a run that another process works on was last looked at.
        self._elsewhere = {folder.run_id: -ELSEWHERE for folder in running}
        self._slots = [_Slot({**os.environ, **environment}) for environment in slots]
        self._looks: dict[str, Look] = {}

    def unfinished(self) -> bool:
        # A process that has ended counts until ``step`` has looked at what it left.
        return bool(self._waiting) or any(slot.folder is not None for slot in self._slots)

    def step(self) -> None:
        """Start what can be started, and notice what has ended."""
        for slot in self._slots:
            if (ended := slot.folder) is not None and not slot.busy():
                self._looks.pop(ended.run_id, None)
                slot.end()
            if not slot.busy() and (folder := self._next()) is not None:
                with contextlib.suppress(FileNotFoundError):  # deleted in this moment
                    slot.start(folder)
        if not self.unfinished():
            # The run of a killed pool that was still starting when ours died, or when ours found it faster.
            self._waiting = [folder for folder in self._folders if lease.alive(folder.path)]

    def _next(self) -> RunFolder | None:
        for folder in list(self._waiting):
            if time.monotonic() - self._elsewhere.get(folder.run_id, -ELSEWHERE) < ELSEWHERE:
                continue
            if lease.alive(folder.path):
                self._elsewhere[folder.run_id] = time.monotonic()
                self._looks.pop(folder.run_id, None)
                continue
            self._waiting.remove(folder)
            self._looks.pop(folder.run_id, None)
            if not folder.path.exists():
                continue  # deleted
            state = folder.state()
            if state is State.lost if folder.run_id in self._elsewhere else state is not State.finished:
                return folder
        return None

    def looks(self) -> list[Look]:
        """Looks anew at what runs; what has ended, or not begun, does not change."""
        active = {slot.folder.run_id for slot in self._slots if slot.folder is not None}
        waiting = {folder.run_id for folder in self._waiting} - set(self._elsewhere)
        shown = [folder for folder in self._shown if folder.path.exists()]
        for folder in shown:
            known = self._looks.get(folder.run_id)
            if known is None or known.state is State.running or folder.run_id in active:
                found = look(folder, {})
                # How an earlier attempt ended is kept until the next one begins, and is no news.
                self._looks[folder.run_id] = (
                    replace(found, state=State.planned, note="") if folder.run_id in waiting else found
                )
        return [self._looks[folder.run_id] for folder in shown]

    def stop(self) -> None:
        """Ask every run to save and end, and wait for it."""
        for slot in self._slots:
            slot.terminate()
        for slot in self._slots:
            slot.end()

    def kill(self) -> None:
        for slot in self._slots:
            slot.kill()
        self._looks.clear()


class _Slot:
    """A place for one run at a time, whose process gets ``environment``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # A surrounding job is queued again by the process that it consists of, once, not by each of its runs.
        self._environment = {name: value for name, value in environment.items() if name != "SLURM_JOB_ID"}
        self.folder: RunFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._begun = (0, 0)
        self._terminated = False

    def busy(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, folder: RunFolder) -> None:
        self._output = open(folder.output, "ab")  # noqa: SIM115 - open while the process is there
        self.folder = folder
        folder.write_error(None)  # how the last attempt went is of no interest any more
        self._begun = (folder.attempts(), self._output.tell())
        self._terminated = False
        with held_back(signal.SIGUSR2):  # which SLURM sends to all processes of a job, and one that starts would die of
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dl2pa", "run", str(folder.path)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the pool, which tells its runs
            )

    def end(self) -> None:
        """Wait for the process. One that never got as far as its folder, and so could not say why there, is quoted."""
        if self._process is None or self._output is None or self.folder is None:
            return
        status = self._process.wait()
        self._output.close()
        attempts, offset = self._begun
        silent = self.folder.attempts() == attempts and self.folder.error() is None
        if status != 0 and silent and not self._terminated:
            ended = f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            with contextlib.suppress(UserError, FileNotFoundError):  # a full disk, or the folder was deleted
                said = self.folder.output.read_bytes()[offset:].decode(errors="replace").strip()
                self.folder.write_error(said or f"{ended} before it began")
        self.folder = self._process = None

    def terminate(self) -> None:
        if self._process is not None and self.busy():
            self._terminated = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None and self.busy():
            self._process.kill()
            self._process.wait()
