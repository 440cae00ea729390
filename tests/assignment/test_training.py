"""Every kind of assignment trains the real digits; a run inside its learned warm-up can be kept, read and used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import compose_config
from processes import with_few_digits

from dl2pa.predict import load
from dl2pa.run import run


def trained(root: Path, *words: str) -> tuple[dict[str, Any], Path]:
    fixed = [f"runs_dir={root / 'runs'}", "device=cpu", "runtime.threads=1"]
    result = run(compose_config(*words, *fixed))
    (folder,) = (root / "runs").glob("*/*")
    return result, folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["assignment=hungarian", "assignment.rotate=true"],  # 93.2 %
        ["assignment=learned_warmup", "loss=cross_entropy"],  # 96.6 %
        ["assignment=learned_warmup", "loss=cross_entropy", "assignment.rotate=true"],  # 95.6 %
        ["assignment=quadratic"],  # 84.6 %
        ["assignment=quadratic", "assignment.similarity=confusion"],  # 87.0 %
        ["assignment=sinkhorn"],  # 88.6 %
        ["assignment=sinkhorn", "loss=cross_entropy"],  # 95.4 %
    ],
    ids=" ".join,
)
def test_digits_are_learned_in_eight_epochs(tmp_path: Path, words: list[str]) -> None:
    # At a rate high enough for the first epoch not to settle everything, as the digits' own recipe does.
    rate = ["optimizer=sgd_balanced", "schedule=step", "recipe.reduction=sum"]
    result, _ = trained(tmp_path, *words, *rate, "epochs=8")
    assert result["top1"] > 80
    assert sum(result["moved"]) > 0


def test_a_run_that_ends_inside_its_warm_up_says_so_and_predicts(tmp_path: Path) -> None:
    words = [
        "assignment=learned_warmup",
        "loss=cross_entropy",
        "epochs=8",
        "batch_size=40",
        "max_steps=3",
        "precision=fp32",
    ]
    with with_few_digits():
        result, folder = trained(tmp_path, *words)
    assert result["moved"] == [0]
    assert (folder / "assignments.jsonl").read_text() == ""  # no class owned a prototype in this epoch
    state = torch.load(folder / "last.pt", weights_only=True)["model"]
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 1, 8, 8))).float()
    module = load(folder).module
    embedding = module.classifier.neck(module.classifier.backbone(images))
    learned = torch.nn.functional.normalize(state["head.assigner.vectors"], dim=1)
    expected = torch.nn.functional.normalize(embedding, dim=1) @ learned.T
    torch.testing.assert_close(module(images), expected)


def test_the_assignment_is_written_from_the_first_epoch_that_trains_with_it(tmp_path: Path) -> None:
    words = ["assignment=learned_warmup", "loss=cross_entropy", "epochs=4", "batch_size=40", "assignment.rotate=true"]
    with with_few_digits():
        result, folder = trained(tmp_path, *words)
    lines = [json.loads(line) for line in (folder / "assignments.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [2, 3, 4]
    assert len({tuple(line["assignment"]) for line in lines}) == 1
    assert result["moved"] == [10, 0, 0, 0]
    assert load(folder).module(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
