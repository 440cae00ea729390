"""What a user is meant to see when something goes wrong."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """Something the user can put right: a value, a missing file, a full disk.

    The message is one line that names the key (or file), its value, and what is legal. Under ``@hydra.main`` Hydra
    prints the message alone and exits with status 1; HYDRA_FULL_ERROR=1 brings the traceback back.
    """


class Stopped(SystemExit):
    """A run stopped from outside, everything saved: Python prints the message and exits with status 1.

    It is no Exception, because Hydra would go on with the next job of a sweep: Ctrl-C means the sweep.
    ``signal``: what asked for it.
    """

    def __init__(self, message: str, signal: signal.Signals) -> None:
        super().__init__(message)
        self.signal = signal


class RankError(Exception):
    """An error of another process of the same run, in that one's words (``in_words``)."""

    def __init__(self, words: dict[str, Any]) -> None:
        super().__init__(words["message"])
        self.words = words


def in_words(error: BaseException) -> dict[str, Any]:
    """``message`` and ``traceback`` of an error, to be kept; a UserError's message says all."""
    if isinstance(error, RankError):
        return error.words
    trace = [] if isinstance(error, UserError) else traceback.format_exception(error)
    return {"message": str(error) or type(error).__name__, "traceback": "".join(trace)}


def one_line(error: BaseException) -> str:
    """What somebody else's error says, to stand within a message of ours."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def told() -> Iterator[None]:
    """For what Hydra does outside its own reporting, composing for --help: the message alone, and exit status 1.

    Ctrl-C before anything listens, or a second one, which does not wait for what the first one has saved: a line, and
    the exit status that shells give to it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print("interrupted; a run that had begun goes on from its last checkpoint", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except CompactHydraException as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(error, file=sys.stderr)
        sys.exit(1)
