"""Makes prototypes of any kind, and keeps what it made in a file."""

import importlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from dl2pa.errors import UserError
from dl2pa.prototypes.files import content_hash
from dl2pa.prototypes.kinds import KINDS, check, check_fit, check_option, options_of

log = logging.getLogger(__name__)


def build(num_classes: int, dimension: int, kind: str, seed: int | None = None, **options: Any) -> torch.Tensor:
    """Prototypes [C, d], float32 unit rows on the CPU; options as in kinds.Options, of which the kind may ignore some.

    Raises UserError for an unknown kind, sizes the kind cannot do, alone or with these options, an option out of range,
    or a kind that reads a seed without one; TypeError for an option that no kind has.
    """
    read = _options_read(num_classes, dimension, kind, seed, options)
    module, function = KINDS[kind].builder.split(":")
    builder = getattr(importlib.import_module(f"dl2pa.prototypes.{module}"), function)
    # One BLAS thread: the result then depends on no thread count, and waiting OpenBLAS threads made the optimised kinds
    # 30 times slower on a busy machine (C = 200: 30 s instead of 1 s).
    with threadpool_limits(limits=1, user_api="blas"):
        points = torch.as_tensor(builder(num_classes, dimension, **read))
    return points.float().contiguous()


def cached(
    cache_dir: Path,
    num_classes: int,
    dimension: int,
    kind: str,
    seed: int | None = None,
    keep: bool = True,
    **options: Any,
) -> torch.Tensor:
    """The same prototypes, built once and then read from cache_dir (made if absent), also by processes in parallel.

    A cached file that is damaged is built anew, with a warning: its name says all that is in it, so nothing is lost.
    A kind that is not worth keeping is built each time, as all are where they are not there and cache_dir cannot be
    written, which is a warning, or without ``keep``, which writes nothing.
    """
    _options_read(num_classes, dimension, kind, seed, options)  # raises before anything is written
    if not KINDS[kind].cached:
        return build(num_classes, dimension, kind, seed, **options)
    path = cache_path(cache_dir, num_classes, dimension, kind, seed, **options)
    points = None
    try:
        if path.is_file() and (found := _read(path, num_classes, dimension)) is not None:
            return found
        if keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(path.name + ".lock")):
                if path.is_file():  # somebody else may have built it while this process waited
                    if (found := _read(path, num_classes, dimension)) is not None:
                        return found
                    log.warning("%s is damaged and is built anew", path)
                points = build(num_classes, dimension, kind, seed, **options)
                write(path, points)
    except OSError as error:
        if keep:
            why = error.strerror or error
            log.warning("prototypes cannot be kept in %s (%s): every run builds its own", cache_dir, why)
    return build(num_classes, dimension, kind, seed, **options) if points is None else points


def cache_path(
    cache_dir: Path, num_classes: int, dimension: int, kind: str, seed: int | None = None, **options: Any
) -> Path:
    """Where `cached` keeps these prototypes: a name made of the kind, C, d and the options that the kind reads.

    An option without a value is left out, and of a file its content counts.
    """
    version = KINDS[kind].version
    words = [kind if version == 1 else f"{kind}-v{version}", f"c{num_classes}", f"d{dimension}"]
    for name, value in _options_read(num_classes, dimension, kind, seed, options).items():
        if value is not None:
            words.append(f"{_SHORT.get(name, name)}{content_hash(value)[:12] if name == 'file' else value}")
    return Path(cache_dir) / ("-".join(words) + ".npy")


def write(path: Path, points: torch.Tensor) -> None:
    """Writes [C, d] as .npy, whole or not at all; the folder must exist and nobody else may be writing this path."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as stream:
        np.save(stream, points.numpy())
    os.replace(aside, path)


_SHORT = {"batch_size": "batch", "tolerance": "tol", "word_weight": "weight"}


def _options_read(
    num_classes: int, dimension: int, kind: str, seed: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The options that this kind reads, in its row's order, with defaults filled in and everything checked."""
    if problem := check(kind, num_classes, dimension):
        raise UserError(problem)
    complete = replace(options_of(kind), seed=seed, **options)
    read = {name: getattr(complete, name) for name in KINDS[kind].reads}
    if "seed" in read and seed is None:
        raise UserError(f"seed=null: kind={kind} draws at random and needs a seed, an integer from 0 on")
    for name, value in read.items():
        if problem := check_option(name, value):
            raise UserError(problem)
    if problem := check_fit(kind, num_classes, dimension, **options):
        raise UserError(problem)
    return read


def _read(path: Path, num_classes: int, dimension: int) -> torch.Tensor | None:
    """A cached file's [C, d], or None if it is truncated or not what its name says."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        return None
    if not isinstance(array, np.ndarray) or array.shape != (num_classes, dimension) or array.dtype != np.float32:
        return None
    if not np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-4):
        return None
    return torch.from_numpy(array)
