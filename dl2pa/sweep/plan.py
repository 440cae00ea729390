"""python -m dl2pa plan: what a sweep consists of and how much of it is done, without training or reading anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from omegaconf import DictConfig

from dl2pa import config, identity
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.sweep import grid
from dl2pa.sweep.compose import Composer
from dl2pa.validate import validate

CONF = Path(__file__).parents[2] / "conf"
_COLUMNS = ("dataset", "method", "d", "imbalance", "seeds", "finished", "")
_SHOWN = ("dataset", "method", "dimension", "imbalance", "seed")  # keys that have a column of their own


@dataclass(frozen=True)
class Run:
    """A run that is planned: the words it comes from, its config, and where it lies."""

    words: Sequence[str]
    cfg: DictConfig
    folder: RunFolder


def planned(jobs: Iterable[Sequence[str]]) -> list[Run]:
    """The run that the words of each job come to; Hydra must be initialised.

    Raises:
        UserError: words that launch.py would refuse, which the message gives in full.
    """
    composer = Composer()
    runs = []
    for words in jobs:
        try:
            cfg = composer(words)
            validate(cfg)
            folder = RunFolder.of(cfg)
        except UserError as error:
            raise UserError(f"{' '.join(words)}: {error}") from None
        runs.append(Run(words, cfg, folder))
    return runs


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Each run once, however many jobs come to it."""
    found: dict[Path, Run] = {}
    for run in runs:
        found.setdefault(run.folder.path, run)
    return list(found.values())


def main(arguments: Sequence[str]) -> None:
    """Prints the plan of ``sweep=NAME``; further words replace the sweep's, as behind launch.py -m.

    Raises:
        UserError: no such sweep, or a job that launch.py would refuse.
    """
    chosen = [word for word in arguments if word.startswith("sweep=")]
    if len(chosen) != 1:
        raise UserError(
            f"usage: python -m dl2pa plan sweep=NAME KEY=VALUE...; NAME is one of {', '.join(grid.names())}"
        )
    name = chosen[0].removeprefix("sweep=")
    jobs = grid.expand(grid.read(name), [word for word in arguments if word not in chosen])
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            runs = distinct(planned(jobs))
        except UserError as error:
            raise UserError(f"sweep={name}: {error}") from None
    print("\n".join(_lines(name, len(jobs), runs)))


def _lines(name: str, jobs: int, runs: Sequence[Run]) -> list[str]:
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(identity.group_name(run.cfg), []).append(run)
    finished = {id(run) for run in runs if run.folder.result() is not None}
    everywhere = set.intersection(*(set(run.words) for run in runs))
    rows = [_COLUMNS]
    for cell in cells.values():
        cfg = cell[0].cfg
        ratio = "" if cfg.imbalance is None else f"{cfg.imbalance:g}"
        done = sum(id(run) in finished for run in cell)
        other = (word for word in cell[0].words if word not in everywhere and word.split("=")[0] not in _SHOWN)
        label = identity.method_label(cfg)
        counts = (str(len(cell)), str(done))
        rows.append((cfg.dataset.name, label, str(cfg.dimension), ratio, *counts, " ".join(other)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    merged = f" ({jobs} jobs, of which {jobs - len(runs)} are the same run as another)" if jobs > len(runs) else ""
    return [f"sweep={name}: {len(runs)} runs{merged} in {len(cells)} cells, {len(finished)} finished", *lines]
