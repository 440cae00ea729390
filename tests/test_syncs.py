"""Inside an epoch the host never waits for the device, but where a method matches or clusters there."""

from collections import Counter

import pytest
import torch
from composing import CONF, compose_config
from golden_losses import CASES
from syncs import counted

from dl2pa.assemble import load_data, make_trainer
from dl2pa.trainer import Trainer

# After every step: tsc's matching.
MATCHES = {name for name, words in CASES.items() if "method=tsc" in words or "assignment.every=step" in words}
LONG_TAIL = {
    f"{name} long-tailed": ["dataset=digits_lt", "augment.mixup=1.0", f"method={name}"]
    for name in (path.stem for path in (CONF / "method").glob("*.yaml"))
}


def trainer_for(*words: str, device: str = "cpu") -> Trainer:
    cfg = compose_config(*words, "precision=fp32", "batch_size=128", "epochs=4")
    return make_trainer(cfg, load_data(cfg), torch.device(device), "fp32")


def by_step(trainer: Trainer) -> list[Counter[str]]:
    """What was counted in each step of two epochs, what the loader does for the next one included."""
    found: list[Counter[str]] = []
    trainer.max_steps = 2 * trainer.loader.steps

    def end_epoch(loss: float, last: bool) -> None:
        trainer.model.head.end_epoch(trainer.position.epoch)
        count.clear()
        found.append(Counter())  # the next epoch's order is brought to the device

    with counted() as count:

        def on_step() -> None:
            if trainer.position.step > 1:
                found.append(count.copy())
            count.clear()

        trainer.fit(on_step, end_epoch)
    return found


def test_what_is_counted() -> None:
    x = torch.arange(4.0)
    for read in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 1], lambda: x.cpu(), lambda: x.tolist()):
        with counted() as found:
            read()
        assert found, read
    with counted() as found:
        torch.where(x > 1, x, 0)[torch.tensor([1, 2])].to(torch.float64)
    assert not found


@pytest.mark.parametrize("name", [*CASES, *LONG_TAIL])
def test_no_step_waits(name: str) -> None:
    trainer = trainer_for(*(CASES | LONG_TAIL)[name])
    steps = by_step(trainer)
    assert len(steps) >= 2 * (trainer.loader.steps - 1)
    waited = [bool(step) for step in steps]
    if name in MATCHES or name == "tsc long-tailed":
        assert sum(waited) >= trainer.loader.steps - 1
    else:
        assert not any(waited), sum(steps, Counter())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_on_a_gpu(compiled: bool) -> None:
    trainer = trainer_for("method=dl2pa", f"runtime.compile={str(compiled).lower()}", device="cuda")
    trainer.max_steps = trainer.loader.steps

    def on_step() -> None:
        # What is compiled, and what cuDNN tries out, is done after the first steps of a kind of batch.
        if trainer.position.step == trainer.loader.steps - 3:
            torch.cuda.set_sync_debug_mode("error")

    try:
        trainer.fit(on_step, lambda loss, last: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
