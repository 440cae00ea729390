"""The published files, whole: subset sizes are exact, and the user's command line works as typed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import compose_config
from omegaconf import DictConfig
from processes import command

from dl2pa import run as run_module
from dl2pa.data.datasets import Data
from dl2pa.evaluate import Evaluation
from dl2pa.run import run


@pytest.mark.parametrize(("dataset", "num_train"), [("cifar10_lt", 12406), ("cifar100_lt", 10847)])
def test_long_tail_trains(
    real_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, num_train: int
) -> None:
    judge_all = run_module.make_evaluation

    def judge_some(cfg: DictConfig, data: Data, *more: Any) -> Evaluation:
        """Of the 10,000 test images a ResNet-32 sees 500 here: all of them take a minute."""
        return judge_all(cfg, replace(data, test=data.test.subset(np.arange(500))), *more)

    monkeypatch.setattr(run_module, "make_evaluation", judge_some)
    words = [f"dataset={dataset}", "imbalance=0.01", "max_steps=3", f"data_root={real_cifar}", f"runs_dir={tmp_path}"]
    result = run(compose_config(*words))
    assert (result["num_train"], result["num_test"]) == (num_train, 10000)
    assert 0 < result["top1"] < 50  # three steps


@pytest.mark.slow  # three processes, each of which judges 10,000 images: a ResNet-32 would take them minutes
def test_sweep_over_imbalance_as_typed(real_cifar: Path, tmp_path: Path) -> None:
    words = ["-m", "dataset=cifar10_lt", "imbalance=0.005,0.01,0.02", f"data_root={real_cifar}"]
    words += ["backbone=whitened", "backbone.width=16", "backbone.neck=linear"]
    ended = command(*words, "max_steps=1", f"runs_dir={tmp_path / 'runs'}", cwd=tmp_path)
    assert ended.code == 0, ended.said
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("cifar10_lt/*/result.json")]
    found = {result["imbalance"]: result["num_train"] for result in results}
    assert found == {0.005: 11203, 0.01: 12406, 0.02: 13996}
