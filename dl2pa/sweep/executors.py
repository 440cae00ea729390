"""The two ways to work run folders off: slots on this machine, or SLURM."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dl2pa.errors import RankError, Stopped, UserError
from dl2pa.folder import RunFolder, State
from dl2pa.lease import Holder
from dl2pa.signals import StopRequest, listening
from dl2pa.sweep import local, record, slurm
from dl2pa.sweep.look import Display, look_all, note
from dl2pa.sweep.record import Record

WATCHED = 2.0  # seconds between two looks at runs that others work on
ASKED = 5.0  # the same where the scheduler has to be asked, which has more to do
PAUSES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  # seconds until a scheduler that did not answer is asked again


def queue_of(folders: Sequence[RunFolder]) -> dict[str, str] | None:
    """The scheduler's word on the jobs of ``folders``, by id, "" for one that it does not know; None where it is not
    asked: all were never submitted, or are finished."""
    left = [folder for folder in folders if not folder.finished()]
    jobs = [job for folder in left if (job := folder.job()) is not None]  # before SLURM is asked: some may be new
    if not jobs:
        return None
    states = slurm.queue()
    return {job: states.get(job, "") for job in jobs}


def work_off(
    runs_dir: Path, sweep: Record, folders: Sequence[RunFolder], wait: bool, running: Sequence[RunFolder] = ()
) -> None:
    """Work ``folders``, runs of ``sweep`` that nobody works on, off with its executor, and keep the sweep's record.

    With local slots it returns when all have ended; with SLURM as soon as they are submitted, or with ``wait`` when
    all of the sweep's runs have ended. Local slots take over what is ``running`` in others' if its process dies; what a
    scheduler runs is the scheduler's.

    Raises:
        UserError: the executor cannot take them.
        Stopped: asked to from outside; nothing is lost.
    """
    configs = [folder.frozen() for folder in folders]
    settings = check(sweep, configs)
    _fetch({config["dataset"]["source"]: folder for config, folder in zip(configs, folders, strict=True)})
    if isinstance(settings, local.Local):
        for folder in folders:
            folder.write_job(None)
        running = [folder for folder in running if folder.job() is None]
        configs += [folder.frozen() for folder in running]  # which may become ours
        threads = max((config["runtime"]["threads"] or 1 for config in configs), default=1)
        slots = settings.environments(threads, [*folders, *running], _gpus(configs))
        sweep.pools = [*record.working(runs_dir, sweep.name), Holder.this_process()]
        record.write(runs_dir, sweep)
        local.work_off(folders, slots, sweep.folders(runs_dir), running)
        return
    record.write(runs_dir, sweep)
    if folders:
        _submit(folders, settings, slurm.logs(runs_dir))
    if wait and (asked := watch(sweep.folders(runs_dir))) is not None:
        raise Stopped("what is queued or running goes on; the same command waits for it again", asked)


def _submit(folders: Sequence[RunFolder], resources: slurm.Resources, logs: Path) -> None:
    earlier = [folder.error() for folder in folders]
    for folder in folders:  # before the jobs may begin, which have errors of their own
        folder.write_error(None)
    submitted = 0
    try:
        jobs = slurm.submit([folder.path for folder in folders], resources, logs)
        for folder, job in zip(folders, jobs, strict=True):
            folder.write_job(job, shared=resources.runs_per_gpu > 1)
            submitted += 1
    except BaseException:
        with contextlib.suppress(UserError):  # a full disk, which may well be the error
            for folder, words in zip(folders[submitted:], earlier[submitted:], strict=True):
                folder.write_error(RankError(words) if words else None)
        raise


def _gpus(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that runs with these configs may use."""
    return [] if all(config["device"] == "cpu" for config in configs) else local.gpus()


def watch(folders: Sequence[RunFolder]) -> signal.Signals | None:
    """Show where runs stand until none is queued, running or waiting for a slot; a signal that ends it before, as
    Ctrl-C does, is given back.

    Raises:
        UserError: the scheduler is not here, or does not answer for minutes.
    """
    failures = 0  # in a row
    with listening() as stop, Display() as display:
        while not stop:
            try:
                queue = queue_of(folders)
            except slurm.BusyError as error:
                if failures == len(PAUSES):
                    raise
                if failures == 0:
                    print(f"{error}; asking again for {sum(PAUSES) / 60:.0f} minutes", flush=True)
                _pause(PAUSES[failures], stop)
                failures += 1
                continue
            failures = 0
            looks = look_all(folders, queue)
            display.show(looks)
            busy = any(look.state in (State.queued, State.running) for look in looks)
            if not busy and not record.in_hand(folders):
                return None
            _pause(WATCHED if queue is None else ASKED, stop)
        return stop.signal


