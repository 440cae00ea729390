import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import own_checksums, write_cifar10, write_cifar100, write_stl10, write_svhn

from dl2pa.data import mapped, readers
from dl2pa.data.datasets import Data, load
from dl2pa.data.loader import training_loader
from dl2pa.data.transforms import ImageTransform

WRITERS = {"cifar10": write_cifar10, "cifar100": write_cifar100, "svhn": write_svhn, "stl10": write_stl10}


def read(root: Path, name: str = "cifar10") -> Data:
    classes = 100 if name == "cifar100" else 10
    return load(name, num_classes=classes, imbalance=0.5, holdout=0.2, data_root=root, download=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_cifar10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    return tmp_path


def kept(root: Path) -> list[Path]:
    return sorted((root / "mapped").glob("[!.]*"))


def assert_equal(one: Data, other: Data) -> None:
    for name in ("train", "holdout", "test"):
        a, b = getattr(one, name), getattr(other, name)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert one.class_names == other.class_names


@pytest.mark.parametrize("name", WRITERS)
def test_archives_are_unpacked_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path)
    own_checksums(monkeypatch, tmp_path)
    unread = {"unlabeled_X.bin", "class_names.txt"}
    archives = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in unread]
    first = read(tmp_path, name)

    def unpack(*_: object) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(readers, "open_published", unpack)
    assert_equal(read(tmp_path, name), first)
    for archive in archives:
        state = archive.stat()
        os.utime(archive, (1, 1))
        with pytest.raises(AssertionError, match="unpacked again"):
            read(tmp_path, name)
        os.utime(archive, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_other_archives_are_other_images_and_leave_the_old_ones_to_who_has_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = read(root)
    before = old.test.images
    write_cifar10(root, per_class_test=3)
    own_checksums(monkeypatch, root)
    assert len(read(root).test) == 30
    assert len(kept(root)) == 2
    assert torch.equal(old.test.images, before)


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_file_cut_short_is_made_anew(root: Path, size: int) -> None:
    first = read(root)
    (path,) = kept(root)
    whole = path.read_bytes()
    assert len(whole) > 20_000
    path.unlink()  # a new file: the old one is mapped
    path.write_bytes(whole[:size])
    assert_equal(read(root), first)
    assert len(path.read_bytes()) == len(whole)


def test_bytes_that_torch_cannot_read_are_made_anew(root: Path) -> None:
    first = read(root)
    (path,) = kept(root)
    whole = path.read_bytes()
    at = whole.index(b"class_names")
    path.unlink()
    path.write_bytes(whole[:at] + b"\xff" * 11 + whole[at + 11 :])
    assert_equal(read(root), first)


def test_a_folder_that_cannot_be_written_to(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "mapped").write_text("in the way")
    found = read(root)
    assert "each process takes 0 MiB for itself" in caplog.text
    (root / "mapped").unlink()
    assert_equal(read(root), found)


def test_a_folder_of_somebody_else(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(root)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(mapped.torch, "load", refuse)
    monkeypatch.setattr(mapped.torch, "save", lambda content, path: refuse(path))
    assert_equal(read(root), first)
    assert "for itself" in caplog.text


def test_a_disk_that_fills_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: object, path: Path) -> None:
        path.write_bytes(b"a part")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(mapped.torch, "save", save)
    assert len(read(root).train) > 0
    assert kept(root) == []


def test_of_two_that_unpack_at_once_one_writes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    real_path, real_save, saved = mapped._kept, torch.save, []

    def when_both_are_here(path: Path, content: dict[str, Any]) -> dict[str, Any]:
        both.wait(timeout=60)
        return real_path(path, content)

    def save(content: object, path: Path) -> None:
        saved.append(path)
        real_save(content, path)

    monkeypatch.setattr(mapped, "_kept", when_both_are_here)
    monkeypatch.setattr(mapped.torch, "save", save)
    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result(timeout=60) for future in [pool.submit(read, root) for _ in range(2)])
    assert_equal(one, other)
    assert len(saved) == 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_an_epoch_leaves_the_images_where_all_processes_share_them(root: Path) -> None:
    data = read(root)
    assert data.train.source is data.test.source
    transform = ImageTransform(32, train_crop="pad", padding=4, flip=True)
    options = {"mean": [0.5] * 3, "std": [0.25] * 3, "device": torch.device("cpu")}
    batches = training_loader(data.train, transform, batch_size=8, seed=0, **options)
    assert sum(len(labels) for _, labels in batches.epoch(0)) == len(data.train)
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    (path,) = kept(root)
    mine = [entry for entry in maps if str(path) in entry]
    assert len(mine) == 1
    sizes = {name: int(kilobytes) for name, kilobytes in re.findall(r"^(\w+): +(\d+) kB", mine[0], re.MULTILINE)}
    assert sizes["Rss"] > 0
    assert sizes["Anonymous"] == 0, "copied for writing"
    assert isinstance(data.train.source, torch.Tensor)
    begin, end = (int(number, 16) for number in mine[0].split()[0].split("-"))
    assert begin <= data.train.source.data_ptr() < end
