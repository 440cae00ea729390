"""The run folder: the only module that knows its file names.

config.yaml         the resolved config, without paths: what the run is
local.yaml          where it runs: paths, the revisions of the code, and what `auto` became at the first start
metrics.jsonl       one line per epoch
assignments.jsonl   the assignment that each epoch trained with
last.pt, best.pt    checkpoints: weights together with the assignment they were trained with
classes.json        the names of the classes
log.txt             what was said on the console
output.txt          standard output and error of the processes that an executor started
lease.N             who works on the run (lease.py)
job.json            where it was submitted to
error.json          how the last attempt ended, if in an error
result.json         written last, and the only meaning of "finished"
mirrored.json       which run of W&B mirrors it, and what W&B's offline files have
mirror.log          what the mirror to W&B said; wandb/: W&B's own files
"""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dl2pa import identity, lease
from dl2pa.errors import UserError, in_words
from dl2pa.lease import Lease, Unheld
from dl2pa.revision import revision


class State(str, Enum):
    """What a run folder and the scheduler's queue say of a run together."""

    planned = "planned"  # to be worked off, from its last checkpoint if it has one
    queued = "queued"  # submitted, and waiting for the scheduler
    running = "running"
    finished = "finished"
    failed = "failed"  # ended in an error, which the folder keeps
    lost = "lost"  # its process, or its job, is gone without a word


# SLURM's words for a job that is to start, and for one that has a node and may not have claimed its folder yet, or not
# yet let go of it.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED", "RESV_DEL_HOLD")
STARTING = ("CONFIGURING", "RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING")


