"""Which code runs."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def revision() -> str | None:
    """Git revision of the code that runs, with ``+`` where the work tree differs from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")
