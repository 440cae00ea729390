"""Every method learns the digits: a preset whose loss, head or learning rate were off would not."""

from pathlib import Path

import pytest
from composing import CONF, compose_config

from dl2pa.run import run

METHODS = {path.stem: [f"method={path.stem}"] for path in sorted((CONF / "method").glob("*.yaml"))}


@pytest.mark.parametrize("words", METHODS.values(), ids=METHODS)
def test_over_90_percent_of_digits_in_8_epochs(tmp_path: Path, words: list[str]) -> None:
    """500 test images; two seconds each on one core."""
    fixed = ["epochs=8", "eval_every=8", "precision=fp32", "runtime.threads=1"]
    result = run(compose_config(*words, *fixed, f"runs_dir={tmp_path}"))
    assert result["top1"] > 90
    assert result["flops"] > 0
