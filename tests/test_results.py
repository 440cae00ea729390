"""The runs that are kept: complete, small, without a trace of where they were made, and what the reports come from."""

import subprocess
from pathlib import Path

import claims
import pytest
import rates
from composing import CONF
from hydra import initialize_config_dir
from processes import ROOT
from scipy.stats import ttest_ind

from dl2pa import config
from dl2pa.folder import RunFolder
from dl2pa.report import command, figures
from dl2pa.report.collect import collect

RUNS = ROOT / "results" / "runs"
REPORT = ROOT / "results" / "report"
TABLES = ("tables.md", "tables.tex", "runs.csv", "cells.csv")
KEPT = {"config.yaml", "metrics.jsonl", "assignments.jsonl", "classes.json", "result.json"}
LARGEST = 60_000  # bytes a run
# Sweeps whose rates are chosen, those on the same data set, which have the same ones, and those of DL2PA's variants.
CHOSEN = ("fast_methods", "fast_cifar100", "fast_cifar100_lt")
FOLLOWING = {"fast_cifar10_lt": "fast_methods", "fast_dimensions": "fast_methods"}
VARIANTS = {
    "fast_assignment": ("fast_cifar100", "dl2pa"),
    "fast_first_assignment": ("fast_cifar100", "dl2pa"),
    "fast_static": ("fast_methods", "dl2pa loss=balanced_cross_entropy"),
}


def tracked(folder: Path) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: what is kept is not known")
def test_kept_runs_are_small_and_say_nothing_of_where_they_ran() -> None:
    sizes: dict[Path, int] = {}
    for path in tracked(ROOT / "results" / "runs") + tracked(rates.CHOICES):
        if path.parent in (RUNS, rates.CHOICES):
            continue
        assert path.name in KEPT, path
        sizes[path.parent] = sizes.get(path.parent, 0) + path.stat().st_size
    assert sizes
    assert max(sizes.values()) <= LARGEST, max(sizes, key=lambda folder: sizes[folder])


def test_every_kept_run_is_named_by_its_config() -> None:
    folders = RunFolder.below(RUNS)
    for folder in folders:
        assert RunFolder.of(folder.config()).path == folder.path


def test_the_tables_are_those_of_the_kept_runs(tmp_path: Path) -> None:
    command.main([str(RUNS), "--out", str(tmp_path), "figures=false"])
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (REPORT / name).read_bytes(), f"{name}: make the report anew"


def test_every_figure_of_the_kept_runs_has_a_name_that_a_file_can_have() -> None:
    """Labels are long where rows differ in many keys."""
    names = [figure.name for figure in figures.figures(collect([RUNS]))]
    assert len(set(names)) == len(names) > 30
    assert max(len(f"{name}.png".encode()) for name in names) <= 255


def test_the_claims_have_the_kept_runs_numbers() -> None:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        text = claims.PAGE.read_text()
        assert claims.filled(text) == text, "run python benchmarks/claims.py"
        for sweep, pairs in claims.PAIRS.items():
            assert f"<!-- {sweep} -->\n| row |" in text
            assert not pairs or f"<!-- {sweep} differences -->\n| difference |" in text


def test_rows_over_dimensions_have_a_column_each_and_one_correction() -> None:
    tops = {("new", "2"): (70.0, 71.0, 72.0), ("new", "4"): (80.0, 81.0, 82.0)}
    tops |= {("old", "2"): (60.0, 61.0, 62.0), ("old", "4"): (80.5, 81.5)}
    rows = {(label, ("0.01", d)): claims.Row(top1, 1e12, 3, "") for (label, d), top1 in tops.items()}
    assert claims.accuracies(rows) == [
        "| row | d = 2 | 4 |",
        "|---|---|---|",
        "| new | 71.00 ± 1.00 (3) | 81.00 ± 1.00 (3) |",
        "| old | 61.00 ± 1.00 (3) | 81.00 ± 0.71 (2/3) |",
    ]
    p = ttest_ind(tops["new", "2"], tops["old", "2"], equal_var=False).pvalue
    assert p < 0.001
    # Two runs decide nothing, and the one test that is left needs no correction.
    assert claims.differences(rows, [("new", "old")])[2:] == ["| new - old | +10.00 (p <.001, Holm <.001) | missing |"]


def test_rates_are_those_that_held_out_images_chose() -> None:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        rows = [row for sweep in CHOSEN for row in rates.rows_of(sweep)]
        rates.try_rates(rows, lambda runs: None)
        assert [(row.sweep, rates.label(row.words), row.said) for row in rows] == [
            (row.sweep, rates.label(row.words), row.chosen) for row in rows
        ]
        assert (rates.CHOICES / "README.md").read_text() == rates.page(rows)
        chosen = {(row.sweep, rates.label(row.words)): row.said for row in rows}
        for sweep, first in FOLLOWING.items():
            for row in rates.rows_of(sweep):
                assert row.said == chosen[first, rates.label(row.words)], (sweep, row.words)
        for sweep, row_of_its_rate in VARIANTS.items():
            assert {row.said for row in rates.rows_of(sweep)} == {chosen[row_of_its_rate]}, sweep
