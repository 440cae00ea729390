"""A stop asked for from outside: the run ends at the next step boundary with everything saved."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NOTICES = (signal.SIGTERM, signal.SIGUSR2)  # what SLURM sends before it kills


class StopRequest:
    """Truthy once SIGTERM, SIGINT, SIGHUP (the terminal is gone) or SIGUSR1/2 (SLURM's notice of the time limit or of
    preemption) has come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        # A second Ctrl-C means now.
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch the signals within the block and give back the former handlers after it.

    A notice that was held back since the process began comes now. Where an error leaves the block after one has come,
    the process is on its way out, and further notices, as of a scheduler and of a pool that both tell it, do not cut
    that short: their handlers stay.
    """
    request = StopRequest()
    names = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which is what nohup is for
        names.append(signal.SIGHUP)
    former = {name: signal.signal(name, request._note) for name in names}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)
    on_the_way_out = False
    try:
        yield request
    except BaseException:
        on_the_way_out = bool(request)
        raise
    finally:
        for name, handler in former.items():
            if name == signal.SIGINT or not on_the_way_out:
                signal.signal(name, handler)


@contextlib.contextmanager
def held_back(number: signal.Signals) -> Iterator[None]:
    """The signal comes after the block; a process started within it has it blocked for good."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def only_from_parent(number: signal.Signals) -> None:
    """From now on this process ends by the signal if its parent sends it, and takes no notice of anybody else's.

    A handler is not told who sent a signal; who waits for one is. Where the system has no such wait (macOS), the signal
    ends the process as ever.
    """
    if not hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    threading.Thread(target=_end_by_parent, args=(number,), daemon=True).start()


def _end_by_parent(number: signal.Signals) -> None:
    while signal.sigwaitinfo({number}).si_pid != os.getppid():
        pass
    os._exit(0)