class RunFolder:
    """One run's files under RUNS_DIR/DATASET/NAME."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunFolder":
        return cls(Path(cfg.runs_dir) / cfg.dataset.name / identity.run_name(cfg))

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The run folder at ``path``.

        Raises:
            UserError: ``path`` is none.
        """
        folder = cls(Path(path).resolve())
        if not (folder.path / "config.yaml").is_file():
            raise UserError(
                f"{path}: not a run folder (no config.yaml in it); run folders lie at RUNS_DIR/DATASET/NAME"
            )
        return folder

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        return self.path.parent.parent

    @property
    def key(self) -> str:
        """The run within its runs_dir: DATASET/NAME."""
        return f"{self.path.parent.name}/{self.path.name}"

    @classmethod
    def below(cls, path: str | Path) -> "list[RunFolder]":
        """The run folder at ``path``, or all below it if it is a runs_dir, in the order of their names.

        Raises:
            UserError: there is none.
        """
        root = Path(path).resolve()
        if (root / "config.yaml").is_file():
            return [cls(root)]
        if not (found := cls.within(root)):
            raise UserError(f"{path}: neither a run folder nor a runs_dir with any (RUNS_DIR/DATASET/NAME/config.yaml)")
        return found

    @classmethod
    def within(cls, runs_dir: Path) -> "list[RunFolder]":
        """All of a runs_dir, in the order of their names; what lies under a name with a dot is none."""
        return [cls(config.parent) for config in sorted(runs_dir.glob("[!.]*/[!.]*/config.yaml"))]

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Lease]:
        """Make the folder and hold it: two processes never write one run.

        Raises:
            UserError: another process holds it, or it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            held = Lease.acquire(self.path)
        try:
            yield held
        finally:
            held.release()

    def set_aside(self) -> None:
        """Move an old folder to RUNS_DIR/.old, which nothing reads, under the next number."""
        if not self.path.exists():
            return
        target = self._old(self.reruns())
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path, target)

    def reruns(self) -> int:
        """How many old folders of the run were set aside, as the largest number tells that is still there."""
        there = self._old(0).parent.glob(f"{glob.escape(self.path.name)}.*")
        return max((int(old.suffix[1:]) + 1 for old in there if old.suffix[1:].isdigit()), default=0)

    def _old(self, number: int) -> Path:
        return self.runs_dir / ".old" / f"{self.key}.{number}"

    # -- what the run is, and where it runs

    def plan(self, cfg: DictConfig) -> None:
        """Make the folder of a run that is to be worked off later, or elsewhere.

        An unfinished run takes over what has changed in ``cfg`` since: its id says that no result can.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        group = identity.group_name(cfg)  # for who looks at many folders: finding it anew takes 20 ms
        data_root = str(Path(cfg.data_root).resolve())
        self.write_local({"data_root": data_root, "planned_revision": revision(), "group": group})
        self._freeze(cfg)

    def write_config(self, cfg: DictConfig) -> None:
        """Freeze the config at the first start, without the paths, which belong to local.yaml."""
        if not (self.path / "config.yaml").exists():
            self._freeze(cfg)

    def _freeze(self, cfg: DictConfig) -> None:
        frozen = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
        assert isinstance(frozen, DictConfig)
        for key in ("data_root", "runs_dir", "rerun"):
            del frozen[key]
        if cfg.prototypes.file is not None:  # what is in the file counts, and where it lies is local
            frozen.prototypes.file = identity.result_config(cfg)["prototypes"]["file"]
            self.write_local({"prototypes_file": str(Path(cfg.prototypes.file).resolve())})
        write_whole(self.path / "config.yaml", OmegaConf.to_yaml(frozen))

    def frozen(self) -> dict[str, Any]:
        """The content of config.yaml as it stands: no paths, and no keys that are younger than the run.

        Raises:
            UserError: it is no run's config.
        """
        try:
            found = _yaml(self.path / "config.yaml")
        except (OSError, yaml.YAMLError, AttributeError, UnicodeError) as error:
            raise UserError(f"{self.path / 'config.yaml'}: cannot be read ({str(error).splitlines()[0]})") from None
        if "dataset" not in found or "epochs" not in found:
            raise UserError(f"{self.path / 'config.yaml'}: not a run's config (no dataset, or no epochs, in it)")
        return found

    def config(self) -> DictConfig:
        """The frozen config, with this machine's paths put back.

        Raises:
            UserError: as ``frozen``; or it has what this revision of the code does not know.
        """
        from dl2pa.config import Config

        try:
            stored = OmegaConf.merge(OmegaConf.structured(Config), self.frozen())
        except OmegaConfBaseException as error:
            problem = str(error).splitlines()[0]
            raise UserError(
                f"{self.path / 'config.yaml'}: does not fit this revision of the code ({problem})"
            ) from None
        assert isinstance(stored, DictConfig)
        local = self.local()
        stored.data_root = local.get("data_root", stored.data_root)
        if Path(local.get("prototypes_file", "")).is_file():
            stored.prototypes.file = local["prototypes_file"]
        stored.runs_dir = str(self.runs_dir)
        return stored

    def group(self) -> str:
        """What the runs of a table's cell share (identity.group_name)."""
        kept = self.local().get("group")
        return identity.group_name(self.config()) if kept is None else str(kept)

    def local(self) -> dict[str, Any]:
        target = self.path / "local.yaml"
        return _yaml(target) if target.exists() else {}

    def write_local(self, values: dict[str, Any]) -> None:
        write_whole(self.path / "local.yaml", OmegaConf.to_yaml(OmegaConf.create({**self.local(), **values})))

    def write_classes(self, names: list[str]) -> None:
        write_whole(self.path / "classes.json", json.dumps(names) + "\n")

    def classes(self) -> list[str] | None:
        """The names of the classes in label order; None where the data were never read."""
        with contextlib.suppress(FileNotFoundError):
            names: list[str] = json.loads((self.path / "classes.json").read_text())
            return names
        return None

    # -- where it stands

    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    def state(self, queue: Mapping[str, str] | None = None, now: float | None = None) -> State:
        """Where the run stands.

        Args:
            queue: the scheduler's word for the state of each job that it was asked for, by job id, "" for one that it
                does not know; None if it was not asked. A run with another job, submitted since, counts as queued
                until it starts.
            now: ``lease.file_clock`` of the runs_dir, for who asks for many.
        """
        holder, alive = lease.seen(self.path, now)
        if self.finished():  # looked for after the lease: a run writes it, and then lets go
            return State.finished
        if alive:
            return State.running
        job, shared = self._submitted()
        died = holder is not None and not holder.released
        failed = (self.path / "error.json").exists()
        if job is not None:
            found = (queue or {}).get(job, "PENDING")
            if found in WAITING:
                return State.queued
            # A job may go on with other runs. One that is this run's alone goes on with it as soon as SLURM, or a file
            # system that stands still, notices: a node is given up after minutes, and its job is then queued again.
            surely_died = holder is not None and died and (shared or holder.here())
            if found in STARTING and not surely_died and not failed:
                return State.running
        if failed:
            return State.failed
        return State.lost if died or job is not None else State.planned

    def attempts(self) -> int:
        """How many processes have worked on the run."""
        return lease.last(self.path)[0]

    def holder(self) -> lease.Holder | None:
        """The process that works, or last worked, on the run."""
        return lease.last(self.path)[1]

    def job(self) -> str | None:
        """The id of the scheduler's job that the run was submitted with; None where it was not."""
        return self._submitted()[0]

    def _submitted(self) -> tuple[str | None, bool]:
        """As ``write_job`` kept them."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            kept = json.loads((self.path / "job.json").read_text())
            return str(kept["id"]), bool(kept.get("shared"))
        return None, False

    def write_job(self, job: str | None, shared: bool = False) -> None:
        """Keep the id of the job that the run was submitted with, ``shared`` with other runs; None forgets it."""
        if job is None:
            (self.path / "job.json").unlink(missing_ok=True)
        else:
            write_whole(self.path / "job.json", json.dumps({"id": job, "shared": shared}) + "\n")

    def error(self) -> dict[str, Any] | None:
        """``message`` and ``traceback`` of the error that the last attempt ended in; None where it did not."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            found: dict[str, Any] = json.loads((self.path / "error.json").read_text())
            return found
        return None

    def failed_since(self, moment: float) -> bool:
        """Whether an attempt ended in an error after the ``moment``, in seconds of the clock."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / "error.json").stat().st_mtime > moment
        return False

    def write_error(self, error: BaseException | str | None) -> None:
        """Keep how an attempt ended; None forgets it."""
        if error is None:
            (self.path / "error.json").unlink(missing_ok=True)
            return
        told = in_words(error) if isinstance(error, BaseException) else {"message": error, "traceback": ""}
        write_whole(self.path / "error.json", json.dumps(told) + "\n")

    @property
    def output(self) -> Path:
        """Where an executor lets the run's processes write what they print."""
        return self.path / "output.txt"

    @property
    def said(self) -> Path:
        """The run's own log."""
        return self.path / "log.txt"

    # -- lines, one per epoch

    def append(self, kind: str, record: dict[str, Any]) -> None:
        """Add a line to ``kind``.jsonl (metrics or assignments)."""
        target = self.path / f"{kind}.jsonl"
        with writing(target), open(target, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of ``kind``.jsonl; a line cut short by a kill is as if it had not been written."""
        records = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / f"{kind}.jsonl").read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    records.append(json.loads(line))
        return records

    def keep_epochs(self, kind: str, epochs: int) -> None:
        """Drop the lines of epochs after the first ``epochs``: those that a resumed run is about to write again."""
        target = self.path / f"{kind}.jsonl"
        kept = "".join(json.dumps(record) + "\n" for record in self.lines(kind) if record["epoch"] <= epochs)
        if not target.exists() or target.read_text() != kept:
            write_whole(target, kept, durable=True)

    def log(self, message: str) -> None:
        with writing(self.said), open(self.said, "a") as file:
            file.write(message + "\n")

    # -- checkpoints

    def save(self, state: dict[str, Any], which: str) -> None:
        """Write ``which``.pt (last or best) whole or not at all."""
        import torch  # here: the mirror to W&B and the verbs that only read lines do without

        target = self.path / f"{which}.pt"
        aside = target.with_suffix(".pt.part")
        with writing(target):
            try:
                torch.save({"run_id": self.run_id, **state}, aside)
            except RuntimeError as error:  # torch's writer reports a full disk as a RuntimeError
                aside.unlink(missing_ok=True)
                raise OSError(None, str(error).splitlines()[0], str(target)) from error
            _onto_disk(aside)
            os.replace(aside, target)

    def load(self, which: str) -> dict[str, Any] | None:
        """The checkpoint ``which`` (last or best), on the CPU; None where there is none.

        Raises:
            UserError: it cannot be read, or belongs to another config.
        """
        import torch

        target = self.path / f"{which}.pt"
        if not target.exists():
            return None
        try:
            state = torch.load(target, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise ValueError(f"it holds a {type(state).__name__}")
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{target}: not a readable checkpoint ({first}); rerun=true starts afresh") from error
        owner = state.get("run_id")
        if owner != self.run_id:
            raise UserError(f"{target}: checkpoint of run {owner}, not of {self.run_id}; rerun=true starts afresh")
        return state

    @contextlib.contextmanager
    def taking(self, which: str) -> Iterator[None]:
        """While a checkpoint's content goes where it belongs: raises UserError where it does not fit this code."""
        try:
            yield
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            older = [name for name in self.local().get("revisions", []) if name != revision()]
            raise UserError(
                f"{self.path / which}.pt: does not fit this code ({type(error).__name__}: {reason}); check out the "
                f"revision that wrote it{''.join(f', {name}' for name in older[-1:])}, or rerun=true trains anew"
            ) from error

    # -- the end

    def result(self) -> dict[str, Any] | None:
        """What a finished run found; None while it is not finished."""
        target = self.path / "result.json"
        with writing(target):  # a runs_dir that may not be read shows here first
            if not target.exists():
                return None
        try:
            result = json.loads(target.read_text())
            if not isinstance(result, dict) or "top1" not in result:
                raise ValueError("no top1 in it")
        except ValueError as error:
            raise UserError(f"{target}: not a readable result ({error}); rerun=true trains anew") from None
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        write_whole(self.path / "result.json", json.dumps(result, indent=1) + "\n", durable=True)

    # -- the mirror to W&B

    @property
    def mirror_log(self) -> Path:
        return self.path / "mirror.log"

    @property
    def wandb_dir(self) -> Path:
        """Where W&B keeps its own files, each run of it in a folder."""
        return self.path / "wandb"

    @contextlib.contextmanager
    def mirroring(self, seconds: float) -> Iterator[None]:
        """Hold the mirror, waiting ``seconds`` at most for another process to let go of it.

        Raises:
            UserError: another process still mirrors the run.
        """
        try:
            with FileLock(self.path / ".mirror.lock", timeout=seconds):
                yield
        except Timeout:
            raise UserError(f"{self.path}: another process is mirroring this run") from None

    def mirrored(self) -> dict[str, Any]:
        """What ``write_mirrored`` kept; empty where nothing was."""
        with contextlib.suppress(FileNotFoundError):
            kept: dict[str, Any] = json.loads((self.path / "mirrored.json").read_text())
            return kept
        return {}

    def write_mirrored(self, kept: dict[str, Any]) -> None:
        write_whole(self.path / "mirrored.json", json.dumps(kept) + "\n")


class Onlooker(RunFolder):
    """The run folder as all but the first rank of a run have it: they read, and leave writing to that one."""

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Lease]:
        yield Unheld()

    def set_aside(self) -> None: ...

    def write_config(self, cfg: DictConfig) -> None: ...

    def write_local(self, values: dict[str, Any]) -> None: ...

    def write_classes(self, names: list[str]) -> None: ...

    def write_error(self, error: BaseException | str | None) -> None: ...

    def append(self, kind: str, record: dict[str, Any]) -> None: ...

    def keep_epochs(self, kind: str, epochs: int) -> None: ...

    def log(self, message: str) -> None: ...

    def save(self, state: dict[str, Any], which: str) -> None: ...

    def write_result(self, result: dict[str, Any]) -> None: ...


