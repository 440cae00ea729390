"""Prototypes that somebody else made, read from .npy, .npz, .safetensors, .pth or .pt."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dl2pa.errors import UserError

_REFERENCE_KEY = "w"  # under which the DL2PA code's .pth files hold their prototypes, as d x C columns


def load(num_classes: int, dimension: int, *, file: str | None, key: str | None) -> torch.Tensor:
    """The prototypes stored in `file`, as [C, d] float64 unit rows.

    Stored as [C, d] or [d, C]: the expected shape decides. A square matrix shows neither: under key w of a .pth or .pt
    file it is d x C (the DL2PA code's convention, columns not normalised), anywhere else C x d. `key` names the array
    in an archive; without it .pth and .pt are read at w, the others must hold a single array.

    Raises UserError for a file that is absent, unreadable, of another kind or shape, or has a zero or infinite vector.
    """
    if file is None:
        raise UserError("file=null: kind=file needs file=PATH, a .npy, .npz, .safetensors, .pth or .pt file")
    points, used_key = read_matrix(file, key)
    by_column = Path(file).suffix.lower() in (".pth", ".pt") and used_key == _REFERENCE_KEY
    if tuple(points.shape) == (num_classes, dimension) and not (num_classes == dimension and by_column):
        rows = points
    elif tuple(points.shape) == (dimension, num_classes):
        rows = points.T
    else:
        raise UserError(
            f"file={file}: holds a {' x '.join(map(str, points.shape))} matrix; num_classes={num_classes} and "
            f"dimension={dimension} need {num_classes} x {dimension} or {dimension} x {num_classes}"
        )
    if not bool(torch.isfinite(rows).all()):
        raise UserError(f"file={file}: has NaN or infinite entries; every entry must be finite")
    lengths = rows.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise UserError(f"file={file}: prototype {int((lengths == 0).int().argmax())} is zero and has no direction")
    unit: torch.Tensor = rows / lengths
    return unit


def read_matrix(file: str, key: str | None) -> tuple[torch.Tensor, str | None]:
    """The matrix stored in `file`, float64, and the key it was found at; raises UserError if there is none."""
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UserError(f"file={file}: unknown ending '{path.suffix}'; known are {', '.join(_READERS)}")
    if not path.is_file():
        raise UserError(f"file={file}: no such file")
    try:
        array, used_key = _READERS[suffix](path, key)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"file={file}: cannot be read as {suffix}: {reason}") from error
    return _as_matrix(array, file), used_key


def content_hash(file: str | Path) -> str:
    """SHA-256 of the file's bytes, in hex: what a run with kind=file is identified by (its path may change)."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"file={file}: no such file")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _as_matrix(array: Any, file: str) -> torch.Tensor:
    if isinstance(array, np.ndarray) and array.dtype.kind in "fiu":
        array = torch.from_numpy(array.astype(np.float64))
    if not isinstance(array, torch.Tensor) or array.is_complex() or array.dtype == torch.bool:
        raise UserError(f"file={file}: holds no array of real numbers")
    if array.ndim != 2:
        raise UserError(f"file={file}: holds an array of {array.ndim} axes; prototypes have 2")
    return array.detach().double()


def _pick(names: list[str], key: str | None, path: Path) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        raise UserError(f"key={key}: {path} needs a key it holds: {', '.join(names) or '(it is empty)'}")
    return key


def _no_key(key: str | None, path: Path, what: str) -> None:
    if key is not None:
        raise UserError(f"key={key}: {path} is {what} and has no keys; leave key out")


def _read_npy(path: Path, key: str | None) -> tuple[Any, str | None]:
    _no_key(key, path, "a single array")
    return np.load(path, allow_pickle=False), None


def _read_npz(path: Path, key: str | None) -> tuple[Any, str | None]:
    with np.load(path, allow_pickle=False) as archive:
        name = _pick(list(archive.files), key, path)
        return archive[name], name


def _read_safetensors(path: Path, key: str | None) -> tuple[Any, str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as archive:
            name = _pick(list(archive.keys()), key, path)
            return archive.get_tensor(name), name
    except SafetensorError as error:  # translated here: only this reader has safetensors imported
        raise ValueError(str(error)) from error


def _read_torch(path: Path, key: str | None) -> tuple[Any, str | None]:
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict):
        _no_key(key, path, "a single tensor")
        return stored, None
    name = _pick(list(map(str, stored)), _REFERENCE_KEY if key is None else key, path)
    return stored[name], name


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile)
