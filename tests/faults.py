"""Runs that go wrong in processes that a sweep starts: a sitecustomize on PYTHONPATH, as the processes are not ours."""

import os
from pathlib import Path

_CODE = """\
import sys

FAULTS = {faults!r}
for mark, statement in FAULTS.items():
    if any(mark in word for word in sys.orig_argv):
        from dl2pa import trainer

        original, steps = trainer.Trainer._step, iter(range(1, 10**9))

        def step(self, *arguments, statement=statement):
            original(self, *arguments)
            exec(statement, {{"step": next(steps), "trainer": self}})

        trainer.Trainer._step = step
"""


def environment(folder: Path, faults: dict[str, str]) -> dict[str, str]:
    """An environment in which a process with ``mark`` on its command line runs ``statement`` after each step.

    Args:
        faults: statement by mark; it sees ``step``, from 1 on in each process, and ``trainer``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_CODE.format(faults=faults))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