def _pause(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while not stop and time.monotonic() < end:
        time.sleep(0.1)  # a signal that is caught ends no sleep


def check(sweep: Record, configs: Sequence[Mapping[str, Any]]) -> local.Local | slurm.Resources:
    """The executor's settings, if it is here and takes runs with ``configs``: a run is started as several processes if
    and only if it is meant for them.

    Raises:
        UserError: it does not.
    """
    settings = _settings(sweep)
    if not configs:
        return settings
    settings.check()
    # Slots and SLURM show a run the GPUs that it was given, as the first ones.
    if device := next((config["device"] for config in configs if config["device"].startswith("cuda:")), None):
        raise UserError(
            f"device={device} does not fit -m, under which a run is given its GPU: use device=cuda or auto (and the "
            f"environment's CUDA_VISIBLE_DEVICES for some of this machine's GPUs)"
        )
    ddp = {bool(config["runtime"].get("ddp", False)) for config in configs}
    if isinstance(settings, local.Local):
        if True in ddp:
            raise UserError(
                "runtime.ddp=true does not fit hydra/launcher=local, which starts one process a run: use torchrun "
                "--nproc_per_node N launch.py ... without -m, or hydra/launcher=slurm hydra.launcher.tasks_per_node=N"
            )
        share = settings.runs_per_gpu
        if settings.slots is None and isinstance(share, int) and share > 1 and not _gpus(configs):
            raise UserError(
                f"hydra.launcher.runs_per_gpu={share}: there is no GPU for these runs; hydra.launcher.slots=N says how "
                f"many train at a time on the CPU"
            )
        return settings
    ranks = settings.ranks
    if True in ddp and ranks == 1:
        raise UserError(
            "runtime.ddp=true needs several processes a run: use hydra.launcher.tasks_per_node=N, or nodes=N, or both"
        )
    if False in ddp and ranks > 1:
        raise UserError(
            f"hydra.launcher.nodes and tasks_per_node make {ranks} processes a run: use runtime.ddp=true, with which "
            f"they train it together"
        )
    return settings


# What a value of a setting's type is called.
_NAMES = {int: "an integer", float: "a number", str: "a word", list: "a list, [A,B]", dict: "a map, {NAME:VALUE}"}


def _settings(sweep: Record) -> local.Local | slurm.Resources:
    kind = local.Local if sweep.executor == "local" else slurm.Resources
    hints = get_type_hints(kind)
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), sweep.settings))
    except OmegaConfBaseException as error:
        name = str(error.full_key).split(".")[0].split("[")[0]
        given = f"hydra.launcher.{name}={sweep.settings[name]}"
        if name not in hints:
            raise UserError(f"{given}: no such key; there are {', '.join(hints)}") from None
        members = get_args(hints[name]) if isinstance(hints[name], UnionType) else [hints[name]]
        legal = " or ".join(_NAMES[kind] for kind in _NAMES if kind in [get_origin(hint) or hint for hint in members])
        raise UserError(f"{given} is not legal: use {legal}") from None
    assert isinstance(made, local.Local | slurm.Resources)
    return made


def _fetch(by_source: Mapping[str, RunFolder]) -> None:
    """Data sets, each with a run that needs it, are fetched once, before the runs begin: a node may have no network.

    What cannot be had is said, and said again by the runs that need it: the others go on. Prototypes are built once,
    too, by the first run that needs them, while the other slots train.
    """
    paths = [str(folder.path) for source, folder in by_source.items() if source != "digits"]  # they come with a package
    if paths:
        # In a process of its own: this one needs no torch.
        subprocess.run([sys.executable, "-m", "dl2pa", "fetch", *paths], stdin=subprocess.DEVNULL)


def verdict(folder: RunFolder, queue: Mapping[str, str] | None) -> str | None:
    """Why nobody goes on with a run that has not finished, with the end of its traceback; None for any other."""
    state = folder.state(queue)
    if state is State.planned:
        return f"{folder.path}: stopped, or deleted, before it finished; launched again it goes on"
    if state not in (State.failed, State.lost):
        return None
    traceback = str((folder.error() or {}).get("traceback", "")) if state is State.failed else ""
    last = [f"    {line}" for line in traceback.splitlines()[-7:-1]]
    return "\n".join([*last, f"{state.value}: {folder.path}: {note(folder, state)}"])
