"""What README and docs say works."""

import ast
import gzip
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import blocks
import numpy as np
import pytest
from composing import compose_config
from data_files import own_checksums, write_cifar10, write_cifar100

from dl2pa.folder import RunFolder
from dl2pa.identity import run_name
from dl2pa.run import run
from dl2pa.sweep import grid, plan
from dl2pa.sweep.compose import composing
from dl2pa.validate import validate

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"(?:Append to|append to|Create) `([^`]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of a page's bash blocks."""
    return [line for block in COMMANDS.findall((ROOT / page).read_text()) for line in block.splitlines() if line]


def launches(page: str) -> list[list[str]]:
    """The words behind launch.py of each line; of a sweep, its first job's."""
    lines = [shlex.split(line.split("launch.py", 1)[1]) for line in commands(page) if "launch.py" in line]
    ours = [[word for word in words if not word.startswith("hydra")] for words in lines]
    with composing():
        return [
            grid.expand(grid.Sweep(), words[1:])[0] if words[:1] == ["-m"] else words
            for words in ours
            if not any(word.startswith("sweep=") for word in words)
        ]


def verbs(page: str) -> list[list[str]]:
    """The words behind python -m dl2pa of each line."""
    return [line.split()[3:] for line in commands(page) if line.startswith("python -m dl2pa ")]


PAGES = ("README.md", "docs/measurements.md", "docs/performance.md")


@pytest.mark.parametrize("words", [words for page in PAGES for words in launches(page)], ids=" ".join)
def test_launches_compose(words: list[str]) -> None:
    cfg = compose_config(*words)
    validate(cfg)
    assert run_name(cfg)


def test_the_figure_of_the_readme(tmp_path: Path) -> None:
    cfg = compose_config("dimension=2", "epochs=2", f"runs_dir={tmp_path / 'runs'}")
    run(cfg)
    words = [str(ROOT / "docs" / "figure.py"), str(RunFolder.of(cfg).path), str(tmp_path / "figure.png")]
    subprocess.run([sys.executable, *words], check=True, timeout=120)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Few images in the published formats, and as many as the smallest imbalance needs."""
    root = tmp_path_factory.mktemp("data")
    write_cifar10(root, per_class=200, per_class_test=1)
    write_cifar100(root, per_class=100, per_class_test=1)
    with pytest.MonkeyPatch.context() as patch:
        own_checksums(patch, root)
        yield root


# Image files are trained on with their data sets (test_presets), W&B is with its logger (test_tracking), and several
# processes with theirs (test_ranks).
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [words for words in launches("README.md") if not re.search("imagenet|wandb|ddp", " ".join(words))],
    ids=" ".join,
)
def test_readme_launches_train(words: list[str], cifar: Path, tmp_path: Path) -> None:
    """Two steps of each; of several jobs the first's."""
    fixed = [f"data_root={cifar}", f"runs_dir={tmp_path}", "max_steps=2", "runtime.threads=1", "device=cpu"]
    run(compose_config(*words, *fixed))
    assert len(list(tmp_path.glob("*/*/result.json"))) == 1


def benchmarks() -> list[str]:
    pages = [(ROOT / page).read_text() for page in (*PAGES, "results/README.md")]
    return sorted(
        {line for page in pages for line in re.findall(r"python (benchmarks/[^`\n#]+?)(?: -->|[`\n#])", page)}
    )


@pytest.mark.parametrize("line", benchmarks())
def test_benchmarks_are_called_as_they_say(line: str) -> None:
    """They take too long to be run: each is there, and its own description knows every key."""
    script, *words = line.split()
    text = (ROOT / script).read_text()
    compile(text, script, "exec")
    known = ast.get_docstring(ast.parse(text)) or ""
    for key in (word.split("=")[0] for word in words if "=" in word):
        assert f"{key}=" in known or "KEY=VALUE" in known, f"{script} does not speak of {key}"


@pytest.mark.parametrize("page", ["performance.md", "measurements.md"])
def test_tables_were_written_by_the_commands_that_name_them(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    found = blocks.read(text)
    assert len(found) == text.count("<!-- end -->") > 2
    for command, body in found.items():
        assert body.startswith(f"`{command}`, 20"), command
        assert "\n|---|" in body


def test_readme_lists_every_choice() -> None:
    readme = (ROOT / "README.md").read_text()
    for group in ("dataset", "method", "assignment", "loss", "backbone", "optimizer", "schedule", "compat", "logger"):
        for option in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"\b{option.stem}\b", readme), f"{group}={option.stem}"


def sweeps(page: str) -> list[list[str]]:
    """The words of each sweep that is planned or launched."""
    launched = [line.split("launch.py -m ", 1)[1].split() for line in commands(page) if "launch.py -m sweep=" in line]
    return [words[1:] for words in verbs(page) if words[0] == "plan"] + launched


@pytest.mark.parametrize("words", sweeps("README.md"), ids=" ".join)
def test_readme_plans(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no runs of a user's own
    plan.main(words)
    assert re.match(r"sweep=\w+: \d+ runs in \d+ cells, 0 finished", capsys.readouterr().out)


@pytest.mark.slow
def test_readme_verbs_work(tmp_path: Path) -> None:
    """Each line as it stands, on four runs of which two have failed, under the name of a sweep."""

    def shell(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, "WANDB_MODE": "offline"},
        )  # fmt: skip

    launched = shell(
        str(ROOT / "launch.py"), "-m", "sweep=k8", "dataset=digits", "seed=0,1", "epochs=2", "dimension=4",
        "assignment.every=1", "optimizer.lr=.1,1e9", "runtime.threads=1",
    )  # fmt: skip
    assert "2 of 4 runs did not finish" in launched.stderr
    run = next(path.parent for path in (tmp_path / "runs").glob("*/*/result.json"))
    done = set()
    for words in verbs("README.md"):
        if words[0] in ("plan", "predict", "prototypes", "workspace"):
            continue  # tested elsewhere
        words = [str(run) if word in ("RUN", "RUN...") else word for word in words]
        ended = shell(
            "-m",
            "dl2pa",
            *(["baseline=dl2pa optimizer.lr=0.1" if word.startswith("baseline=") else word for word in words]),
        )
        expected = 1 if words[0] in ("watch", "retry") else 0  # what failed has not finished, and fails again
        assert ended.returncode == expected, (words, ended.stdout, ended.stderr)
        done.add(words[0])
    assert done == {"status", "watch", "logs", "retry", "cancel", "report", "sync"}
    assert (tmp_path / "report" / "index.html").stat().st_size > 1_000_000


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
