"""python -m dl2pa report on runs whose every number is known."""

import csv
import html
import json
import math
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from composing import compose_config
from scipy.stats import ttest_ind

from dl2pa import identity
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.report import command, figures, stats, tables
from dl2pa.report.collect import Cell, collect
from dl2pa.sweep import record

TOP1 = {"psc": 60.0, "dl2pa": 64.0}  # at d = 10; one more for each dimension beyond


def write(runs_dir: Path, *words: str, top1: float, finished: bool = True, **more: Any) -> RunFolder:
    """A run folder as a run leaves it behind, without training: these are tests of adding up."""
    cfg = compose_config(*words, f"runs_dir={runs_dir}")
    folder = RunFolder.of(cfg)
    folder.plan(cfg)
    if not finished:
        return folder
    moves = cfg.prototypes.kind != "none"
    classes = cfg.dataset.num_classes
    result = {
        "run_id": folder.run_id, "group": identity.group_name(cfg), "dataset": cfg.dataset.name,
        "method": identity.method_label(cfg), "imbalance": cfg.imbalance, "dimension": cfg.dimension,
        "seed": cfg.seed, "epochs": cfg.epochs, "top1": top1, "macro": top1, "top1_best": top1 + 1,
        "head": top1 + 5, "medium": top1, "tail": top1 - 5, "means_top1": top1, "ece": 0.1,
        "moved": [3.0, 1.0, 0.0] if moves else [], "prototypes": cfg.prototypes.kind, "backbone": cfg.backbone.name,
        "seconds": 60.0, "flops": 1e12 * cfg.dimension, "hardware": "a processor", "precision": "fp32", "threads": 1,
        "revision": "abc", "revisions": ["abc"],
    }  # fmt: skip
    folder.write_result({**result, **more})
    for epoch in (1, 2, 3):
        order = np.roll(np.arange(classes), epoch).tolist()
        folder.append("assignments", {"epoch": epoch, "assignment": order})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """psc and dl2pa on CIFAR-100-LT at two dimensions and imbalances, three seeds each, one of them not finished."""
    for method, base in TOP1.items():
        for d in (10, 20):
            for ratio in (0.01, 0.02):
                for seed in (0, 1, 2):
                    words = ("dataset=cifar100_lt", f"method={method}", f"dimension={d}", f"imbalance={ratio}")
                    unfinished = (method, d, ratio, seed) == ("psc", 20, 0.02, 2)
                    top1 = base + (d - 10) / 10 + seed
                    write(
                        tmp_path / "runs", *words, "backbone.neck=linear", f"seed={seed}", top1=top1,
                        finished=not unfinished,
                    )  # fmt: skip
    return tmp_path / "runs"


def cell(cells: list[Cell], method: str, d: int, ratio: float | None) -> Cell:
    (found,) = [
        cell for cell in cells if (cell.method.split(".")[0], cell.dimension, cell.imbalance) == (method, d, ratio)
    ]
    return found


def test_cells_are_what_differs_by_the_seed_alone(runs: Path) -> None:
    cells = collect([runs])
    assert len(cells) == 8
    assert cell(cells, "dl2pa", 20, 0.01).values("top1") == [65.0, 66.0, 67.0]
    assert cell(cells, "dl2pa", 20, 0.01).mean() == 66.0
    assert cell(cells, "dl2pa", 20, 0.01).std() == 1.0
    unfinished = cell(cells, "psc", 20, 0.02)
    assert (len(unfinished.results), unfinished.missing) == (2, 1)


