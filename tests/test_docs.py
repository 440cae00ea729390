"""What README and docs say works."""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from composing import compose_config

from dl2pa.identity import run_name
from dl2pa.sweep import grid, plan
from dl2pa.validate import validate

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"(?:Append to|append to|Create) `([^`]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    return [line for block in COMMANDS.findall((ROOT / page).read_text()) for line in block.splitlines() if line]


def launches(page: str) -> list[list[str]]:
    """The words behind launch.py of each line; of a sweep, its first job's."""
    lines = [line.split("launch.py", 1)[1].split() for line in commands(page) if "launch.py" in line]
    return [[word.split(",")[0] for word in words if word != "-m"] for words in lines]


@pytest.mark.parametrize("words", launches("README.md"), ids=" ".join)
def test_readme_launches_compose(words: list[str]) -> None:
    cfg = compose_config(*words)
    validate(cfg)
    assert run_name(cfg)


def test_readme_lists_every_choice() -> None:
    readme = (ROOT / "README.md").read_text()
    for group in ("dataset", "method", "assignment", "loss", "backbone", "optimizer", "schedule", "compat", "logger"):
        for option in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"\b{option.stem}\b", readme), f"{group}={option.stem}"


@pytest.mark.parametrize("line", [line for line in commands("README.md") if "dl2pa plan" in line])
def test_readme_plans(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no runs of a user's own
    plan.main(line.split()[4:])
    assert re.match(r"sweep=\w+: \d+ runs in \d+ cells, 0 finished", capsys.readouterr().out)


def test_readme_lists_every_sweep_with_its_runs() -> None:
    rows = re.findall(r"^\| (`[a-z].*?) \| .* \| ([\d, ]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = {
        name: int(runs)
        for names, counts in rows
        for name, runs in zip(re.findall(r"`(\w+)`", names), counts.split(", "), strict=True)
    }
    assert listed == {name: len(grid.expand(grid.read(name))) for name in grid.names()}


@pytest.mark.slow
def test_steps_of_extend(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    for part in ("conf", "dl2pa", "sweeps"):
        shutil.copytree(ROOT / part, copy / part)
    shutil.copy(ROOT / "launch.py", copy)
    steps = STEP.findall((ROOT / "docs" / "extend.md").read_text())
    assert len(steps) == 6
    for name, text in steps:
        with open(copy / name, "a") as file:
            file.write(("\n\n" if name.endswith(".py") else "") + text)
    write_fashion_mnist(tmp_path / "data")
    lines = commands("docs/extend.md")
    assert len(lines) == 3
    for number, line in enumerate(lines):
        words = [sys.executable, *line.split()[1:], "max_steps=2"]
        folders = [f"data_root={tmp_path / 'data'}", f"runs_dir={tmp_path / f'runs{number}'}"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        subprocess.run([*words, *folders], check=True, cwd=copy, env=environment, timeout=300)
        assert list((tmp_path / f"runs{number}").glob("*/*/result.json"))


def write_fashion_mnist(root: Path) -> None:
    """A few made-up images in the published format."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">II", 2049, count) + labels.tobytes(),
        }
        for name, content in files.items():
            (raw / name).write_bytes(content)
            with gzip.open(raw / f"{name}.gz", "wb") as packed:
                packed.write(content)
