"""A published data set as one file that all processes of a machine map into memory, and so have there once.

It is the quicker start, too: archives are unpacked, and their md5 sums checked, only when they are new or have changed.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dl2pa.data.fetch import Request
from dl2pa.data.split import Split

log = logging.getLogger(__name__)

LAYOUT = 1  # of the file: with another number older files are made anew
Part = tuple[Tensor, Tensor]  # images uint8 [n, H, W, channels] and labels int64 [n]


def mapped(
    request: Request, files: Sequence[str], read: Callable[[], tuple[Sequence[Part], list[str]]]
) -> tuple[list[Split], list[str]]:
    """The parts of a data set, of images of one shape, and the names of its classes, as ``read`` gives them.

    They are in DATA_ROOT/mapped/NAME.pt, which is made where it is not of the published ``files`` (paths below
    DATA_ROOT) as they are now, by their sizes and times. Where nothing can be written each process has its own.
    """
    path = request.root / "mapped" / f"{request.name}.pt"
    if (content := _open(path, _stamp(request.root, files))) is None:
        parts, class_names = read()
        content = {
            "stamp": _stamp(request.root, files),  # they may have been fetched just now
            "images": torch.cat([images for images, _ in parts]).contiguous(),
            "labels": torch.cat([labels for _, labels in parts]),
            "lengths": [len(labels) for _, labels in parts],
            "class_names": class_names,
        }
        content = _exchanged(path, content)
    rows = torch.arange(len(content["labels"])).split(content["lengths"])
    return [Split(content["images"], content["labels"][at], at) for at in rows], content["class_names"]


def _stamp(root: Path, files: Sequence[str]) -> list[int]:
    """What tells these files from others that have lain here; empty if one is missing."""
    try:
        states = [(root / name).stat() for name in files]
    except OSError:
        return []
    return [LAYOUT, *(number for state in states for number in (state.st_size, state.st_mtime_ns))]


def _open(path: Path, stamp: list[int]) -> dict[str, Any] | None:
    if not stamp or not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        log.info("%s cannot be read and is made anew (%s)", path, str(error).splitlines()[0])
        return None
    return content if content["stamp"] == stamp else None


def _exchanged(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Writes ``content``, for what is mapped."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # another process may be making the same
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            aside.unlink()
        log.info("%s cannot be written: each process has its own images (%s)", path, str(error).splitlines()[0])
        return content
    return _open(path, content["stamp"]) or content
