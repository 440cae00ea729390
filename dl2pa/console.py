"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere, both kept in its log."""

import sys
from collections.abc import Callable

from tqdm import tqdm


class Console:
    """``say`` prints a line and hands it to ``keep`` (the run folder's log); ``step`` moves the bar."""

    def __init__(self, keep: Callable[[str], None], total_steps: int, done_steps: int) -> None:
        self._keep = keep
        # Without a terminal tqdm prints nothing: the lines of say are the progress.
        self._bar = tqdm(
            total=total_steps, initial=done_steps, unit="step", disable=not sys.stderr.isatty(), leave=False, delay=0.5
        )

    def say(self, message: str) -> None:
        self._keep(message)
        tqdm.write(message)
        sys.stdout.flush()

    def step(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
