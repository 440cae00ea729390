"""The table of kinds: what is legal, what is not, and that asking does not load torch."""

import subprocess
import sys

import pytest
from composing import CONF
from omegaconf import OmegaConf

from dl2pa.prototypes.kinds import KINDS, check, check_option, options_of


def test_validation_loads_nothing_heavy() -> None:
    code = "import sys, dl2pa.prototypes.kinds; print([m for m in ('numpy', 'torch', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "num_classes", "smallest_dimension"),
    [
        ("simplex", 100, 99),
        ("orthoplex", 100, 50),
        ("orthoplex", 101, 51),
        ("etf", 100, 100),
        ("exact", 100, 2),
        ("exact", 2, 1),
        ("uniform", 100, 2),
        ("uniform_readme", 100, 2),
        ("random", 100, 2),
        ("file", 100, 1),
        ("separation", 100, 2),
        ("softmax_separation", 100, 2),
        ("equiangular", 100, 2),
        ("semantic", 100, 2),
    ],
)
def test_smallest_dimension(kind: str, num_classes: int, smallest_dimension: int) -> None:
    assert check(kind, num_classes, smallest_dimension) is None
    problem = check(kind, num_classes, smallest_dimension - 1)
    assert problem is not None
    assert f"dimension={smallest_dimension - 1}" in problem


def test_a_reason_names_the_legal_dimension() -> None:
    assert "dimension >= 99" in str(check("simplex", 100, 50))
    assert "dimension >= 50" in str(check("orthoplex", 100, 49))
    assert "dimension >= 100" in str(check("etf", 100, 99))
    assert "num_classes=1" in str(check("random", 1, 5))
    assert all(name in str(check("unifrom", 10, 5)) for name in KINDS)


def test_only_the_fixed_matrices_read_no_seed() -> None:
    assert {name for name, kind in KINDS.items() if "seed" not in kind.reads} == {"simplex", "file"}


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("steps", 0, 1),
        ("batch_size", 1, 2),
        ("lr", 0.0, 0.1),
        ("tolerance", float("nan"), 1e-9),
        ("seed", -1, 0),
        ("tau", 1.5, 0.5),
        ("tau", "low", "auto"),
        ("word_weight", 0.0, 0.5),
        ("reduce", "tsne", "mds"),
    ],
)
def test_option_ranges(name: str, bad: float | str, good: float | str) -> None:
    assert f"{name}={bad}" in str(check_option(name, bad))
    assert check_option(name, good) is None


def test_nothing_given_is_never_out_of_range() -> None:
    for name in ("steps", "batch_size", "lr", "tolerance", "seed", "word_weight"):
        assert check_option(name, None) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_kinds_preset_says_its_defaults(kind: str) -> None:
    """The command line of `prototypes` and that of a run give the same prototypes."""
    preset = OmegaConf.load(CONF / "prototypes" / f"{kind}.yaml")
    said = {key: preset[key] for key in preset if key not in ("kind", "words")}
    assert said == KINDS[kind].defaults
    assert {name: getattr(options_of(kind), name) for name in said} == said
