"""A published data set as one file that all processes of a machine map into memory, and so have there once.

It is the quicker start, too: archives are unpacked, and their md5 sums checked, only when they are new or have changed.
"""

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from dl2pa.data.fetch import Request
from dl2pa.data.split import Split
from dl2pa.errors import one_line

log = logging.getLogger(__name__)

LAYOUT = 1  # of the file: with another number other files are made
Part = tuple[Tensor, Tensor]  # images uint8 [n, H, W, channels] and labels int64 [n]


def mapped(
    request: Request, files: Sequence[str], read: Callable[[], tuple[Sequence[Part], list[str]]]
) -> tuple[list[Split], list[str]]:
    """The parts of a data set, of images of one shape, and the names of its classes, as ``read`` gives them.

    They are in DATA_ROOT/mapped/NAME-HASH.pt, made when it is not there. The hash is of the sizes and times of the
    published ``files`` (paths below DATA_ROOT): other archives make another file, and one that others have mapped is
    never written again. Where it cannot be written each process has its own images, with a warning.
    """
    path = _path(request, files)
    content = None if path is None else _open(path)
    if content is None:
        parts, class_names = read()
        content = {
            "images": torch.cat([images for images, _ in parts]).contiguous(),
            "labels": torch.cat([labels for _, labels in parts]),
            "lengths": [len(labels) for _, labels in parts],
            "class_names": class_names,
        }
        path = _path(request, files)  # they may have been fetched just now
        assert path is not None, f"{request.name} was read without {files}"
        content = _kept(path, content)
    rows = torch.arange(len(content["labels"])).split(content["lengths"])
    return [Split(content["images"], content["labels"][at], at) for at in rows], content["class_names"]


def _path(request: Request, files: Sequence[str]) -> Path | None:
    """None where a file is missing."""
    try:
        states = [(request.root / name).stat() for name in files]
    except OSError:
        return None
    numbers = [LAYOUT, *(number for state in states for number in (state.st_size, state.st_mtime_ns))]
    return request.root / "mapped" / f"{request.name}-{hashlib.sha256(repr(numbers).encode()).hexdigest()[:12]}.pt"


def _open(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        log.warning("%s cannot be read (%s)", path, one_line(error))
        return None
    return content


def _kept(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Writes ``content``, for what is mapped; one process at a time, and the others take what the first has written."""
    aside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if (found := _open(path)) is not None:
                return found
            try:
                torch.save(content, aside)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
    # RuntimeError: what torch says of a full disk, and filelock 3 (NotImplementedError) where there are no locks.
    except (OSError, RuntimeError) as error:
        size = content["images"].numel() / 2**20
        log.warning("%s cannot be written (%s): each process takes %.0f MiB for itself", path, one_line(error), size)
        return content
    return _open(path) or content
