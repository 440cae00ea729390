"""Published archives on disk: found, fetched once, or explained."""

import logging
import shlex
import socket
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from dl2pa.errors import UserError, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")
STALLED_SECONDS = 60.0
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError)


@dataclass(frozen=True)
class Request:
    """``name``: of the published data set; ``dataset``: the option of the command line that uses it; ``root``: the
    user's data_root; ``download``: may it be fetched."""

    name: str
    dataset: str
    root: Path
    download: bool

    @property
    def command(self) -> str:
        """The command line that fetches this data set."""
        return f"python launch.py dataset={self.dataset} download=true data_root={shlex.quote(str(self.root))}"


def open_published(request: Request, files: Sequence[tuple[str, str]], construct: Callable[[bool], T]) -> T:
    """The data set that ``construct(download)`` makes of torchvision's classes, which check every file's md5 sum.

    ``files``: (path below data_root, md5 sum) of all that must be there, for the error message. Missing files are
    downloaded if the request allows it, by one process at a time: the others wait, and find them.

    Raises UserError for missing, unreadable or damaged files, a failed download, and a data_root that cannot be
    written to.
    """
    try:
        return construct(False)
    except RuntimeError as error:
        if not request.download:
            raise UserError(_explain(request, files)) from error
    except OSError as error:
        raise UserError(f"{request.name}: cannot be read ({one_line(error)})") from error
    with _lock(request), _patience():
        log.info("%s: downloading to %s", request.name, request.root)
        try:
            return construct(True)
        except DOWNLOAD_ERRORS as error:
            raise UserError(
                f"{_explain(request, files)} on a machine with network access (tried here: {one_line(error)})"
            ) from error


def _explain(request: Request, files: Sequence[tuple[str, str]]) -> str:
    """One line on the first thing that is wrong with the files."""
    from torchvision.datasets.utils import check_md5

    if request.root.exists() and not request.root.is_dir():
        return f"data_root={request.root} is not a folder"
    missing = [name for name, _ in files if not (request.root / name).is_file()]
    if missing:
        return (
            f"{request.name}: {len(missing)} of {len(files)} files not found in {request.root} "
            f"({', '.join(missing)}); to fetch them: {request.command}"
        )
    damaged = [name for name, md5 in files if not check_md5(request.root / name, md5)]
    if not damaged:
        return f"{request.name}: the files in {request.root} were complete only after a moment; start again"
    return (
        f"{request.name}: {request.root / damaged[0]} is damaged or incomplete (its md5 sum is not the "
        f"published one); to fetch it again: {request.command}"
    )


@contextmanager
def _lock(request: Request) -> Iterator[None]:
    lock = FileLock(request.root / f".{request.name}.lock")
    try:
        request.root.mkdir(parents=True, exist_ok=True)
        log.info("%s: waiting for any other process that downloads to %s", request.name, request.root)
        lock.acquire()
    # NotImplementedError: what filelock 3 says where the file system has no locks; a later one does with less.
    except (OSError, NotImplementedError) as error:
        raise UserError(f"data_root={request.root}: cannot write there ({one_line(error)})") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _patience() -> Iterator[None]:
    """Without it a connection that stalls would hold the lock for ever: torchvision sets no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
