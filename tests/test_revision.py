"""The revision of the code, which results name."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dl2pa import revision as module
from dl2pa.revision import revision


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
    assert revision() in (head, f"{head}+")


def test_code_outside_a_repository_has_no_revision(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("installed")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    monkeypatch.setattr(module, "__file__", str(folder / "revision.py"))
    assert revision() is None