def write_whole(target: Path, text: str, durable: bool = False) -> None:
    """Write ``target`` so that nobody ever reads a part of it.

    Args:
        durable: not even after the machine has lost its power: what cannot be made again. Waits for the disk, 8 ms or
            more, which a plan of a thousand runs would feel.

    Raises:
        UserError: the system refuses.
    """
    aside = target.with_name(f"{target.name}.{os.getpid()}.part")  # two may plan one run
    with writing(target):
        try:
            aside.write_text(text)
            if durable:
                _onto_disk(aside)
            os.replace(aside, target)
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def _onto_disk(path: Path) -> None:
    """Wait until what was written is on the disk. Else a name may get there before what it names, and a machine that
    loses its power leaves an empty file where the last good one was."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _yaml(path: Path) -> dict[str, Any]:
    # OmegaConf's own reader, in Python, is ten times slower, and reports read a thousand of these.
    values = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {str(key): value for key, value in (values or {}).items()}


@contextlib.contextmanager
def writing(target: Path, key: str = "runs_dir", other: str = "runs_dir=DIR") -> Iterator[None]:
    """Turn the system's refusal to write into one line that names the ``key`` and how to choose an ``other`` place."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{target}: gone while it was in use ({error.strerror})") from error
    except OSError as error:
        free = ""
        with contextlib.suppress(OSError):
            existing = next(parent for parent in (target, *target.parents) if parent.exists())
            free = f"; {shutil.disk_usage(existing).free / 2**20:.0f} MiB free there"
        raise UserError(
            f"{key}: cannot write {target}: {error.strerror or error}{free}; {other} chooses another folder"
        ) from error


def objective(result: dict[str, Any]) -> float:
    """The number (percent) that a search looks at: on held-out images where there are any, else the test accuracy."""
    return float(result.get("val_macro", result["top1"]))
