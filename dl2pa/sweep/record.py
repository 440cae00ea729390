"""RUNS_DIR/.sweeps/NAME.json: which runs a sweep consists of, and how they were last worked off."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dl2pa.errors import UserError
from dl2pa.folder import RunFolder, write_whole, writing
from dl2pa.lease import Holder


@dataclass
class Record:
    """``runs`` are DATASET/NAME below the runs_dir; ``executor`` is local or slurm, ``settings`` its own keys.

    ``pools``: the processes that work the runs off, where the executor is local: several if it was launched anew
    meanwhile.
    """

    name: str
    runs: list[str]
    executor: str = "local"
    settings: dict[str, Any] = field(default_factory=dict)
    pools: list[Holder] = field(default_factory=list)

    def folders(self, runs_dir: Path) -> list[RunFolder]:
        """Those that have not been deleted since."""
        return [RunFolder(runs_dir / run) for run in self.runs if (runs_dir / run).exists()]


def name_of(folders: Sequence[RunFolder]) -> str:
    """The name of a sweep that has no file: by its runs, so that the same command finds it again."""
    ids = "\n".join(sorted(folder.key for folder in folders))
    return f"multirun-{hashlib.sha256(ids.encode()).hexdigest()[:8]}"


def write(runs_dir: Path, record: Record) -> None:
    """Keep ``record``. What the sweep had before and differs by the seed alone stays a part of it: launched with
    seed=3 it has one run more in each cell."""
    if (before := _known(runs_dir, record.name)) is not None:
        others = [folder for folder in before.folders(runs_dir) if folder.key not in record.runs]
        cells = {folder.group() for folder in record.folders(runs_dir)} if others else set()
        record.runs = [folder.key for folder in others if folder.group() in cells] + record.runs
    target = _path(runs_dir, record.name)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, json.dumps(asdict(record), indent=1) + "\n")


def working(runs_dir: Path, name: str) -> list[Holder]:
    """The pools of this host that work the sweep ``name`` off, and whoever does on another."""
    found = _known(runs_dir, name)
    return [] if found is None else [pool for pool in found.pools if not pool.here() or pool.lives_here()]


def _known(runs_dir: Path, name: str) -> Record | None:
    if _path(runs_dir, name).exists():
        with contextlib.suppress(UserError):  # what cannot be read is about to be written anew
            return read(runs_dir, name)
    return None


def in_hand(folders: Sequence[RunFolder], ending: Collection[Holder] = ()) -> set[str]:
    """Of some runs of one runs_dir those, by key, that a pool that lives on this host, and is not one of those that are
    ``ending``, has yet to begin."""
    left = [folder for folder in folders if not folder.finished()]
    pools = [
        (pool, pool.began(), sweep.runs)
        for sweep in (every(left[0].runs_dir) if left else ())
        for pool in sweep.pools
        if pool not in ending and pool.here() and pool.lives_here()
    ]
    waiting = set()
    for folder in left:
        holder = folder.holder()
        for pool, began, its in pools:
            # It begins none a second time that was cancelled, or died, or failed before it had its folder.
            begun = holder is not None and holder.here() and holder.started > pool.started
            begun = begun or folder.failed_since(began)
            if folder.key in its and not begun:
                waiting.add(folder.key)
    return waiting


def read(runs_dir: Path, name: str) -> Record:
    """The sweep ``name`` of a runs_dir.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        values = json.loads(_path(runs_dir, name).read_text())
        pools = [Holder(**pool) for pool in values.pop("pools")]
        return Record(**values, pools=pools)
    except FileNotFoundError:
        known = ", ".join(record.name for record in every(runs_dir)) or "none"
        raise UserError(f"sweep={name}: no sweep of {runs_dir}; there are: {known}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{_path(runs_dir, name)}: not a readable sweep ({error}); launch it again") from None


def every(runs_dir: Path) -> list[Record]:
    """The sweeps of a runs_dir, the last written first."""
    paths = (runs_dir / ".sweeps").glob("*.json")
    return [read(runs_dir, path.stem) for path in sorted(paths, key=lambda path: -path.stat().st_mtime)]


def folders_of(directory: str | Path, sweep: str | None = None) -> list[RunFolder]:
    """The run folders that a verb is about: the one at ``directory``, or those below it, all or one sweep's.

    Raises:
        UserError: there is none.
    """
    if sweep is None:
        return RunFolder.below(directory)
    runs_dir = Path(directory).resolve()
    if not (found := read(runs_dir, sweep).folders(runs_dir)):
        raise UserError(f"sweep={sweep}: all of its runs in {runs_dir} have been deleted")
    return found


def _path(runs_dir: Path, name: str) -> Path:
    return runs_dir / ".sweeps" / f"{name}.json"
