"""A compiled step computes what an eager one does, and one that cannot be compiled is an eager one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_losses import CASES, losses
from processes import LAUNCH

from dl2pa.compiled import MOST_KINDS, Compiler, pays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def test_where_it_pays() -> None:
    assert [pays(None, torch.device(name)) for name in ("cpu", "cuda")] == [False, True]
    assert [pays(asked, CPU) for asked in (True, False)] == [True, False]


@pytest.mark.slow
def test_fifty_compiled_steps_are_fifty_eager_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Both shapes of a batch, mixed; 2e-5 apart at most where it was measured."""
    words = ["augment.mixup=1.0", "max_steps=50"]
    compiled = losses([*words, "runtime.compile=true"])
    assert "warning" not in capsys.readouterr().out
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4, "two functions, two shapes"
    assert len(compiled) == 50
    assert compiled == pytest.approx(losses([*words, "runtime.compile=false"]), rel=1e-4)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made as for the compiler, without a break, and run as they are: fast."""
    compile_ = torch.compile

    def capture(function: Callable[..., Any], dynamic: bool, options: object) -> Callable[..., Any]:
        return compile_(function, dynamic=dynamic, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", capture)


# One of every head and of every kind of statistic.
GRAPHS = [
    *("method=dl2pa", "method=tsc", "method=dnc", "method=goto", "method=psc", "method=etf", "method=dl2pa_plus"),
    *("assignment.statistic=queue", "assignment=quadratic assignment.similarity=confusion"),
    "augment.mixup=1.0 augment.cutmix=1.0 method=tsc",
    "dataset=digits_lt loss.weights=global assignment.statistic=loss_matrix",
]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.usefixtures("captured")
def test_graphs_hold_every_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = CASES[name]
    traced = losses([*words, "runtime.compile=true"])
    assert "warning" not in capsys.readouterr().out
    # Two functions and two shapes; the statistics of a batch that is cut are those of any mixed one.
    graphs = 5 if "augment.cutmix=1.0" in words else 4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert traced == pytest.approx(losses([*words, "runtime.compile=false"]), rel=1e-4)


@pytest.mark.usefixtures("captured")
def test_graphs_of_a_run_that_ceases_to_mix(capsys: pytest.CaptureFixture[str]) -> None:
    """After the first epoch: both shapes of a batch, mixed and as it is."""
    words = ["augment.mixup=1.0", "augment.mix_until=0.2"]
    traced = losses([*words, "runtime.compile=true"])
    assert "warning" not in capsys.readouterr().out
    # Two functions and two shapes; the statistics of a batch are the same whether it is mixed or not.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 6
    assert traced == pytest.approx(losses([*words, "runtime.compile=false"]), rel=1e-4)
    assert traced[11:] != pytest.approx(losses(["augment.mixup=1.0", "runtime.compile=false"])[11:], rel=1e-3)


def test_without_a_compiler_a_run_is_eager_and_says_so_once(tmp_path: Path) -> None:
    """And ends with the very numbers of a run that was never to be compiled."""
    uv = [sys.executable, str(LAUNCH), "epochs=1", "max_steps=3", "device=cpu", "precision=fp32", "runtime.threads=1"]
    (tmp_path / "path").mkdir()
    without = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    without |= {"PATH": str(tmp_path / "path"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    assert shutil.which("g++", path=without["PATH"]) is None
    said = {}
    for compiled in (True, False):
        words = [f"runtime.compile={str(compiled).lower()}", f"runs_dir={compiled}"]
        done = subprocess.run([*uv, *words], cwd=tmp_path, env=without, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[compiled] = done.stdout
    warning = "warning: training goes on without torch.compile, which failed: "
    assert said[True].count(warning) == 1
    assert "warning" not in said[False]
    states = [torch.load(next((tmp_path / name).glob("digits/*/last.pt")))["model"] for name in ("True", "False")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def failing(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
    """A torch.compile whose second kind of input fails in the middle."""

    def call(state: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        state += 100
        if len(values) == 2:
            raise RuntimeError("no such operator\nlong advice")
        return function(state - 100, values)

    return call


def test_what_failed_half_way_is_put_back_and_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    told: list[str] = []
    compiler = Compiler(True, CPU, told.append)
    add = compiler.wrap(lambda state, values: state.add_(values.sum()).clone())
    state = torch.zeros(())
    assert compiler.attempt(lambda: add(state, torch.ones(1)), 1, lambda: [state]) == 1
    assert state == 100
    assert told == []
    assert compiler.attempt(lambda: add(state, torch.ones(2)), 2, lambda: [state]) == 102
    assert state == 102
    assert compiler.attempt(lambda: add(state, torch.ones(1)), 1, lambda: [state]) == 103
    (line,) = told
    assert line.endswith("failed: RuntimeError: no such operator long advice")


def test_what_fails_only_when_it_is_captured_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a kind's second step or third."""
    for good in (1, 2):
        calls: list[int] = []

        def capturing(
            function: Callable[..., Any], calls: list[int] = calls, good: int = good, **options: object
        ) -> Any:
            def call(state: torch.Tensor) -> torch.Tensor:
                calls.append(1)
                if len(calls) > good:
                    state += 100
                    raise RuntimeError("operation not permitted when stream is capturing")
                return function(state)

            return call

        monkeypatch.setattr(torch, "compile", capturing)
        told: list[str] = []
        compiler, state = Compiler(True, CPU, told.append), torch.zeros(())
        add = compiler.wrap(lambda state: state.add_(1).clone())
        found = [float(compiler.attempt(lambda: add(state), 1, lambda: [state])) for _ in range(5)]  # noqa: B023
        assert found == [1, 2, 3, 4, 5]
        assert len(told) == 1


def test_more_kinds_of_batches_than_foreseen_are_not_compiled_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    told: list[str] = []
    compiler = Compiler(True, CPU, told.append)
    for kind in range(MOST_KINDS + 3):
        assert compiler.attempt(lambda kind=kind: kind, kind, list) == kind  # type: ignore[misc]
    assert len(told) == 1
    assert f"batches of more than {MOST_KINDS} kinds" in told[0]


def test_an_error_of_the_step_itself_is_not_hidden() -> None:
    compiler = Compiler(True, CPU, lambda line: None)

    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiler.attempt(work, 0, list)
