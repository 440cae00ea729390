"""Signals that ask a process to stop."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from dl2pa import errors
from dl2pa.signals import listening

NAMES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@pytest.fixture(autouse=True)
def former() -> Iterator[dict[signal.Signals, object]]:
    """Python's own handlers, whatever the tests were started with, as nohup and & ignore some."""
    handlers = {name: signal.getsignal(name) for name in NAMES}
    for name in NAMES:
        signal.signal(name, signal.default_int_handler if name == signal.SIGINT else signal.SIG_DFL)
    yield {name: signal.getsignal(name) for name in NAMES}
    for name, handler in handlers.items():
        signal.signal(name, handler)


@pytest.mark.parametrize("name", NAMES)
def test_handlers_are_given_back(name: signal.Signals, former: dict[signal.Signals, object]) -> None:
    with listening() as stop:
        os.kill(os.getpid(), name)
        assert stop.signal is name
    with pytest.raises(ValueError, match="nobody"), listening():
        raise ValueError("that nobody asked for")
    assert {name: signal.getsignal(name) for name in NAMES} == former


def test_once_it_was_asked_a_process_ends_in_its_own_time(former: dict[signal.Signals, object]) -> None:
    """But for Ctrl-C, which a user can repeat."""
    with contextlib.suppress(ValueError), listening():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), name)  # would end it
    assert signal.getsignal(signal.SIGINT) == former[signal.SIGINT]


def test_a_closed_terminal_does_not_stop_what_was_started_with_nohup(former: dict[signal.Signals, object]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop


def test_an_interrupt_that_nobody_listens_to_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="130"), errors.told():
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == "interrupted; a run that had begun goes on from its last checkpoint\n"
