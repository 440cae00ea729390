"""Building by name, seeds, and the cache."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dl2pa.errors import UserError
from dl2pa.prototypes import build as module
from dl2pa.prototypes.build import build, cache_path, cached
from dl2pa.prototypes.kinds import KINDS

# Kinds that read words or a file are tried in files of their own.
SIZES = [(name, 6, 8) for name, kind in KINDS.items() if not {"words", "file"} & set(kind.reads)] + [
    ("exact", 9, 3),
    ("exact", 7, 2),
    ("uniform", 9, 3),
]
SEEDED = [case for case in SIZES if "seed" in KINDS[case[0]].reads]


@pytest.mark.parametrize(("kind", "num_classes", "dimension"), SIZES)
def test_every_kind_gives_float32_unit_rows(kind: str, num_classes: int, dimension: int) -> None:
    points = build(num_classes, dimension, kind, 0)
    assert points.shape == (num_classes, dimension)
    assert points.dtype == torch.float32
    assert points.is_contiguous()
    torch.testing.assert_close(points.norm(dim=1), torch.ones(num_classes), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "num_classes", "dimension"), SEEDED)
def test_the_seed_decides(kind: str, num_classes: int, dimension: int) -> None:
    first = build(num_classes, dimension, kind, 0)
    assert torch.equal(build(num_classes, dimension, kind, 0), first)
    assert not torch.allclose(build(num_classes, dimension, kind, 1), first, atol=1e-2)


@pytest.mark.parametrize(("kind", "num_classes", "dimension"), SIZES)
def test_the_global_generator_is_left_alone(kind: str, num_classes: int, dimension: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build(num_classes, dimension, kind, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(build(num_classes, dimension, kind, 5), first)


def test_what_cannot_be_built() -> None:
    with pytest.raises(UserError, match="dimension >= 9"):
        build(10, 5, "simplex")
    with pytest.raises(UserError, match="kind=nonsense"):
        build(10, 5, "nonsense", 0)
    with pytest.raises(UserError, match="seed=null"):
        build(10, 5, "random")
    with pytest.raises(UserError, match="lr=-1"):
        build(10, 5, "uniform_readme", 0, lr=-1)
    with pytest.raises(TypeError):
        build(10, 5, "random", 0, step=3)


def test_a_name_holds_what_the_kind_reads_and_no_more() -> None:
    folder = Path("p")
    readme = cache_path(folder, 100, 50, "uniform_readme", 100, steps=1000, tolerance=1.0)
    assert readme == folder / "uniform_readme-c100-d50-seed100-steps1000-lr0.1-batch100.npy"
    assert cache_path(folder, 10, 9, "simplex", 7, steps=3) == folder / "simplex-c10-d9.npy"
    assert cache_path(folder, 10, 9, "exact", 7) == folder / "exact-c10-d9-seed7.npy"
    assert cache_path(folder, 10, 9, "uniform", 7, tolerance=1e-6) == folder / "uniform-c10-d9-seed7-tol1e-06.npy"
    ranked = cache_path(folder, 10, 5, "separation_semantic", 7, words="cifar10")
    assert ranked == folder / "separation_semantic-c10-d5-seed7-steps10000-lr0.1-wordscifar10-weight1.0.npy"


def test_a_name_holds_what_is_in_a_file_and_not_its_place(tmp_path: Path) -> None:
    for name, value in (("here", 1.0), ("there", 1.0), ("other", 2.0)):
        np.save(tmp_path / f"{name}.npy", np.full((10, 3), value))

    def path(name: str) -> Path:
        return cache_path(tmp_path, 10, 5, "separation_semantic", 7, file=str(tmp_path / f"{name}.npy"))

    assert path("here") == path("there") != path("other")
    assert path("here").parent == tmp_path


def test_a_changed_algorithm_does_not_read_what_the_old_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cached(tmp_path, 6, 4, "random", 3)
    monkeypatch.setitem(KINDS, "random", replace(KINDS["orthoplex"], version=2))
    assert cache_path(tmp_path, 6, 4, "random", 3) == tmp_path / "random-v2-c6-d4-seed3.npy"
    assert not torch.allclose(cached(tmp_path, 6, 4, "random", 3), old)


def test_cached_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = build(6, 4, "random", 3)
    assert torch.equal(cached(tmp_path / "new" / "folder", 6, 4, "random", 3), expected)
    monkeypatch.setattr(module, "build", never)
    assert torch.equal(cached(tmp_path / "new" / "folder", 6, 4, "random", 3), expected)
    with pytest.raises(AssertionError, match="was built"):
        cached(tmp_path / "new" / "folder", 6, 4, "random", 4)


def never(*_: object, **__: object) -> torch.Tensor:
    raise AssertionError("was built")


@pytest.mark.parametrize("damage", ["truncated", "empty", "other shape", "not unit", "not finite"])
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = cached(tmp_path, 6, 4, "random", 3)
    path = cache_path(tmp_path, 6, 4, "random", 3)
    whole = path.read_bytes()
    if damage in ("truncated", "empty"):
        path.write_bytes(whole[: len(whole) - 10 if damage == "truncated" else 0])
    else:
        wrong = {"other shape": expected[:5], "not unit": 2 * expected, "not finite": expected * torch.inf}
        module.write(path, wrong[damage])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached(tmp_path, 6, 4, "random", 3), expected)
    assert path.name in caplog.text
    assert path.read_bytes() == whole


def test_a_stopped_writer_leaves_no_half_file(tmp_path: Path) -> None:
    expected = cached(tmp_path, 6, 4, "random", 3)
    path = cache_path(tmp_path, 6, 4, "random", 3)
    path.unlink()
    path.with_name(path.name + ".part").write_bytes(b"half")
    assert torch.equal(cached(tmp_path, 6, 4, "random", 3), expected)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".lock", ".npy"]


def test_of_several_at_once_one_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for processes: each call opens its own lock, and the lock is between open files."""
    builds: list[str] = []

    def slow_build(*arguments: Any, **options: Any) -> torch.Tensor:
        builds.append("started")
        time.sleep(0.3)  # long enough for the others to arrive while this one holds the lock
        return build(*arguments, **options)

    monkeypatch.setattr(module, "build", slow_build)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cached(tmp_path, 6, 4, "random", 3), range(4)))
    assert builds == ["started"]
    assert all(torch.equal(result, build(6, 4, "random", 3)) for result in results)
