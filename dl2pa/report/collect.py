"""Finished runs as cells: what a table shows once, whatever the number of its seeds."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dl2pa import identity
from dl2pa.backbones.widths import feature_width
from dl2pa.config import Config
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.report import presets
from dl2pa.sweep import record

_TUNED = "optimizer.lr"


@dataclass
class Cell:
    """The runs that differ by their seed alone. ``missing``: how many more are planned."""

    dataset: str
    method: str
    dimension: int
    imbalance: float | None
    backbone: str
    network: str  # the backbone's name, and behind a hyphen a width that is not its own
    config: Mapping[str, Any]  # flat: assignment.every -> 1
    results: list[dict[str, Any]] = field(default_factory=list)
    folders: list[RunFolder] = field(default_factory=list)  # of the results
    missing: int = 0
    label: str = ""  # of its row: no two cells of one table, dimension and imbalance share it

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cell":
        """Of a config by dotted names, without runs."""
        variant = config.get("method.variant")
        width = config.get("backbone.width")
        own = width is None or width == feature_width(config["backbone.name"])
        return cls(
            dataset=config["dataset.name"],
            method=config["method.name"] + (f".{variant}" if variant else ""),
            dimension=config["dimension"],
            imbalance=config["imbalance"],
            backbone=config["backbone.name"],
            network=config["backbone.name"] + ("" if own else f"-{width}"),
            config=config,
        )

    def values(self, key: str) -> list[float]:
        return [result[key] for result in self.results if result.get(key) is not None]

    def mean(self, key: str = "top1") -> float | None:
        found = self.values(key)
        return mean(found) if found else None

    def std(self, key: str = "top1") -> float | None:
        """Of the sample (n - 1); None for a single run."""
        found = self.values(key)
        return stdev(found) if len(found) > 1 else None

    def mixed(self) -> list[str]:
        """What its runs do not share though it may change results, or is code: a reader should know."""
        found = {
            name: {str(result.get(name)) for result in self.results}
            for name in ("precision", "threads", "hardware", "revision")
        }
        interrupted = any(len(result.get("revisions", [])) > 1 for result in self.results)
        return [name for name, values in found.items() if len(values) > 1 or (name == "revision" and interrupted)]


def collect(directories: Iterable[str | Path], sweep: str | None = None, over: Sequence[str] = ()) -> list[Cell]:
    """The cells of all runs in some runs_dirs or run folders, labelled, in the order of their names.

    A run that lies in several of them, as in a copy of a runs_dir, counts once: the first that is finished.

    Args:
        sweep: only the runs of this sweep.
        over: keys (prototypes.seed) that are averaged over like the seed.

    Raises:
        UserError: there are no runs, or a result cannot be read.
    """
    cells: dict[tuple[Any, ...], Cell] = {}
    configs: dict[str, dict[str, Any]] = {}  # one a group: reading one takes 3 ms
    runs: dict[str, RunFolder] = {}
    for folder in (folder for directory in directories for folder in record.folders_of(directory, sweep)):
        kept = runs.setdefault(folder.run_id, folder)
        if kept is not folder and kept.result() is None:
            runs[folder.run_id] = folder
    for folder in runs.values():
        result = folder.result()
        group = folder.group() if result is None else result["group"]
        if group not in configs:
            configs[group] = _without_seeds(folder.frozen(), over)
        config = configs[group]
        key = tuple(sorted((name, str(value)) for name, value in config.items()))
        if key not in cells:
            cells[key] = Cell.of(config)
        if result is None:
            cells[key].missing += 1
        else:
            cells[key].results.append(result)
            cells[key].folders.append(folder)
    found = sorted(cells.values(), key=lambda cell: (cell.dataset, cell.method, cell.imbalance or 0, cell.dimension))
    _label(found)
    return found


@cache
def _default_leaves() -> dict[str, Any]:
    """What a key stands for in the config of a run that is older than the key."""
    return identity.leaves_of(identity.defaults(Config))


def _without_seeds(values: Mapping[Any, Any], over: Sequence[str]) -> dict[str, Any]:
    found = {**_default_leaves(), **identity.leaves(values)}
    if unknown := [name for name in over if name not in found]:
        raise UserError(f"over={','.join(unknown)}: no such key of a run's config")
    return {name: value for name, value in found.items() if name not in ("seed", *over)}


def _label(cells: Sequence[Cell]) -> None:
    """A row is a method, and whatever else tells apart two cells that would stand in one place of a table.

    A learning rate is chosen for each row, so it names one only where nothing else tells two of them apart.
    """
    telling: dict[tuple[str, ...], dict[tuple[str, str], None]] = defaultdict(dict)  # ordered
    for (*row, _, _), rivals in _places(cells, lambda cell: cell.method).items():
        for name in rivals[0].config if len(rivals) > 1 else ():
            by_option: dict[str, set[str]] = defaultdict(set)
            for cell in rivals:
                by_option[_option(cell, name)].add(_said(cell, name))
            telling[tuple(row)] |= {(name, option): None for option, values in by_option.items() if len(values) > 1}

    def label(cell: Cell, without: str = "") -> str:
        keys = telling[cell.dataset, cell.network, cell.method]
        names = [name for name, option in keys if option == _option(cell, name) and name != without]
        return " ".join([cell.method, *(_said(cell, name) for name in names)])

    for same in grouped(cells, lambda cell: (cell.dataset, cell.network, cell.method)).values():
        shorter = _places(same, lambda cell: label(cell, _TUNED))
        without = _TUNED if all(len(rivals) == 1 for rivals in shorter.values()) else ""
        for cell in same:
            cell.label = label(cell, without)


def _places(cells: Sequence[Cell], row: Callable[[Cell], str]) -> dict[tuple[Any, ...], list[Cell]]:
    """The cells in each place of the tables, by data set, network, row, dimension and imbalance."""
    return grouped(cells, lambda cell: (cell.dataset, cell.network, row(cell), cell.dimension, cell.imbalance))


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, list[Cell]]:
    found: dict[Any, list[Cell]] = defaultdict(list)
    for cell in cells:
        found[key(cell)].append(cell)
    return found


def _option(cell: Cell, name: str) -> str:
    """Of a key in a group its option: where that differs, it says what differs by nature beside it."""
    group, _, key = name.partition(".")
    return presets.option(cell.config, group) if key not in ("", "name") else ""


def _said(cell: Cell, name: str) -> str:
    """A key and its value, in the words of the command line."""
    group, _, key = name.partition(".")
    return f"{group}={presets.option(cell.config, group)}" if key == "name" else f"{name}={cell.config.get(name)}"
