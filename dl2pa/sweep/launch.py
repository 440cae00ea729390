"""From the words of jobs to run folders that are worked off: what the launchers do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dl2pa.errors import Stopped, UserError
from dl2pa.folder import RunFolder, State, objective
from dl2pa.sweep import executors, record
from dl2pa.sweep.plan import Run, distinct
from dl2pa.sweep.record import Record


def launch(
    runs: Sequence[Run],
    name: str | None,
    executor: str,
    settings: Mapping[str, Any],
    wait: bool,
    earlier: Sequence[RunFolder] = (),
) -> str:
    """Freeze the configs of ``runs`` in their folders and work those off that are not finished.

    It returns when all have ended; or, if ``executor`` is slurm and without ``wait``, at once.
    A run that is queued or that another process works on stays as it is.

    Args:
        name: of the sweep; None makes one of its runs.
        earlier: runs of the same sweep that were launched before, and are left as they are.

    Returns:
        The name of the sweep.

    Raises:
        UserError: the runs lie in several runs_dirs, the executor cannot take them, or rerun=true means one that is
            queued or running; nothing has changed then.
        Stopped: asked to from outside; nothing is lost.
    """
    configs = {run.folder.path.resolve(): run.cfg for run in distinct(runs)}
    folders = [RunFolder(path) for path in configs]
    runs_dirs = sorted({str(folder.runs_dir) for folder in folders})
    if len(runs_dirs) > 1:
        raise UserError(f"runs_dir={','.join(runs_dirs)}: the runs of a sweep lie in one runs_dir")
    keys = dict.fromkeys(folder.key for folder in [*earlier, *folders])
    sweep = Record(name or record.name_of(folders), list(keys), executor, {**settings})
    queue = executors.queue_of(folders)
    states = {folder.path: folder.state(queue) for folder in folders}
    for path, state in states.items():
        if configs[path].rerun:
            if state in (State.queued, State.running):
                raise UserError(f"rerun=true: {path} is {state.value}: python -m dl2pa cancel {path} stops it first")
            states[path] = State.planned
    mine = [folder for folder in folders if states[folder.path] in (State.planned, State.failed, State.lost)]
    executors.check(sweep, [configs[folder.path] for folder in mine])  # before anything is set aside
    for folder in mine:
        if configs[folder.path].rerun and folder.path.exists():
            with folder.claimed():
                folder.set_aside()
        folder.plan(configs[folder.path])
    finished = sum(state is State.finished for state in states.values())
    others = len(folders) - len(mine) - finished
    print(
        f"sweep {sweep.name} in {runs_dirs[0]}: {len(folders)} runs, {finished} finished, {len(mine)} to run"
        + (f", {others} queued or running already" if others else ""),
        flush=True,
    )
    running = [folder for folder in folders if states[folder.path] is State.running]
    try:
        executors.work_off(Path(runs_dirs[0]), sweep, mine, wait, running)
    except Stopped as stopped:
        if not any(run.cfg.rerun for run in runs):
            raise
        raise Stopped(f"{stopped} without rerun=true", stopped.signal) from None
    return sweep.name


def outcomes(folders: Sequence[RunFolder]) -> list[tuple[float | None, UserError | None]]:
    """What each run came to: its objective (percent), or why there is none; (None, None) if it has not ended."""
    queue = executors.queue_of(folders)
    return [_outcome(folder, queue) for folder in folders]


def _outcome(folder: RunFolder, queue: Mapping[str, str] | None) -> tuple[float | None, UserError | None]:
    result = folder.result()
    if result is not None:
        return objective(result), None
    verdict = executors.verdict(folder, queue)
    return None, None if verdict is None else UserError(verdict)
