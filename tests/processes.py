"""launch.py and run() in processes of their own, which can be killed.

``command`` is the command line as it is. ``launch`` and ``train`` start children of a server that has torch loaded: the
same program, started in milliseconds, and ``before`` can change it first. Functions handed to a child are found by
name in its module, so they stand in modules like this one.
"""

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dl2pa import config
from dl2pa.folder import RunFolder

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch.py"
SECONDS = 300  # after which a child counts as hanging; no test measures time

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["dl2pa.run", "hydra.main", "sklearn.datasets", "torchvision.datasets", "scipy.optimize"]
)


@dataclass(frozen=True)
class Ended:
    """``code``: the exit status, or minus the signal; ``said``: stdout and stderr together."""

    code: int
    said: str


class Child:
    """A started child; ``end`` waits for it."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self.process, self.log = process, log

    def end(self) -> Ended:
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the child hangs; it said:\n{self.log.read_text()}")
        return Ended(self.process.exitcode, self.log.read_text())


def python(*words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ended:
    """``python WORDS`` in the folder ``cwd``, whose environment has ``env`` besides this process's."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout)


def command(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """``python launch.py WORDS``, as ``python``."""
    return python(str(LAUNCH), *words, cwd=cwd, env=env)


def wait_for(holds: Callable[[], object], seconds: float = SECONDS) -> None:
    """Until ``holds`` says so; AssertionError if it has not after ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it did not come to it within {seconds:g} s"
        time.sleep(0.05)


def planned(*words: str) -> RunFolder:
    """The folder of the run that these words describe, ready to be worked off."""
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=list(words))
    folder = RunFolder.of(cfg)
    folder.plan(cfg)
    return folder


def launch(*words: str, cwd: Path, before: Callable[[], None] | None = None) -> Child:
    """launch.py as ``__main__`` with these words, in a child that calls ``before`` first."""
    return _start(partial(_launch, words), cwd, before)


def undisturbed(folder: Path, *words: str) -> RunFolder:
    """The run that launch.py trains here, in one go, with these words."""
    ended = launch("runtime.threads=1", "device=cpu", *words, cwd=folder).end()
    assert ended.code == 0, ended.said
    (found,) = RunFolder.below(folder / "runs")
    return found


def train(cfg: DictConfig, cwd: Path, before: Callable[[], None] | None = None) -> Child:
    """run(cfg) in a child that calls ``before`` first."""
    return _start(partial(_train, cfg), cwd, before)


def train_together(
    cfg: DictConfig, cwd: Path, ranks: int = 2, before: Mapping[int, Callable[[], None]] | None = None
) -> list[Child]:
    """run(cfg) in as many children, which are the ranks of the run; those in ``before`` call that first."""
    return together(partial(_train, cfg), cwd, ranks, before)


def together(
    work: Callable[[], None], cwd: Path, ranks: int = 2, before: Mapping[int, Callable[[], None]] | None = None
) -> list[Child]:
    """``work`` in as many children as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    own = before or {}
    return [
        _start(work, cwd, partial(_be, {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, own.get(rank)))
        for rank in range(ranks)
    ]


def _be(environment: dict[str, str], before: Callable[[], None] | None) -> None:
    os.environ.update(environment)
    if before is not None:
        before()


def _start(work: Callable[[], None], cwd: Path, before: Callable[[], None] | None) -> Child:
    cwd.mkdir(parents=True, exist_ok=True)
    log = cwd / f"said-{next(_numbers)}.txt"
    log.touch()
    process = _CONTEXT.Process(target=_child, args=(work, cwd, log, before))
    process.start()
    return Child(process, log)


_numbers = itertools.count()


def _child(work: Callable[[], None], cwd: Path, log: Path, before: Callable[[], None] | None) -> None:
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(cwd)
    faulthandler.dump_traceback_later(SECONDS * 0.9)  # where it hangs, if it does
    multiprocessing.set_start_method(None, force=True)  # data loaders start their workers as anywhere else
    if before is not None:
        before()
    work()


def _launch(words: tuple[str, ...]) -> None:
    sys.argv = [str(LAUNCH), *words]
    runpy.run_path(str(LAUNCH), run_name="__main__")


def _train(cfg: DictConfig) -> None:
    from dl2pa.run import run

    run(cfg)


# -- what a child can do before


def limit_files(size: int) -> None:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def signal_after(number: signal.Signals, steps: int) -> None:
    """The process gets the signal in its ``steps``-th training step."""
    from dl2pa.trainer import Trainer

    at = itertools.count(1)

    def notice() -> None:
        if next(at) == steps:
            os.kill(os.getpid(), number)

    _surround(Trainer, "_step", after=notice)


def signal_twice(number: signal.Signals, steps: int) -> None:
    """As ``signal_after``, and once more when the run lets go of its folder."""
    from dl2pa.lease import Lease

    signal_after(number, steps)
    _surround(Lease, "release", before=lambda: os.kill(os.getpid(), number))


def signal_group_in(number: signal.Signals, owner: type, name: str, calls: int) -> None:
    """The process and all of its children get the signal from a stranger in the ``calls``-th call of owner.name."""
    os.setsid()
    at = itertools.count(1)
    kill = f"import os; os.killpg({os.getpgrp()}, {int(number)})"

    def notice() -> None:
        if next(at) == calls:
            subprocess.run([sys.executable, "-c", kill], start_new_session=True, check=True)
            time.sleep(0.2)  # time for a child to die of it

    _surround(owner, name, after=notice)


def die_at(event: int) -> None:
    """SIGKILL at the ``event``-th of all the moments between the parts of a run that change something."""
    events = itertools.count()

    def now() -> bool:
        return next(events) == event

    def moment() -> None:
        if now():
            _die()

    from dl2pa.folder import RunFolder
    from dl2pa.methods.heads import PrototypeHead
    from dl2pa.trainer import Trainer

    for owner, name in ((Trainer, "_step"), (PrototypeHead, "end_epoch")):
        _surround(owner, name, before=moment)
    for owner, name in ((os, "replace"), (RunFolder, "write_result")):
        _surround(owner, name, before=moment, after=moment)
    _tear(moment, now)


def _tear(moment: Callable[[], None], now: Callable[[], bool]) -> None:
    """Before and after checkpoints and lines; and when it is ``now``, in the middle of them."""
    import torch

    from dl2pa.folder import RunFolder

    save, append = torch.save, RunFolder.append

    def torn_save(state: Any, path: Path) -> None:
        moment()
        if now():
            path.write_bytes(b"half a checkpoint")
            _die()
        save(state, path)
        moment()

    def torn_append(self: RunFolder, kind: str, record: dict[str, Any]) -> None:
        moment()
        if now():
            with open(self.path / f"{kind}.jsonl", "a") as file:
                file.write('{"epoch": ')
            _die()
        append(self, kind, record)
        moment()

    torch.save = torn_save
    RunFolder.append = torn_append  # type: ignore[method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _surround(
    owner: Any, name: str, before: Callable[[], object] | None = None, after: Callable[[], object] | None = None
) -> None:
    original = getattr(owner, name)

    def surrounded(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        found = original(*args, **kwargs)
        if after is not None:
            after()
        return found

    setattr(owner, name, surrounded)


# -- few images


def few_digits(train: int = 120, test: int = 30) -> None:
    """From here on the data set digits has this many images, of all ten digits."""
    import numpy as np

    from dl2pa.data import readers

    def read(request: Any) -> readers.Source:
        source = readers.read_digits(request)
        kept = source.train[0].subset(np.arange(train))
        return readers.Source([kept], source.test.subset(np.arange(test)), source.class_names)

    readers.READERS["digits"] = read


@contextlib.contextmanager
def with_few_digits(train: int = 120, test: int = 30) -> Iterator[None]:
    """``few_digits`` within the block."""
    from dl2pa.data import readers

    former = readers.READERS["digits"]
    few_digits(train, test)
    try:
        yield
    finally:
        readers.READERS["digits"] = former
