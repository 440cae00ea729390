"""The command: words in, a file and a table out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dl2pa.errors import UserError
from dl2pa.prototypes.build import build
from dl2pa.prototypes.command import main, parse
from dl2pa.prototypes.kinds import Options

SIZES = ["num_classes=8", "dimension=4"]


def test_words_become_typed_values() -> None:
    command = parse(["num_classes=100", "dimension=50", "kind=uniform_readme", "seed=100", "lr=10", "batch_size=20"])
    assert (command.num_classes, command.dimension, command.kind, command.seed) == (100, 50, "uniform_readme", 100)
    assert isinstance(command.lr, float)
    assert (command.lr, command.batch_size, command.steps) == (10.0, 20, Options().steps)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kind=uniform", *SIZES, "stepz=3"], "unknown key 'stepz'"),
        (["kind=uniform", *SIZES, "verbose"], "'verbose': expected KEY=VALUE"),
        (["kind=uniform", "num_classes=ten", "dimension=4"], "num_classes=ten: not an integer"),
        (["kind=uniform", "num_classes=8.5", "dimension=4"], "num_classes=8.5: not an integer"),
        (["kind=uniform_readme", *SIZES, "lr=fast"], "lr=fast: not a number"),
        (["kind=uniform_readme", *SIZES, "lr=-0.5"], "lr=-0.5: must be"),
        (["kind=${nowhere}", *SIZES], "kind=${nowhere}: not a text"),
        (["kind=unifrom", *SIZES], "kind=unifrom: unknown kind"),
        (SIZES, "kind: missing"),
        (["kind=random", "num_classes=8"], "dimension: missing"),
        (["kind=simplex", *SIZES], "dimension >= 7"),
        (["kind=uniform", *SIZES, "steps=5"], "steps=5: kind=uniform does not read it; it reads seed, tolerance"),
        (["kind=simplex", "num_classes=8", "dimension=7", "seed=0"], "seed=0: kind=simplex does not read it"),
        (["kind=random", *SIZES, "file=a.npy"], "file=a.npy: kind=random does not read it"),
        (["kind=random", *SIZES, "out=a.txt"], "out=a.txt: must end in .npy"),
        (["kind=equiangular", *SIZES, "tau=low"], "tau=low: must be auto, or above 0 and below 1"),
        (["kind=equiangular", *SIZES, "tau=0.3"], "tau=0.3: num_classes=8 and dimension=4 allow no less than 0.37797"),
        (["kind=semantic", *SIZES], "words=null: no class names are known"),
        (["kind=semantic", *SIZES, "words=digits"], "words=digits: has vectors for 10 classes, not num_classes=8"),
        (["kind=semantic", "num_classes=10", "dimension=11", "words=digits"], "rank 10 with reduce=pca"),
        (["kind=semantic", "num_classes=10", "dimension=4", "words=digits", "seed=1"], "seed=1: does nothing with"),
        (["kind=separation", *SIZES, "words=digits"], "words=digits: kind=separation does not read it"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(words: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_kept_is_still_written_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["kind=uniform", *SIZES, f"data_root={tmp_path / 'file' / 'data'}"]
    main([*words, f"out={tmp_path / 'copy.npy'}"])
    assert np.load(tmp_path / "copy.npy").shape == (8, 4)
    with pytest.raises(UserError, match="cannot keep prototypes in"):
        main(words)


def test_an_option_that_is_not_given_has_the_kinds_default() -> None:
    assert (parse(["kind=separation", *SIZES]).steps, parse(["kind=uniform_readme", *SIZES]).steps) == (10000, 1000)
    assert (parse(["kind=separation", *SIZES, "steps=7"]).steps, parse(["kind=softmax_separation", *SIZES]).lr) == (
        7,
        0.2,
    )
    assert [parse(["kind=equiangular", *SIZES, *tau]).tau for tau in ([], ["tau=0.4"])] == ["auto", 0.4]


@pytest.mark.parametrize("words", [["kind=random", "num_classes=8"], ["kind=semantic", "num_classes=10", "words=svhn"]])
def test_a_mistake_is_told_without_loading_torch(words: list[str]) -> None:
    code = f"import sys; from dl2pa.prototypes.command import parse; parse({[*words, 'dimension=4']})"
    code += "; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_it_writes_caches_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "new" / "mine.npy"
    main(["kind=orthoplex", *SIZES, "seed=2", f"data_root={tmp_path}", f"out={copy}"])
    printed = capsys.readouterr().out
    kept = tmp_path / "prototypes" / "orthoplex-c8-d4-seed2.npy"
    assert str(kept) in printed
    assert str(copy) in printed
    assert "lower bound 0.00000 (Rankin)" in printed
    expected = build(8, 4, "orthoplex", 2).numpy()
    np.testing.assert_array_equal(np.load(kept), expected)
    np.testing.assert_array_equal(np.load(copy), expected)


def test_a_file_is_measured_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "mine.npy"
    np.save(stored, build(8, 7, "simplex").numpy())
    main(["kind=file", "num_classes=8", "dimension=7", f"file={stored}", f"data_root={tmp_path}"])
    printed = capsys.readouterr().out
    assert "-0.14286" in printed
    assert "(simplex)" in printed
    assert not (tmp_path / "prototypes").exists()


def test_what_is_not_kept_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["kind=semantic", "num_classes=10", "dimension=9", "words=cifar10", f"data_root={tmp_path}"])
    printed = capsys.readouterr().out
    assert "max cosine" in printed
    assert "None" not in printed
    assert not list(tmp_path.iterdir())
