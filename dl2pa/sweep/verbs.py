"""python -m dl2pa status, watch, retry, cancel, logs: from any shell, for either executor."""

import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from dl2pa.errors import Stopped, UserError
from dl2pa.folder import RunFolder, State
from dl2pa.lease import Holder
from dl2pa.sweep import executors, record, slurm
from dl2pa.sweep.look import job_output, look_all, print_table
from dl2pa.sweep.record import Record

_FOREIGN = "in another user's process (pid {pid}), and goes on: that user can cancel it"


def status(arguments: Sequence[str]) -> None:
    """Prints a table of the runs of DIR, all or one sweep's.

    Raises:
        UserError: no such runs, or the scheduler does not answer.
    """
    folders, _ = _chosen(arguments, "status DIR [sweep=NAME]")
    print_table(look_all(folders, executors.queue_of(folders)))


def watch(arguments: Sequence[str]) -> None:
    """Shows the table until no run is queued, running or waiting for a slot.

    Raises:
        UserError: as ``status``; or some have not finished.
        Stopped: asked to from outside, which ends the watching alone.
    """
    folders, _ = _chosen(arguments, "watch DIR [sweep=NAME]")
    if (asked := executors.watch(folders)) is not None:
        raise Stopped("what is queued or running goes on", asked)
    _all_finished(folders)


def retry(arguments: Sequence[str]) -> None:
    """Works the failed and lost runs of DIR off again, each with the executor and settings of its last sweep.

    Raises:
        UserError: as ``status``; or some failed again.
        Stopped: asked to from outside; nothing is lost.
    """
    if "--failed" not in arguments:
        raise UserError("usage: python -m dl2pa retry --failed DIR [sweep=NAME]")
    rest = [word for word in arguments if word != "--failed"]
    folders, runs_dir = _chosen(rest, "retry --failed DIR [sweep=NAME]")
    queue = executors.queue_of(folders)
    broken = [folder for folder in folders if folder.state(queue) in (State.failed, State.lost)]
    if not broken:
        print("no run has failed or was lost")
        return
    try:
        for sweep, mine in _by_sweep(runs_dir, broken):
            executors.work_off(runs_dir, sweep, mine, wait=False)
    except Stopped as stopped:
        # What had begun has been saved, and is neither failed nor lost any more.
        message = "stopped, nothing lost: launch.py -m goes on with all of them, retry --failed with what had not begun"
        raise Stopped(message, stopped.signal) from None
    _all_finished(broken)


def cancel(arguments: Sequence[str]) -> None:
    """Stops what is queued or running of DIR: jobs by the scheduler, processes of this host by SIGTERM, which saves.

    Raises:
        UserError: as ``status``; or some go on, and where, or are going to begin: the others are stopped.
    """
    folders, runs_dir = _chosen(arguments, "cancel DIR [sweep=NAME]")
    queue = executors.queue_of(folders)
    active = [folder for folder in folders if folder.state(queue) in (State.queued, State.running)]
    keys = {folder.key for folder in folders}
    submitted: list[str] = []
    if jobs := {job for folder in active if (job := folder.job()) is not None}:
        # Not of ``folders`` alone: runs may share a job.
        ending = [folder for folder in RunFolder.below(runs_dir) if folder.job() in jobs]
        ending = [folder for folder in ending if folder.state(queue) in (State.queued, State.running)]
        slurm.cancel(sorted(jobs))
        for folder in ending:
            folder.write_job(None)
        submitted = [folder.key for folder in ending]
        if beside := [run for run in submitted if run not in keys]:
            print(f"in one job with them, and stopped, too: {', '.join(beside)}")
    # A pool whose other runs are not meant goes on; only what it has running of these is stopped below.
    sweeps = [(sweep, {run.key for run in sweep.folders(runs_dir)}) for sweep in record.every(runs_dir)]
    pools = {pool for sweep, runs in sweeps if runs and keys >= runs for pool in sweep.pools}
    launchers, foreign = 0, []
    for pool in pools:
        try:
            launchers += _terminate(pool)
        except psutil.AccessDenied:
            foreign.append(f"{runs_dir}: a launcher {_FOREIGN.format(pid=pool.pid)}")
    elsewhere = []
    for folder in active:
        holder = folder.holder()
        if folder.key in submitted or holder is None or holder.released:
            continue
        if not holder.here():
            elsewhere.append(f"{folder.path}: runs on {holder.host_name} (pid {holder.pid}); cancel it there")
            continue
        try:
            _terminate(holder)
        except psutil.AccessDenied:
            elsewhere.append(f"{folder.path}: runs {_FOREIGN.format(pid=holder.pid)}")
    others = f" and {launchers} of their launchers" if launchers else ""
    print(f"asked {len(active) - len(elsewhere)} runs{others} to stop; what they have done is kept")
    goes_on = "is to begin yet: its launcher goes on, with other runs, too; cancel the sweep, or delete this folder"
    waiting = record.in_hand([folder for folder in folders if folder not in active], pools)
    begins = [f"{runs_dir / run}: {goes_on}" for run in sorted(waiting)]
    if problems := [*foreign, *elsewhere, *begins]:
        raise UserError("\n".join(problems))


