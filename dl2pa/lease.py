"""A lease on a folder: two processes never write one run, on whichever hosts they are.

The lease is a file lease.N that names its holder and that the holder touches every BEAT seconds. Who takes over from a
dead holder creates lease.N+1, exclusively: of two that try, the file system lets one. A holder that finds its own file
gone or a higher number beside it has lost the folder and ends. The last file stays, and says how the last holder ended.
"""

import contextlib
import json
import math
import os
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import psutil

from dl2pa.errors import UserError

BEAT = 5.0
MISSED = 20.0  # a holder on another host that was silent for so long is dead


@dataclass(frozen=True)
class Holder:
    """A process, wherever it is. ``started`` is what ``_started`` tells; ``released``, it gave the lease back in good
    order."""

    host: str
    pid: int
    started: float
    released: bool = False

    @classmethod
    def this_process(cls) -> "Holder":
        return cls(_host(), os.getpid(), _started(os.getpid()))

    @property
    def host_name(self) -> str:
        """The host as people call it."""
        return self.host.split()[0]

    def here(self) -> bool:
        return self.host == _host()

    def lives_here(self) -> bool:
        """Whether the process is there; its start tells it from another that got the same pid later."""
        with contextlib.suppress(psutil.Error):
            same = abs(_started(self.pid) - self.started) < 2
            return same and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        return False

    def began(self) -> float:
        """When a process of this host was started, in seconds of the clock; infinity once it has ended."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).create_time()
        return math.inf


class Lease:
    """A held lease: ``check`` at every moment at which something is about to be written."""

    def __init__(self, folder: Path, number: int, holder: Holder) -> None:
        self._folder, self._number, self._holder = folder, number, holder
        self._beaten = time.time()
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, folder: Path) -> "Lease":
        """Take the lease of ``folder``: at once if nobody has it or its holder died on this host; if a holder elsewhere
        is silent, after MISSED seconds.

        Raises:
            UserError: a living process has it.
            OSError: the folder cannot be written.
        """
        while True:
            number, holder = last(folder)
            if holder is not None and _living(folder, number, holder):
                holder = last(folder)[1] or holder  # the first look may have come before its name was written
                raise UserError(
                    f"{folder}: another process is working on this run (pid {holder.pid} on {holder.host_name})"
                )
            mine = Holder.this_process()
            try:
                _create(_path(folder, number + 1), mine)
            except FileExistsError:
                continue  # somebody else was faster
            if last(folder)[0] > number + 1:  # and so much so that the number was free again
                _path(folder, number + 1).unlink(missing_ok=True)
                continue
            for older in range(number, 0, -1):
                try:
                    _path(folder, older).unlink()
                except FileNotFoundError:
                    break
            return cls(folder, number + 1, mine)

    def check(self) -> None:
        """Raises UserError once another process has the folder."""
        if time.time() - self._beaten > MISSED / 2:  # the thread was held up, and so perhaps was all of this process
            self._touch()
        if self._lost and self._folder.exists():
            raise UserError(f"{self._folder}: another process has taken this run over; it goes on there")
        if self._lost:
            raise UserError(f"{self._folder}: the folder was deleted while the run worked in it")

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        self._touch()
        if self._lost:
            return
        with contextlib.suppress(OSError):  # a full disk: it is free as soon as this process has ended
            _replace(_path(self._folder, self._number), replace(self._holder, released=True))

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            self._touch()

    def _touch(self) -> None:
        try:
            os.utime(_path(self._folder, self._number))
            self._lost = self._lost or _path(self._folder, self._number + 1).exists()
            self._beaten = time.time()
        except FileNotFoundError:
            self._lost = True
        except OSError:
            pass  # a file system that is away for a moment: whoever takes over will be seen


class Unheld(Lease):
    """In place of a lease, for a process that writes nothing."""

    def __init__(self) -> None: ...

    def check(self) -> None: ...


def last(folder: Path) -> tuple[int, Holder | None]:
    """The number of the last lease and its holder; (0, None) where there never was one."""
    numbers = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        numbers = [int(name[6:]) for name in os.listdir(folder) if name.startswith("lease.") and name[6:].isdigit()]
    if not numbers:
        return 0, None
    number = max(numbers)
    try:
        return number, Holder(**json.loads(_path(folder, number).read_text()))
    except FileNotFoundError:
        return last(folder)  # it was taken over in this moment
    except (ValueError, TypeError):  # cut off by a crash of the whole machine
        return number, Holder("unknown", 0, 0.0)


def alive(folder: Path, now: float | None = None) -> bool:
    """Whether a process has the folder, as far as can be told at once.

    Args:
        now: what ``file_clock`` said of the file system, for who asks for many folders.
    """
    return seen(folder, now)[1]


def seen(folder: Path, now: float | None = None) -> tuple[Holder | None, bool]:
    """The last holder and whether it has the folder, both of one moment; ``now`` as for ``alive``."""
    while True:
        number, holder = last(folder)
        if holder is None or holder.released:
            return holder, False
        if holder.here():
            living = holder.lives_here()
        else:
            living = (file_clock(folder) if now is None else now) - _beaten(folder, number) < MISSED
        # One that does not live may have let go in good order, or been followed by another, since its name was read.
        if living or last(folder) == (number, holder):
            return holder, living


def file_clock(folder: Path) -> float:
    """The time in ``folder``'s file system, whose clock may differ from this host's; this host's if it is read-only."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def _living(folder: Path, number: int, holder: Holder) -> bool:
    """As ``alive``, but sure: a silent holder elsewhere is watched until it beats or has missed enough beats."""
    if holder.released:
        return False
    if holder.here():
        return holder.lives_here()
    seen, since = _beaten(folder, number), time.monotonic()
    while time.monotonic() - since < MISSED:
        if file_clock(folder) - seen > MISSED:
            return False
        time.sleep(BEAT / 5)
        if last(folder) != (number, holder) or _beaten(folder, number) != seen:
            return not (last(folder)[1] or holder).released
    return False


def _beaten(folder: Path, number: int) -> float:
    """When the lease was last touched. NFS answers for an opened file alone with what the server knows."""
    try:
        with open(_path(folder, number), "rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _path(folder: Path, number: int) -> Path:
    return folder / f"lease.{number}"


def _create(path: Path, holder: Holder) -> None:
    with open(path, "x") as file:
        file.write(json.dumps(asdict(holder)))


def _replace(path: Path, holder: Holder) -> None:
    aside = path.with_name(f"{path.name}.part")
    try:
        aside.write_text(json.dumps(asdict(holder)))
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _started(pid: int) -> float:
    """When a process began, by a measure of this host: Linux tells ticks since it was booted, whatever is done to the
    clock meanwhile; elsewhere it is the time of day.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    with contextlib.suppress(OSError):
        # Field 22; the second one, the name, may hold anything.
        return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


@cache
def _host() -> str:
    """The host, when it was booted, and which of its namespaces a pid is of: containers and virtual machines may share
    a name and a file system."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()
