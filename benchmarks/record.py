"""Run benchmarks and write what they print into docs: python benchmarks/record.py [WORD...]

A block of docs/performance.md or docs/measurements.md is named by a command, a line of shell. Those whose command has
all the WORDs in it are run, one after the other, and what each prints takes the place of what stood there before.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import blocks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("performance.md", "measurements.md")]


def main(words: Sequence[str]) -> None:
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the commands say python
    for page in PAGES:
        for command in blocks.read(page.read_text()):
            if all(word in command for word in words):
                print(command, flush=True)
                done = subprocess.run(
                    command, shell=True, cwd=ROOT, env={**os.environ, "PATH": here}, stdout=subprocess.PIPE, text=True
                )
                done.check_returncode()
                page.write_text(blocks.filled(page.read_text(), command, done.stdout))


if __name__ == "__main__":
    main(sys.argv[1:])
