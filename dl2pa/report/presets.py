"""Which options of the config groups a run's config comes from."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from dl2pa import config
from dl2pa.identity import defaults, leaves_of
from dl2pa.sweep.compose import CONF, composing

_SHARED = ("assignment", "loss", "optimizer", "schedule")  # groups of which several options share a name
_PARTS = ("method.", "prototypes.", "assignment.", "loss.")
_RECIPE = ("optimizer.", "schedule.", "augment.", "epochs", "max_steps", "batch_size", "holdout")
# Which variants a published number may be of is said beside it; a recipe chooses between mean and sum.
_FREE = ("method.variant", "prototypes.seed", "assignment.seed", "loss.reduction")


def is_preset(values: Mapping[str, Any]) -> bool:
    """Whether a config (by dotted names) has method, prototypes, assignment and loss of ``method=NAME``.

    With compat=paper or without: both are meant to be what was published.
    """
    return _agrees(values, _PARTS)


def is_recipe(values: Mapping[str, Any]) -> bool:
    """The same of how a run is trained: optimizer, schedule, augmentation, epochs, and on which images."""
    return _agrees(values, _RECIPE)


def _agrees(values: Mapping[str, Any], parts: tuple[str, ...]) -> bool:
    mine = {name: str(value) for name, value in values.items() if name.startswith(parts) and name not in _FREE}
    presets = (_preset(values["dataset.name"], values["method.name"], compat) for compat in ("none", "paper"))
    # A key that is gone since the run is in none of the presets.
    return any(all(preset.get(name, value) == value for name, value in mine.items()) for preset in presets)


def option(values: Mapping[str, Any], group: str) -> str:
    """NAME of the option loss=NAME that has the values of a config (by dotted names), or most of them.

    Several options may share their ``name``: loss=balanced_cross_entropy is cross_entropy with other values.
    """
    name = str(values.get(f"{group}.name"))
    options = _options(group) if group in _SHARED else {}
    alike = {stem: given for stem, given in options.items() if given["name"] == name}

    def differing(stem: str) -> tuple[int, bool]:
        found = sum(str(values.get(f"{group}.{key}", value)) != value for key, value in alike[stem].items())
        return found, stem != name

    return min(alike, key=differing, default=name)


@cache
def _options(group: str) -> dict[str, dict[str, str]]:
    """The values of each option of a group, without those that follow other keys."""
    schema = defaults(config.Config).get(group)
    found: dict[str, dict[str, str]] = {}
    with composing():
        for path in sorted((CONF / group).glob("*.yaml")):
            given = compose(f"{group}/{path.stem}")[group]
            whole = OmegaConf.to_container(OmegaConf.merge(schema, given), enum_to_str=True)
            assert isinstance(whole, dict)
            found[path.stem] = {str(key): text for key, value in whole.items() if "${" not in (text := str(value))}
    return found


@cache
def _preset(dataset: str, method: str, compat: str) -> dict[str, str]:
    with composing():
        cfg = compose("config", overrides=[f"dataset={dataset}", f"method={method}", f"compat={compat}"])
        return {name: str(value) for name, value in leaves_of(cfg).items()}