def test_the_tables(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(runs), "--out", str(tmp_path / "out"), "baseline=psc.cos_scaled", "figures=false"])
    said = (tmp_path / "out" / "tables.md").read_text()
    assert said in capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if line.startswith("| dl2pa |")]
    p = ttest_ind([64, 65, 66], [60, 61, 62], equal_var=False).pvalue
    shown = [part.strip() for part in row.strip("|").split("|")]
    assert shown[1] == f"65.00 ± 1.00 (3) p {3 * p:.3f}*", "four cells, of which three can be tested"
    (row,) = [line for line in said.splitlines() if line.startswith("| psc")]
    assert [part.strip() for part in row.strip("|").split("|")][1:] == [
        "61.00 ± 1.00 (3)", "61.50 ± 0.71 (2/3)", "61.00 ± 1.00 (3)", "62.00 ± 1.00 (3)",
    ]  # fmt: skip
    assert r"65.00 $\pm$ 1.00 (3)" in (tmp_path / "out" / "tables.tex").read_text()
    lines = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert len(lines) == 23
    assert {line["method"] for line in lines} == {"psc.cos_scaled", "dl2pa"}
    by_cell = list(csv.DictReader((tmp_path / "out" / "cells.csv").open()))
    assert sum(int(line["n"]) for line in by_cell) == 23
    assert [line["missing"] for line in by_cell].count("1") == 1


def test_what_all_columns_share_stands_in_the_title(tmp_path: Path) -> None:
    def described(*words: str) -> tuple[str, list[str]]:
        write(tmp_path / "runs", "dataset=cifar100_lt", "backbone.neck=linear", *words, top1=60.0)
        (table,) = tables.tables(collect([tmp_path / "runs"]))
        return table.title, table.headings()

    network = "cifar100_lt, resnet32_lt_wide"
    assert described("imbalance=0.01", "dimension=64") == (f"{network}, imbalance 0.01, d = 64", ["top-1 %"])
    assert described("imbalance=0.01", "dimension=32") == (f"{network}, imbalance 0.01", ["d = 32", "d = 64"])
    both = ["imbalance 0.02, d = 32", "imbalance 0.01, d = 32", "imbalance 0.01, d = 64"]
    assert described("imbalance=0.02", "dimension=32") == (network, both)
    shutil.rmtree(tmp_path / "runs")
    described("imbalance=0.01", "dimension=64")
    ratios = ["imbalance 0.02", "imbalance 0.01"]
    assert described("imbalance=0.02", "dimension=64") == (f"{network}, d = 64", ratios)


