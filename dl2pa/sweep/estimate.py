"""How long runs will take, from those that are finished."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig

from dl2pa.folder import RunFolder


@dataclass
class Speeds:
    """Seconds an epoch of finished runs, by what decides them; hardware in the runs' own words."""

    epoch: dict[tuple[Any, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
    hardware: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, results: Iterable[dict[str, Any]]) -> "Speeds":
        made = cls()
        for result in results:
            if result["epochs"] > 0 and result.get("seconds") and not result.get("max_steps"):
                made.hardware.add(f"{result['hardware']}, {result['threads']} threads")
                for key in _keys(result["dataset"], result["backbone"], result.get("width"), result["imbalance"]):
                    made.epoch[key].append(result["seconds"] / result["epochs"])
        return made

    def seconds(self, cfg: DictConfig) -> float | None:
        """The median of the runs on the same data with the same backbone, if need be at any imbalance; None without.

        None, too, for a run that ends at max_steps.
        """
        if cfg.max_steps is not None:
            return None
        for key in _keys(cfg.dataset.name, cfg.backbone.name, cfg.backbone.width, cfg.imbalance):
            if key in self.epoch:
                return float(cfg.epochs) * median(self.epoch[key])
        return None


def finished_in(runs_dirs: Iterable[Path]) -> list[dict[str, Any]]:
    """The results of all finished runs below some runs_dirs."""
    folders = (folder for runs_dir in runs_dirs for folder in RunFolder.within(runs_dir))
    return [result for folder in folders if (result := folder.result()) is not None]


def _keys(dataset: str, backbone: str, width: int | None, imbalance: float | None) -> Sequence[tuple[Any, ...]]:
    return [(dataset, backbone, width, imbalance), (dataset, backbone, width)]
