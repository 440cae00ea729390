"""Composes configs as launch.py -m does, which composes each set of group choices once."""

from functools import cache
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from dl2pa.sweep.compose import Composer, composing

CONF = Path(__file__).parents[1] / "conf"


def compose_config(*words: str) -> DictConfig:
    """The config that ``python launch.py WORDS`` runs, in struct mode and unresolved; the caller's own to change."""
    GlobalHydra.instance().clear()
    with composing():
        return _composer()(words)


@cache
def _composer() -> Composer:
    return Composer()
