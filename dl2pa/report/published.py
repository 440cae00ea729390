"""The published numbers, as data (published.yaml)."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dl2pa.errors import UserError

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass
class Cell:
    """One published accuracy.

    ``value``: top-1 in percent. ``dimension`` None is the backbone's own width, ``imbalance`` None balanced data.
    ``setting`` tells apart what a source reports of one cell. ``variants``: those of the method that the number may be
    of; None is any. ``reading``: the number of ours that is of the same images. ``needs``: keys and values of a run's
    config without which it has other labels. ``doubtful``: why the number, or what it is a number of, is in doubt; None
    where it is not.
    """

    method: str = MISSING
    dataset: str = MISSING
    backbone: str = MISSING
    value: float = MISSING
    source: str = MISSING
    dimension: int | None = None
    imbalance: float | None = None
    setting: str | None = None
    variants: list[str] | None = None
    reading: str = "top1"
    needs: dict[str, str] = field(default_factory=dict)
    doubtful: str | None = None


@dataclass
class _File:
    sources: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)


def published(path: Path = PUBLISHED) -> list[Cell]:
    """The cells of ``path``, ``source`` and ``doubtful`` as the texts that their names stand for.

    Raises:
        UserError: a key, type or name that the file may not have, a value that is no percentage, a cell given twice.
    """
    try:
        file = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(_File), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(file, _File)
    seen: set[tuple[object, ...]] = set()
    for number, cell in enumerate(file.cells):
        where = f"{path}: cells[{number}]"
        if not 0 < cell.value < 100:
            raise UserError(f"{where}.value={cell.value} is not legal: use a percentage over 0 and under 100")
        key = (cell.method, cell.dataset, cell.backbone, cell.source, cell.dimension, cell.imbalance, cell.setting)
        if key in seen:
            raise UserError(f"{where} is given twice: {key}")
        seen.add(key)
        cell.source = _named(file.sources, cell.source, f"{where}.source")
        if cell.doubtful is not None:
            cell.doubtful = _named(file.doubts, cell.doubtful, f"{where}.doubtful")
    return file.cells


def _named(texts: dict[str, str], name: str, where: str) -> str:
    if name not in texts:
        raise UserError(f"{where}={name} is not legal: use one of {', '.join(texts)}")
    return texts[name]
