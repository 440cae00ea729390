"""What an optimizer is made of beyond its name and its rate."""

from pathlib import Path

import pytest
import torch
from composing import compose_config
from processes import with_few_digits

from dl2pa.folder import RunFolder
from dl2pa.model import build_model
from dl2pa.optimizer import make_optimizer
from dl2pa.run import run

DIGITS = ["batch_size=40", "epochs=1", "precision=fp32", "device=cpu", "optimizer.weight_decay=0"]


@pytest.mark.parametrize("backbone", ["swin_t", "resnet32"])
def test_decay_of_the_weights_alone(backbone: str) -> None:
    cfg = compose_config("dataset=cifar10", f"backbone={backbone}", "optimizer=adamw_swin", "method=psc")
    model = build_model(cfg, None, torch.float32)
    decayed, free = make_optimizer(cfg, model).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    kinds = {names[id(p)].rpartition(".")[2] for p in decayed["params"]}
    assert kinds == {"weight"}
    assert all(p.ndim > 1 for p in decayed["params"])
    # Norms and biases, and Swin's tables of relative position biases.
    assert {p.ndim for p in free["params"]} == ({1, 2} if backbone == "swin_t" else {1})


def test_by_default_everything_decays() -> None:
    cfg = compose_config("method=psc")
    model = build_model(cfg, None, torch.float32)
    (group,) = make_optimizer(cfg, model).param_groups
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("clip", "moves"), [("null", True), ("1e6", True), ("1e-9", False)])
def test_clipped_steps_are_no_longer_than_rate_times_norm(tmp_path: Path, clip: str, moves: bool) -> None:
    cfg = compose_config(
        *DIGITS, "method=psc", "optimizer=sgd", "optimizer.momentum=0", f"optimizer.clip={clip}", f"runs_dir={tmp_path}"
    )
    with with_few_digits():
        run(cfg)
    state = RunFolder.of(cfg).load("last")
    assert state is not None
    start = build_model(cfg, None, torch.float32).named_parameters()
    moved = torch.cat([(state["model"][name] - first).flatten() for name, first in start]).norm()
    steps = 3 * cfg.optimizer.lr
    assert (moved > 1e-3 * steps) if moves else (moved <= steps * 1e-9 + 1e-7)  # and the rounding of float32
