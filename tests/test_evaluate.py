"""Evaluation as a run does it."""

from pathlib import Path

import pytest
import torch
from composing import compose_config

from dl2pa.data import datasets
from dl2pa.data.augment import Normalise
from dl2pa.evaluate import Evaluation
from dl2pa.folder import RunFolder
from dl2pa.metrics import Reliability
from dl2pa.predict import load
from dl2pa.run import run


def test_calibration_is_of_the_assignment_that_was_trained_with(tmp_path: Path) -> None:
    """A run cut short by max_steps, whose classes still move after its last evaluation."""
    cfg = compose_config(
        "max_steps=2",
        "holdout=0.1",
        "loss=cross_entropy",
        "loss.temperature=0.2",
        f"runs_dir={tmp_path}",
        f"data_root={tmp_path}",
        "precision=fp32",
    )
    result = run(cfg)
    assert result["moved"][-1] > 0
    assert result["temperature"] is not None
    data = datasets.load("digits", num_classes=10, imbalance=None, holdout=0.0, data_root=tmp_path, download=False)
    assert isinstance(data.test.images, torch.Tensor)
    images = Normalise(cfg.dataset.mean, cfg.dataset.std, torch.device("cpu"))(data.test.images)
    model = load(RunFolder.of(cfg).path)
    with torch.inference_mode():
        scores = model.module(images)
    for name, temperature in (("ece_as_trained", 0.2), ("ece", result["temperature"])):
        reliability = Reliability(temperature)
        reliability.update(scores, data.test.labels)
        assert result[name] == pytest.approx(reliability.ece(), abs=1e-4)


def test_a_run_too_short_to_match_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose_config("epochs=2", "max_steps=1", f"runs_dir={tmp_path}", f"data_root={tmp_path}"))
    assert "note: no class will change its prototype" in capsys.readouterr().out
    run(compose_config("epochs=30", "max_steps=1", f"runs_dir={tmp_path}", f"data_root={tmp_path}"))
    assert "note:" not in capsys.readouterr().out


def test_accuracy_by_class_means_and_by_superclass_beside_that_of_the_head() -> None:
    """Features of two classes whose head calls everything class 0, and whose means tell most of them apart."""

    class Stuck(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    features = torch.tensor([[1.0, 0.1], [1.0, -0.2], [0.3, 1.0], [1.0, 0.9]])
    labels, groups = torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7])
    evaluation = Evaluation(
        lambda: iter([(features, labels)]), None, None, [1, 1], groups, 1.0, torch.device("cpu"), between=lambda: None
    )
    found = evaluation(Stuck(), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    assert (found["top1"], found["means_top1"], found["super_top1"]) == (50, 75, 100)
