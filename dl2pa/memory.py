"""How much memory this process may still take, without loading torch."""

import contextlib
from pathlib import Path

import psutil

# Of each version of Linux's control groups: how a line of /proc/self/cgroup names it, the folder below /sys/fs/cgroup,
# and the files of the limit and of what is taken.
_GROUPS = (
    ("", ".", "memory.max", "memory.current"),
    ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available(system: Path = Path("/")) -> int:
    """Bytes: what the machine has left, or what a job's or container's limit leaves of it if that is less.

    Args:
        system: below which /proc and /sys lie.
    """
    left = psutil.virtual_memory().available
    with contextlib.suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            for name, folder, limit, taken in _GROUPS:
                if name in controllers.split(","):
                    top = system / "sys/fs/cgroup" / folder
                    group = top / own.lstrip("/")
                    for each in (group, *group.parents):
                        left = min(left, _left(each, limit, taken, left))
                        if each == top:
                            break
    return left


def _left(group: Path, limit: str, taken: str, otherwise: int) -> int:
    """What a group's limit leaves; pages of files that nobody needs now count as left."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or no limit
        most = int((group / limit).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        unused = stat.get("total_inactive_file", stat.get("inactive_file", 0))  # version 1 counts without those below
        return max(0, most - int((group / taken).read_text()) + int(unused))
    return otherwise
