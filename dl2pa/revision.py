"""Which code runs."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

# Where there is nothing that runs: tables and pages that are written there from what is measured are no change of it.
NO_CODE = ("docs", "results", "README.md")


@cache
def revision() -> str | None:
    """Git revision of the code that runs, None outside a repository.

    Where the work tree's code differs from it, ``+`` and a digest of the changes follow; of files that git does not
    track it knows nothing.
    """
    here = Path(__file__).parents[1]
    code = ["--", ".", *(f":(exclude){name}" for name in NO_CODE)]
    try:
        head, changes = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["diff", "--binary", "--no-ext-diff", "HEAD", *code])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.decode().strip() + (f"+{hashlib.sha256(changes).hexdigest()[:6]}" if changes else "")
