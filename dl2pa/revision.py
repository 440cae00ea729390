"""Which code runs."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path


@cache
def revision() -> str | None:
    """Git revision of the code that runs, None outside a repository.

    Where the work tree differs from it, ``+`` and a digest of the changes follow; of files that git does not track it
    knows nothing.
    """
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["diff", "--binary", "--no-ext-diff", "HEAD"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.decode().strip() + (f"+{hashlib.sha256(changes).hexdigest()[:6]}" if changes else "")