def test_a_run_older_than_a_key_has_its_default(tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = write(tmp_path, "dataset=digits", f"seed={seed}", top1=90.0 + seed)
    path = folder.path / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    (cutout,) = [line for line in lines if line.strip().startswith("cutout:")]
    lines.remove(cutout)
    path.write_text("".join(lines))
    (one,) = collect([tmp_path])
    assert (one.label, one.values("top1")) == ("dl2pa", [90.0, 91.0])


def test_what_is_published_stands_beside_and_doubt_is_marked(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        words = ("dataset=cifar100", "dimension=10", f"seed={seed}")
        write(tmp_path, *words, "method=dl2pa", top1=58.21 + seed - 1)
        for variant in ("cos_unscaled", "cos_scaled"):
            write(tmp_path, *words, "method=psc", f"method.variant={variant}", top1=30.0)
    (table,) = tables.tables(collect([tmp_path]))
    column = table.columns[0]
    assert tables.text(table, "dl2pa", column) == "58.21 ± 1.00 (3) | 57.21 +1.00"
    assert tables.text(table, "psc.cos_unscaled", column) == "30.00 ± 0.00 (3) | 25.67? +4.33"
    assert tables.text(table, "psc.cos_scaled", column) == "30.00 ± 0.00 (3)", "no published number can be its"


def test_published_without_a_dimension_is_of_the_width_of_the_backbone(tmp_path: Path) -> None:
    write(tmp_path, "dataset=imagenet", "method=dnc", top1=76.0)
    write(tmp_path, "dataset=imagenet", "method=dnc", "dimension=100", "backbone.neck=linear", top1=70.0)
    (table,) = tables.tables(collect([tmp_path]))
    assert [tables.text(table, "dnc", column) for column in table.columns] == ["70.00 (1)", "76.00 (1) | 76.49 -0.49"]


def test_a_published_number_is_compared_with_ours_of_the_same_images(tmp_path: Path) -> None:
    """EBV's log at 256 pixels with the reading at 256; SVHN's of shifted labels with runs on those alone."""
    words = ("dataset=imagenet", "method=ebv", "dimension=500", "backbone.neck=linear")
    write(tmp_path / "imagenet", *words, top1=77.39, top1_uncropped=78.34)
    (table,) = tables.tables(collect([tmp_path / "imagenet"]))
    assert tables.text(table, "ebv", table.columns[0]) == "77.39 (1) | 78.34 +0.00"
    for compat, shown in (("paper", "50.00 (1) | 47? +3.00"), ("none", "50.00 (1)")):
        words = ("dataset=svhn_lt", "imbalance=0.01", "method=dl2pa", f"compat={compat}")
        write(tmp_path / compat, *words, top1=50.0)
        (table,) = tables.tables(collect([tmp_path / compat]))
        assert tables.text(table, "dl2pa", table.columns[0]) == shown


@pytest.mark.parametrize("words", [["epochs=3"], ["recipe=modern"], ["holdout=0.3"], ["augment.mixup=0.5"]])
def test_a_published_number_beside_another_recipe_is_marked(words: list[str], tmp_path: Path) -> None:
    write(tmp_path, "dataset=cifar100", "dimension=10", "method=dl2pa", *words, top1=58.21)
    (table,) = tables.tables(collect([tmp_path]))
    assert tables.text(table, "dl2pa", table.columns[0]) == "58.21 (1) | 57.21† +1.00"


def test_published_numbers_belong_to_presets_alone(tmp_path: Path) -> None:
    """Of another backbone they are marked; beside a row with another loss or assignment they would mislead."""
    common = ("dataset=cifar10_lt", "recipe=fast", "dimension=64", "backbone.neck=linear")
    write(tmp_path, *common, "method=dl2pa", top1=77.9)
    write(tmp_path, *common, "method=dl2pa", "loss=cross_entropy", "optimizer.lr=0.03", top1=70.0)
    write(tmp_path, *common, "method=dl2pa", "assignment.every=5", top1=70.0)
    (table,) = tables.tables(collect([tmp_path]))
    shown = {row: tables.text(table, row, table.columns[0]) for row in table.rows}
    assert sorted(shown.values()) == ["70.00 (1)", "70.00 (1)", "77.90 (1) | 76.9† +1.00"]


def test_moves_are_a_mean_over_all_runs_of_a_cell(tmp_path: Path) -> None:
    for seed, moved in enumerate(([2.0, 0.0], [0.0, 0.0], [4.0, 0.0])):
        write(tmp_path, "dataset=digits", f"seed={seed}", top1=90.0, moved=moved)
        write(tmp_path, "dataset=digits", f"seed={seed}", "dimension=8", top1=90.0, moved=[0.0, 0.0])
    (moves,) = (figure for figure in figures.figures(collect([tmp_path])) if figure.name.startswith("moves-"))
    assert [(series.label, series.y) for series in moves.series] == [("d = 4", [2.0, 0.0])]
    assert moves.title.endswith("d = 4")


def test_a_run_counts_once_wherever_its_copies_lie(tmp_path: Path) -> None:
    """Were a copy another run, a single seed would have a deviation of 0."""
    write(tmp_path / "runs", "dataset=digits", "seed=0", top1=90.0)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    write(tmp_path / "runs", "dataset=digits", "seed=1", top1=0.0, finished=False)
    write(tmp_path / "copy", "dataset=digits", "seed=1", top1=91.0)
    (one,) = collect([tmp_path / "runs", tmp_path / "copy"])
    assert (sorted(one.values("top1")), one.missing) == ([90.0, 91.0], 0)


def test_a_single_run_has_no_deviation_and_mixed_cells_are_marked(tmp_path: Path) -> None:
    write(tmp_path, "dataset=digits", "seed=0", top1=90.0)
    (table,) = tables.tables(collect([tmp_path]))
    assert tables.text(table, "dl2pa", table.columns[0]) == "90.00 (1)"
    write(tmp_path, "dataset=digits", "seed=1", top1=92.0, precision="bf16")
    (table,) = tables.tables(collect([tmp_path]))
    assert tables.text(table, "dl2pa", table.columns[0]) == "91.00 ± 1.41 (2)~"


def test_rows_say_by_what_they_differ(tmp_path: Path) -> None:
    write(tmp_path, "dataset=digits", "assignment.every=1", top1=90.0)
    write(tmp_path, "dataset=digits", "assignment.every=5", top1=91.0)
    write(tmp_path, "dataset=digits", "assignment=static", top1=89.0)
    write(tmp_path, "dataset=digits", "assignment=tsc", top1=89.0)
    assert {cell.label for cell in collect([tmp_path])} == {
        "dl2pa assignment=hungarian assignment.every=1",
        "dl2pa assignment=hungarian assignment.every=5",
        "dl2pa assignment=static",
        "dl2pa assignment=tsc",
    }


def test_networks_of_two_widths_have_a_table_and_curves_each(tmp_path: Path) -> None:
    for d, width, top1 in ((2, 32, 60.0), (4, 32, 70.0), (4, 64, 80.0), (8, 64, 90.0)):
        words = ("dataset=digits", f"dimension={d}", f"backbone.width={width}")
        write(tmp_path, *words, "backbone.neck=linear", top1=top1, flops=1e12 * width)
    cells = collect([tmp_path])
    found = {table.title: table for table in tables.tables(cells)}
    assert {title: table.columns for title, table in found.items()} == {
        "digits, small-32": [(None, 2), (None, 4)],
        "digits, small": [(None, 4), (None, 8)],
    }
    assert {label for table in found.values() for label in table.rows} == {"dl2pa"}, "the table tells the width"
    drawn = {figure.name: figure for figure in figures.figures(cells)}
    assert drawn["dimension-digits-small-32"].series[0].y == [60.0, 70.0]
    assert drawn["dimension-digits-small"].series[0].y == [80.0, 90.0]
    assert drawn["flops-digits"].series[0].y == [60.0, 70.0, 80.0, 90.0], "what a network costs is seen beside others"
    assert "small-32" in drawn["flops-digits"].series[0].text[0]


def test_rows_say_the_option_and_not_the_name_that_it_shares(tmp_path: Path) -> None:
    for words in (
        ["loss=cross_entropy"],
        ["loss=balanced_cross_entropy"],
        ["loss=balanced_cross_entropy", "loss.temperature=0.3"],
    ):
        write(tmp_path, "dataset=digits_lt", "imbalance=0.1", *words, top1=90.0)
    assert {cell.label for cell in collect([tmp_path])} == {
        "dl2pa loss=cross_entropy",
        "dl2pa loss=balanced_cross_entropy loss.temperature=0.1",
        "dl2pa loss=balanced_cross_entropy loss.temperature=0.3",
    }


def test_a_chosen_rate_names_a_row_only_where_nothing_else_does(tmp_path: Path) -> None:
    for words in (["loss=cross_entropy", "optimizer.lr=0.1"], ["optimizer.lr=0.4"]):
        write(tmp_path / "chosen", "dataset=digits", *words, top1=90.0)
    labels = {cell.label for cell in collect([tmp_path / "chosen"])}
    assert labels == {"dl2pa loss=cross_entropy", "dl2pa loss=squared_cosine"}
    for rate in ("0.1", "0.4"):
        write(tmp_path / "rates", "dataset=digits", f"optimizer.lr={rate}", top1=90.0)
    assert {cell.label for cell in collect([tmp_path / "rates"])} == {
        "dl2pa optimizer.lr=0.1",
        "dl2pa optimizer.lr=0.4",
    }


def test_averaged_over_another_seed(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, "dataset=digits", f"assignment.seed={number}", top1=90.0 + number)
    assert len(collect([tmp_path])) == 3
    (one,) = collect([tmp_path], over=["assignment.seed"])
    assert sorted(one.values("top1")) == [90.0, 91.0, 92.0]
    with pytest.raises(UserError, match=r"over=assignment.sed: no such key"):
        collect([tmp_path], over=["assignment.sed"])


def test_one_sweep_of_a_runs_dir(tmp_path: Path) -> None:
    folders = [write(tmp_path, "dataset=digits", f"seed={seed}", top1=90.0) for seed in range(3)]
    record.write(tmp_path, record.Record("mine", [folder.key for folder in folders[:2]]))
    (one,) = collect([tmp_path], sweep="mine")
    assert len(one.results) == 2


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979's procedure
    assert stats.holm([0.9, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{runs}"], "usage: python -m dl2pa report"),
        (["--out", "{out}"], "usage"),
        (["{runs}", "--out"], "usage"),
        (["{runs}", "--out", "{out}", "colour=red"], "colour=red is not legal"),
        (["{runs}", "--out", "{out}", "figures=no"], "figures=no is not legal: use true or false"),
        (["{runs}", "--out", "{out}", "baseline=nobody"], "baseline=nobody is not legal: use one of dl2pa"),
        (["{runs}", "--out", "{out}", "sweep=none"], "no sweep of"),
        (["{out}", "--out", "{out}"], "neither a run folder nor a runs_dir"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: list[str], problem: str) -> None:
    write(tmp_path / "runs", "dataset=digits", top1=90.0)
    places = {"runs": str(tmp_path / "runs"), "out": str(tmp_path / "out")}
    with pytest.raises(UserError, match=problem) as error:
        command.main([word.format(**places) for word in words])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_pictures_and_page(runs: Path, tmp_path: Path) -> None:
    """Every kind of figure is made; the page needs nothing but itself, sorts, and says what lies under the pointer."""
    out = tmp_path / "out"
    command.main([str(runs), "--out", str(out), "baseline=psc.cos_scaled"])
    made = {path.name for path in (out / "figures").iterdir()}
    for start in ("dimension-", "imbalance-", "map-", "splits-", "moves-", "owners-", "flops-", "prototypes-"):
        assert any(name.startswith(start) and name.endswith(".png") for name in made), start
    assert len([name for name in made if name.endswith(".pdf")]) == len(made) / 2
    page = (out / "index.html").read_text()
    assert not re.search(r"<(script|img|iframe)[^>]*\bsrc=|<link\b", page), "everything is in the page"
    assert "Welch's test against psc.cos_scaled" in html.unescape(page), "the stars in its tables are explained"
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed: sorting and hovering were not tried")
    probe = """<script>window.onload = () => {
      const head = document.querySelectorAll("th")[1]; head.click();
      const column = () => [...document.querySelectorAll("table")[0].tBodies[0].rows].map(r => r.cells[0].textContent);
      const down = column(); head.click(); const up = column();
      const plot = document.querySelector(".plotly-graph-div");
      const ticks = [...plot.querySelectorAll(".xtick text")].map(t => t.textContent);
      Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}]);
      setTimeout(() => { const told = [...plot.querySelectorAll(".hovertext text")].map(t => t.textContent).join(" ");
        document.body.innerHTML = "<pre>" + JSON.stringify({down, up, ticks, told}) + "</pre>"; }, 500);
    };</script></html>"""
    (out / "probe.html").write_text(page.replace("</html>", probe))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--virtual-time-budget=20000", "--dump-dom", f"file://{out}/probe.html"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    told = json.loads(found[1])
    assert told["down"] == ["dl2pa", "psc.cos_scaled"]
    assert told["up"] == ["psc.cos_scaled", "dl2pa"]
    assert told["ticks"] == ["10", "20"], "the dimensions that there are"
    assert "top-1 %" in told["told"]
    assert "n = 3" in told["told"]


@pytest.mark.slow
def test_many_runs(tmp_path: Path) -> None:
    """300 runs, each folder a copy that differs in its seed: what they come to is right, whatever their number."""
    first = write(tmp_path, "dataset=digits", "seed=0", top1=90.0)
    for seed in range(1, 300):
        folder = tmp_path / "digits" / first.run_id.replace("-s0-", f"-s{seed}-")
        shutil.copytree(first.path, folder)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "seed": seed, "top1": 90.0 + seed % 2}))
    began = time.monotonic()
    (one,) = collect([tmp_path])
    assert time.monotonic() - began < 60  # it hangs, if not
    assert len(one.results) == 300
    assert one.mean() == pytest.approx(90.5)
    assert one.std() == pytest.approx(0.5 * math.sqrt(300 / 299))
