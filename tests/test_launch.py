"""The command line itself: instant help, the demo, and what an import costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LAUNCH, ROOT, command, launch


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_help_needs_no_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(LAUNCH), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "dataset: cifar10, cifar100" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "dl2pa.config" in imported
    assert not imported & {"torch", "torchvision", "scipy", "sklearn"}
    assert not list(tmp_path.iterdir()), "help wrote something"


@pytest.mark.parametrize("statement", ["import dl2pa", "import dl2pa.validate", "import dl2pa.folder"])
def test_import_needs_no_torch(statement: str) -> None:
    found = modules_after(statement)
    assert "dl2pa" in found
    assert not found & {"torch", "torchvision", "scipy", "sklearn"}


def test_a_runs_first_step_needs_no_library_of_its_end(tmp_path: Path) -> None:
    """What takes seconds to import and is used by evaluation, matching, figures or W&B alone.

    (Prototypes that are optimised take scipy, once: they are kept under data_root.)
    """
    words = ["device=cpu", "max_steps=1", "prototypes=random", f"runs_dir={tmp_path / 'runs'}"]
    found = modules_after(
        "from composing import compose_config\n"
        "from dl2pa.assemble import load_data, make_trainer\n"
        "import torch\n"
        f"cfg = compose_config(*{words})\n"
        "trainer = make_trainer(cfg, load_data(cfg), torch.device('cpu'), 'fp32')\n"
        "trainer.fit(lambda: None, lambda loss, last: None)\n"
        "assert trainer.position.images > 0"
    )
    assert "dl2pa.trainer" in found
    late = {"torchvision", "scipy", "sklearn", "wandb", "matplotlib", "pandas", "plotly", "submitit", "torch._dynamo"}
    assert found & late == set()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_that_compiles_nothing_needs_no_compiler(optimizer: str, tmp_path: Path) -> None:
    """torch imports torch._dynamo for optimizers and for the counting of FLOPs; that takes longer than torch itself."""
    words = ["device=cpu", "max_steps=2", f"optimizer={optimizer}", f"runs_dir={tmp_path}", f"data_root={tmp_path}"]
    found = modules_after(
        f"from composing import compose_config\nfrom dl2pa.run import run\nrun(compose_config(*{words}))"
    )
    assert "dl2pa.optimizer" in found
    assert "torch._dynamo" not in found


def test_wrong_value_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    ended = command("dimension=0", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert ended.code == 1
    assert "dimension=0 is not legal: use a number from 1 on" in ended.said
    assert "torch was imported" not in ended.said


@pytest.mark.parametrize("word", ["hydra/launcher=slurm", "hydra.launcher.slots=2"])
def test_a_launcher_is_for_sweeps(word: str, tmp_path: Path) -> None:
    """Else who means SLURM would train on the login node."""
    ended = command(word, "epochs=1", cwd=tmp_path)
    assert ended.code == 1
    assert f"{word} does nothing without -m" in ended.said
    assert not (tmp_path / "runs").exists()


def test_demo_writes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """python launch.py as a newcomer types it, but for two epochs: all it writes is below the current folder."""
    monkeypatch.delenv("DL2PA_DATA_ROOT")
    ended = command("epochs=2", cwd=tmp_path)
    assert ended.code == 0, ended.said
    (folder,) = (tmp_path / "runs" / "digits").iterdir()
    assert {path.name for path in folder.iterdir()} >= {
        *("config.yaml", "local.yaml", "metrics.jsonl", "assignments.jsonl", "last.pt", "best.pt"),
        *("log.txt", "result.json"),
    }
    result = json.loads((folder / "result.json").read_text())
    assert (result["num_train"], result["num_test"], result["epochs"]) == (1297, 500, 2)
    assert f"test accuracy {result['top1']:.2f} %" in ended.said
    assert "epoch 2/2" in ended.said
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "data"}, "something else was left behind"


def test_multirun_of_two(tmp_path: Path) -> None:
    ended = launch("-m", "seed=0,1", "epochs=1", "max_steps=1", f"runs_dir={tmp_path / 'runs'}", cwd=tmp_path).end()
    assert ended.code == 0, ended.said
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("digits/*/result.json")]
    assert sorted(result["seed"] for result in results) == [0, 1]
    assert len({result["group"] for result in results}) == 1