def logs(arguments: Sequence[str]) -> None:
    """Prints what a run said, what else its processes printed, and the error that it ended in.

    Raises:
        UserError: not one run folder.
    """
    if len(arguments) != 1:
        raise UserError("usage: python -m dl2pa logs RUN")
    folder = RunFolder.existing(arguments[0])
    said = _text(folder.said)
    print(said, end="")
    _print_more(folder.output, said)
    if error := folder.error():
        print("-- it ended in an error", error["traceback"] or error["message"], sep="\n")
    (look,) = look_all([folder], executors.queue_of([folder]))
    if look.state is State.lost and (printed := job_output(folder)) is not None:
        _print_more(printed, said)
    print(f"-- {look.line()}")


def sync(arguments: Sequence[str]) -> None:
    """Mirrors the runs of each DIR that have begun and are not running to W&B.

    Raises:
        UserError: no such runs; or some could not be mirrored: the others are.
    """
    usage = "sync DIR... [sweep=NAME] [project=NAME] [entity=NAME] [id_suffix=TEXT]"
    words = [word for word in arguments if word.startswith(("project=", "entity=", "id_suffix="))]
    sweeps = [word.removeprefix("sweep=") for word in arguments if word.startswith("sweep=")]
    paths = [word for word in arguments if word not in words and not word.startswith("sweep=")]
    if not paths or len(sweeps) > 1:
        raise UserError(f"usage: python -m dl2pa {usage}")
    from dl2pa import tracking

    problems = []
    for folder in (folder for path in paths for folder in record.folders_of(path, sweeps[0] if sweeps else None)):
        if folder.state() is State.running:
            print(f"{folder.path}: running; sync it when it has ended", flush=True)
        elif folder.lines("metrics") or folder.result() is not None:
            try:
                print(f"{folder.path}: {tracking.sync(folder, words)}", flush=True)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _chosen(arguments: Sequence[str], usage: str) -> tuple[list[RunFolder], Path]:
    """The run folders that are meant, and their runs_dir."""
    sweeps = [word.removeprefix("sweep=") for word in arguments if word.startswith("sweep=")]
    paths = [word for word in arguments if not word.startswith("sweep=")]
    if len(paths) != 1 or len(sweeps) > 1:
        raise UserError(f"usage: python -m dl2pa {usage}")
    folders = record.folders_of(paths[0], sweeps[0] if sweeps else None)
    return folders, folders[0].runs_dir


def _by_sweep(runs_dir: Path, folders: Sequence[RunFolder]) -> list[tuple[Record, list[RunFolder]]]:
    """``folders`` by the sweep that was last launched with each; those of none as one of their own, in local slots."""
    left = {folder.key: folder for folder in folders}
    found = []
    for sweep in record.every(runs_dir):
        if mine := [left.pop(run) for run in sweep.runs if run in left]:
            found.append((sweep, mine))
    if left:
        found.append((Record(record.name_of(list(left.values())), list(left)), list(left.values())))
    return found


def _all_finished(folders: Sequence[RunFolder]) -> None:
    """Raises UserError with a verdict on each that nobody goes on with."""
    queue = executors.queue_of(folders)
    if unfinished := [verdict for folder in folders if (verdict := executors.verdict(folder, queue)) is not None]:
        raise UserError("\n".join([*unfinished, f"{len(unfinished)} of {len(folders)} runs did not finish"]))


def _terminate(holder: Holder) -> bool:
    """Whether it was there to be asked. Raises psutil.AccessDenied where it is another user's."""
    if not holder.here() or not holder.lives_here():
        return False
    try:
        psutil.Process(holder.pid).send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:  # it has just ended
        return False
    return True


def _print_more(path: Path, said: str) -> None:
    """The output repeats what the run said; where it never got so far, or died, there is more."""
    known = set(said.splitlines())
    if more := [line for line in _text(path).splitlines() if line not in known]:
        print(f"-- {path}", *more, sep="\n")


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
