"""The revision of the code, which results name."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from composing import compose_config

from dl2pa import revision as module
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.revision import revision
from dl2pa.run import run


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    revision.cache_clear()
    yield
    revision.cache_clear()


def test_the_revision_is_that_of_the_code_wherever_it_is_run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert re.fullmatch(rf"{head}(\+[0-9a-f]{{6}})?", str(revision()))


def test_each_change_of_the_work_tree_is_another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is edited twice while a job queues differs from what it was planned with, though both are changes."""
    code = tmp_path / "dl2pa" / "revision.py"
    for name in ("dl2pa", "docs"):
        (tmp_path / name).mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("before")
    monkeypatch.setattr(module, "__file__", str(code))
    names = []
    for text in ("first", "second", "third", "second", "first"):
        code.write_text(text)
        if not names:
            for words in (
                ["init", "-q"],
                ["add", "."],
                ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"],
            ):
                subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
        page.write_text(f"written beside {text}")
        revision.cache_clear()
        names.append(str(revision()))
    head = names[0]
    assert names == [head, names[1], names[2], names[1], head]
    assert len({*names}) == 3
    assert all(name.startswith(f"{head}+") for name in names[1:4])


def test_another_revision_than_planned_is_a_warning_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"runs_dir={tmp_path}", "max_steps=1", "prototypes=simplex", "dimension=9", "device=cpu")
    for module_name in ("folder", "run"):
        monkeypatch.setattr(f"dl2pa.{module_name}.revision", lambda: "planned")
    cfg = compose_config(*words)
    RunFolder.of(cfg).plan(cfg)
    for module_name in ("folder", "run"):
        monkeypatch.setattr(f"dl2pa.{module_name}.revision", lambda: "edited")
    with pytest.raises(
        UserError, match=r"strict_revision=true: .* revision planned of the code, and edited is here now"
    ):
        run(compose_config(*words, "strict_revision=true"))
    run(cfg)
    assert "planned" in capsys.readouterr().out
    result = RunFolder.of(cfg).result()
    assert result is not None
    assert result["revision"] == "edited"


def test_code_outside_a_repository_has_no_revision(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("installed")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    (folder / "dl2pa").mkdir()
    monkeypatch.setattr(module, "__file__", str(folder / "dl2pa" / "revision.py"))
    assert revision() is None
