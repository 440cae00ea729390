"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere, both kept in its log."""

import contextlib
import sys
from collections.abc import Callable

from tqdm import tqdm


class Console:
    """``say`` prints a line and hands it to ``keep`` (the run folder's log); ``step`` moves the bar.

    ``silent``: neither is shown.
    """

    def __init__(self, keep: Callable[[str], None], total_steps: int, done_steps: int, silent: bool = False) -> None:
        self._keep, self._silent = keep, silent
        # Without a terminal tqdm prints nothing: the lines of say are the progress.
        hidden = silent or not sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=done_steps, unit="step", disable=hidden, leave=False, delay=0.5)

    def say(self, message: str) -> None:
        self._keep(message)
        if self._silent:
            return
        with _terminal_may_be_gone():
            tqdm.write(message)
            sys.stdout.flush()

    def step(self) -> None:
        with _terminal_may_be_gone():
            self._bar.update()

    def close(self) -> None:
        with _terminal_may_be_gone():
            self._bar.close()


def _terminal_may_be_gone() -> contextlib.AbstractContextManager[None]:
    """A run neither fails nor stops for want of somebody who watches: its log has all of it."""
    return contextlib.suppress(OSError)
