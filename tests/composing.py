"""Composes configs as launch.py does."""

from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from dl2pa import config

CONF = Path(__file__).parents[1] / "conf"


def compose_config(*words: str) -> DictConfig:
    """The config that ``python launch.py WORDS`` runs, in struct mode and unresolved; the caller's own to change."""
    return _composed(words).copy()


@cache  # composing takes a third of a second
def _composed(words: tuple[str, ...]) -> DictConfig:
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))
