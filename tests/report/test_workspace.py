"""The view that compares dimensions and imbalances, as it would be saved; and the search sweeps."""

import sys
from pathlib import Path

import pytest
import yaml
from composing import compose_config
from processes import ROOT

from dl2pa.errors import UserError
from dl2pa.report import workspace
from dl2pa.sweep import grid
from dl2pa.validate import validate

SEARCHES = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))


def test_the_view_compares_dimension_and_imbalance() -> None:
    saved = workspace.build("someone", "mine")._to_model().model_dump_json()
    for word in ("dimension", "imbalance", "method.value.name", "top1", "moved"):
        assert word in saved
    for title in ("top-1 against d", "top-1 against imbalance", "top-1 by d", "everything at once"):
        assert title in saved


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="usage: python -m dl2pa workspace"):
        workspace.main(["colour=red"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(UserError, match=r"^W&B: ") as error:
        workspace.main(["project=mine"])
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'dl2pa\[workspace\]'"):
        workspace.main([])


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_search_calls_launch_with_words_that_compose(path: Path) -> None:
    search = yaml.safe_load(path.read_text())
    assert search["program"] == "launch.py"
    fixed = [word for word in search["command"] if "=" in word]
    assert search["command"][-1] == "${args_no_hyphens}"
    assert "logger=wandb" in fixed
    for corner in (min, max):
        tried = [
            f"{key}={corner(options['values']) if 'values' in options else options[corner.__name__]}"
            for key, options in search["parameters"].items()
        ]
        cfg = compose_config(*fixed, *tried)
        validate(cfg)
        assert cfg.holdout > 0, "val_macro is that of held-out images"
    assert search["metric"]["name"] == "val_macro"
    assert path.stem not in grid.names()


def test_there_are_searches() -> None:
    assert SEARCHES
