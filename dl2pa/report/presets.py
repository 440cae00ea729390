"""Which rows are a method as its preset has it."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dl2pa import config
from dl2pa.report.collect import Cell, flat
from dl2pa.sweep.plan import CONF

_PARTS = ("method.", "prototypes.", "assignment.", "loss.")
# Several variants of a softmax stand for the published one; a recipe chooses between mean and sum.
_FREE = ("method.variant", "prototypes.seed", "assignment.seed", "loss.reduction")


def is_preset(cell: Cell) -> bool:
    """Whether a cell has method, prototypes, assignment and loss of ``method=NAME`` on its data set.

    With compat=paper or without: both are meant to be what was published.
    """
    mine = _parts(cell.config)
    presets = (_preset(cell.dataset, cell.config["method.name"], compat) for compat in ("none", "paper"))
    # A key that is younger than the run is not in its config.
    return any(all(preset[name] == value for name, value in mine.items()) for preset in presets)


@cache
def _preset(dataset: str, method: str, compat: str) -> dict[str, str]:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"dataset={dataset}", f"method={method}", f"compat={compat}"])
        values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(values, dict)
    return _parts(flat(values))


def _parts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if name.startswith(_PARTS) and name not in _FREE}
