"""A stop asked for from outside: the run ends at the next step boundary with everything saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Truthy once SIGTERM, SIGINT or SIGUSR1/2 (SLURM's notice of the time limit or of preemption) has come."""

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
    """Catch the signals within the block and give back the former handlers after it."""
    request = StopRequest()
    names = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    former = {name: signal.signal(name, request._note) for name in names}
    try:
        yield request
    finally:
        for name, handler in former.items():
            signal.signal(name, handler)
