"""The table of kinds: what is legal, what is not, and that asking does not load torch."""

import subprocess
import sys

import pytest

from dl2pa.prototypes.kinds import KINDS, check, check_option


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
    [("steps", 0, 1), ("batch_size", 1, 2), ("lr", 0.0, 0.1), ("tolerance", float("nan"), 1e-9), ("seed", -1, 0)],
)
def test_option_ranges(name: str, bad: float, good: float) -> None:
    assert f"{name}={bad}" in str(check_option(name, bad))
    assert check_option(name, good) is None
    assert check_option(name, None) is None
