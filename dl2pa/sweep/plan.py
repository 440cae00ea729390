"""python -m dl2pa plan: what a sweep consists of and how much of it is done, without training or reading anything."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig

from dl2pa import identity
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.sweep import estimate, grid
from dl2pa.sweep.compose import Composer, composing
from dl2pa.sweep.look import duration
from dl2pa.validate import validate

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
    """Prints what ``launch.py -m`` would do with the same words: runs, how many are finished, what the rest takes.

    Raises:
        UserError: no such sweep, or a job that launch.py would refuse.
    """
    chosen = [word.removeprefix("sweep=") for word in arguments if word.startswith("sweep=")]
    hydras = [word for word in arguments if word.lstrip("+~").startswith(("hydra/", "hydra."))]
    words = [word for word in arguments if word not in hydras and not word.startswith("sweep=")]
    if len(chosen) > 1 or not arguments:
        raise UserError(
            f"usage: python -m dl2pa plan sweep=NAME KEY=VALUE...; NAME is one of {', '.join(grid.names())}"
        )
    sweep = grid.read(chosen[0]) if chosen else grid.Sweep()
    title = f"sweep={chosen[0]}" if chosen else "-m"
    with composing():
        jobs = grid.expand(sweep, words)
        try:
            runs = distinct(planned(jobs))
        except UserError as error:
            raise UserError(f"{title}: {error}") from None
        launcher = compose("config", overrides=hydras, return_hydra_config=True).hydra.launcher
    results = {id(run): result for run in runs if not run.cfg.rerun and (result := run.folder.result()) is not None}
    print("\n".join([*_lines(title, len(jobs), runs, results), *_outlook(runs, results, launcher)]))


def _lines(title: str, jobs: int, runs: Sequence[Run], results: Mapping[int, Any]) -> list[str]:
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(identity.group_name(run.cfg), []).append(run)
    everywhere = set.intersection(*(set(run.words) for run in runs))
    rows = [_COLUMNS]
    for cell in cells.values():
        cfg = cell[0].cfg
        ratio = "" if cfg.imbalance is None else f"{cfg.imbalance:g}"
        done = sum(id(run) in results for run in cell)
        other = (word for word in cell[0].words if word not in everywhere and word.split("=")[0] not in _SHOWN)
        label = identity.method_label(cfg)
        counts = (str(len(cell)), str(done))
        rows.append((cfg.dataset.name, label, str(cfg.dimension), ratio, *counts, " ".join(other)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    merged = f" ({jobs} jobs, of which {jobs - len(runs)} are the same run as another)" if jobs > len(runs) else ""
    return [f"{title}: {len(runs)} runs{merged} in {len(cells)} cells, {len(results)} finished", *lines]


def _outlook(runs: Sequence[Run], results: Mapping[int, Any], launcher: DictConfig) -> list[str]:
    """By which code the finished runs were made, and what the others will need."""
    revisions = Counter(" and ".join(map(str, _revisions(result))) for result in results.values())
    made = ", ".join(f"{count} by revision {name}" for name, count in revisions.items())
    lines = [f"finished: {made}{'; mixed revisions' if len(revisions) > 1 else ''}"] if revisions else []
    left = [run for run in runs if id(run) not in results]
    if not left:
        return lines
    settings = {str(key): value for key, value in launcher.items() if key not in ("_target_", "executor", "wait")}
    given = " ".join(f"{key}={value}" for key, value in settings.items() if value not in (None, [], {}))
    lines.append(f"to run: {len(left)}, hydra/launcher={launcher.executor}{given and f' ({given})'}")
    speeds = estimate.Speeds.of(estimate.finished_in({Path(run.cfg.runs_dir) for run in runs}))
    known = [seconds for run in left if (seconds := speeds.seconds(run.cfg)) is not None]
    if known:
        hours = f", {gpus * sum(known) / 3600:.1f} GPU-hours" if (gpus := _gpus(settings)) else ""
        lines.append(
            f"expected: {duration(sum(known))} of one run at a time{hours}, for {len(known)} of {len(left)} runs, by "
            f"finished runs on {'; '.join(sorted(speeds.hardware))}"
        )
    if len(known) < len(left):
        lines.append(f"no finished run to judge by: {len(left) - len(known)} runs")
    return lines


def _gpus(settings: Mapping[str, Any]) -> int:
    """How many a task of SLURM asks for, on all of its nodes: gres=gpu, gpu:2 or gpu:a100:2."""
    count = settings.get("gpus_per_node")
    name, *parts = str(settings.get("gres")).split(":")
    if count is None and name == "gpu":
        count = parts[-1] if parts and parts[-1].isdigit() else 1
    return int(count or 0) * int(settings.get("nodes") or 1)


def _revisions(result: Mapping[str, Any]) -> list[str | None]:
    found: list[str | None] = result.get("revisions", [result["revision"]])
    return found
