"""A sweep is a union of grids: sweeps/sweep/NAME.yaml says which, ``expand`` makes the words of every job.

A grid maps a key to its value or to a list of values, and stands for all their combinations; ``common`` holds what the
grids share, and a grid's own key comes before a common one. A value that is itself a list stands in a list of its own.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf

import sweeps
from dl2pa.errors import UserError

FOLDER = Path(sweeps.__file__).with_name("sweep")


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says, under the names it has there."""

    common: Mapping[str, Any] = field(default_factory=dict)
    grids: Sequence[Mapping[str, Any]] = ({},)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Sweep:
    """The sweep called ``name``.

    Raises:
        UserError: there is none.
    """
    if name not in names():
        raise UserError(f"sweep={name} is not legal: use one of {', '.join(names())}")
    content = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(content, dict)
    return Sweep(**content["sweeper"])


def expand(sweep: Sweep, words: Iterable[str] = ()) -> list[list[str]]:
    """The words of every job, as launch.py takes them, in the order of the file.

    ``words`` are command-line words in the form that ``launch.py -m`` takes, ``seed=0,1`` or ``seed=range(5)``; each
    replaces its key in all grids. For ``method=glob(*)`` Hydra must be initialised.

    Raises:
        UserError: a word that is not KEY=VALUE, or has no values.
    """
    given = dict(_read(word) for word in words)
    jobs = []
    for grid in sweep.grids:
        axes = {key: _values(value) for key, value in {**sweep.common, **grid}.items()} | given
        jobs += [
            [f"{key}={value}" for key, value in zip(axes, chosen, strict=True)]
            for chosen in itertools.product(*axes.values())
        ]
    return jobs


def _values(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _loader() -> ConfigLoader | None:
    """What glob(*) asks for the options of a group."""
    hydra = GlobalHydra.instance()
    return hydra.config_loader() if hydra.is_initialized() else None


def _read(word: str) -> tuple[str, list[str]]:
    try:
        (override,) = OverridesParser.create(_loader()).parse_overrides([word])
        swept = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if swept else [word.partition("=")[2]]
    except HydraException as error:
        raise UserError(f"{word}: use KEY=VALUE or KEY=VALUE,VALUE ({str(error).splitlines()[0]})") from None
    if override.type is not OverrideType.CHANGE:
        raise UserError(f"{word}: use KEY=VALUE or KEY=VALUE,VALUE")
    if not values:
        raise UserError(f"{word}: no values, and so no runs")
    return override.get_key_element(), values
