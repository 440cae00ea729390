"""A run's id, name and group: pure functions of the part of its config that changes results."""

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from dl2pa.config import Config

# Where a run happens and who watches. ``recipe`` and ``compat`` act only through other keys.
NOT_IDENTITY = (
    "runtime",
    "logger",
    "recipe",
    "compat",
    "device",
    "data_root",
    "runs_dir",
    "download",
    "rerun",
    "strict_revision",
)


def result_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved result-changing values that differ from the schema's defaults, nested as in the config.

    Leaving defaults out means that a key added later, with a default that does what was done before, keeps stored ids.
    """
    values = _differences(_plain(cfg), _plain(defaults(Config)))
    file = cfg.prototypes.file
    if file is not None and not file.startswith("sha256:"):  # the points count, not where they lie
        from dl2pa.prototypes.files import content_hash

        values["prototypes"]["file"] = f"sha256:{content_hash(Path(cfg.prototypes.file))}"
    return values


def _plain(cfg: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(container, dict)
    return changing({str(key): value for key, value in container.items()})


def changing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config, nested, the keys that can change a result."""
    # ``default_dimension`` acts only through ``dimension``.
    dataset = {key: value for key, value in values["dataset"].items() if key != "default_dimension"}
    return {key: value for key, value in values.items() if key not in NOT_IDENTITY} | {"dataset": dataset}


def leaves(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Of a config, nested, what can change a result, by dotted names: {"assignment.every": 1}."""
    found: dict[str, Any] = {}
    for name, value in changing(values).items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": leaf for inner, leaf in value.items()}
        else:
            found[name] = value
    return found


def leaves_of(cfg: DictConfig) -> dict[str, Any]:
    """The same of a config that is not written down, with the names of enums; "???" for a value that is missing."""
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return leaves(container)


@cache
def defaults(schema: type) -> DictConfig:
    """A schema with its defaults, for reading alone. Making it takes 10 ms, and a plan needs it for every run."""
    made: DictConfig = OmegaConf.structured(schema, flags={"readonly": True})
    return made


def _differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key, MISSING)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := _differences(value, default):
                found[key] = inner
        elif value != default:
            found[key] = value.value if isinstance(value, Enum) else value
    return found


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def method_label(cfg: DictConfig) -> str:
    """The method as tables name it: psc.cos_scaled, dl2pa."""
    return cfg.method.name + (f".{cfg.method.variant}" if cfg.method.variant else "")


def _readable(cfg: DictConfig) -> str:
    ratio = "" if cfg.imbalance is None else f"-imb{cfg.imbalance:g}"
    return f"{method_label(cfg)}{ratio}-d{cfg.dimension}"


def run_name(cfg: DictConfig) -> str:
    """Folder name and W&B id: readable, and unique by the digest of everything that changes the result."""
    return f"{_readable(cfg)}-s{cfg.seed}-{_digest(result_config(cfg))}"


def group_name(cfg: DictConfig) -> str:
    """What the runs of one table cell share: all but the seed. A prototype or assignment seed set on its own stays."""
    values = result_config(cfg)
    values.pop("seed", None)
    return f"{_readable(cfg)}-{_digest(values)}"
