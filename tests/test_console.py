"""What a run says, and that it goes on where nobody can hear it."""

import errno

import pytest

from dl2pa.console import Console


def test_a_terminal_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    kept: list[str] = []
    console = Console(kept.append, total_steps=2, done_steps=0)
    monkeypatch.setattr("dl2pa.console.tqdm.write", gone)
    monkeypatch.setattr(console._bar, "update", gone)
    monkeypatch.setattr(console._bar, "close", gone)
    console.say("epoch 1/2")
    console.step()
    console.close()
    assert kept == ["epoch 1/2"]
