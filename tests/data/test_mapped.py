import os
import re
from pathlib import Path

import pytest
import torch
from data_files import own_checksums, write_cifar10

from dl2pa.data import mapped, readers
from dl2pa.data.datasets import Data, load
from dl2pa.data.fetch import Request
from dl2pa.data.loader import training_loader
from dl2pa.data.transforms import ImageTransform


def read(root: Path) -> Data:
    return load("cifar10", num_classes=10, imbalance=0.5, holdout=0.2, data_root=root, download=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_cifar10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    return tmp_path


def assert_equal(one: Data, other: Data) -> None:
    for name in ("train", "holdout", "test"):
        a, b = getattr(one, name), getattr(other, name)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert one.class_names == other.class_names


def test_archives_are_unpacked_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)

    def unpack(*arguments: object) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(readers, "open_published", unpack)
    assert_equal(read(root), first)
    os.utime(root / "cifar-10-batches-py" / "data_batch_2")
    with pytest.raises(AssertionError, match="unpacked again"):
        read(root)


def test_other_archives_are_other_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read(root).test) == 20
    write_cifar10(root, per_class_test=3)
    own_checksums(monkeypatch, root)
    assert len(read(root).test) == 30


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_file_cut_short_is_made_anew(root: Path, size: int) -> None:
    first = read(root)
    kept = root / "mapped" / "cifar10.pt"
    whole = kept.read_bytes()
    assert len(whole) > 20_000
    kept.unlink()  # a new file: the old one is mapped
    kept.write_bytes(whole[:size])
    assert_equal(read(root), first)
    assert len(kept.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_written_to(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "mapped").write_text("in the way")
    with caplog.at_level("INFO"):
        found = read(root)
    assert "each process has its own images" in caplog.text
    (root / "mapped").unlink()
    assert_equal(read(root), found)


def test_a_disk_that_fills_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: object, path: Path) -> None:
        path.write_bytes(b"a part")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(mapped.torch, "save", save)
    assert len(read(root).train) > 0
    assert list((root / "mapped").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_an_epoch_leaves_the_images_where_all_processes_share_them(root: Path) -> None:
    data = read(root)
    assert data.train.source is data.test.source
    transform = ImageTransform(32, train_crop="pad", padding=4, flip=True)
    options = {"mean": [0.5] * 3, "std": [0.25] * 3, "device": torch.device("cpu")}
    batches = training_loader(data.train, transform, batch_size=8, seed=0, **options)
    assert sum(len(labels) for _, labels in batches.epoch(0)) == len(data.train)
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mine = [entry for entry in maps if str(root / "mapped" / "cifar10.pt") in entry]
    assert len(mine) == 1
    sizes = {name: int(kilobytes) for name, kilobytes in re.findall(r"^(\w+): +(\d+) kB", mine[0], re.MULTILINE)}
    assert sizes["Rss"] > 0
    assert sizes["Anonymous"] == 0, "copied for writing"
    assert isinstance(data.train.source, torch.Tensor)
    begin, end = (int(number, 16) for number in mine[0].split()[0].split("-"))
    assert begin <= data.train.source.data_ptr() < end


def test_parts_of_other_shapes_in_memory_are_made_contiguous(tmp_path: Path) -> None:
    """SVHN's arrays have their images along the last dimension."""
    (tmp_path / "a").write_text("published")
    images = torch.randint(256, (4, 5, 3, 6), dtype=torch.uint8).permute(3, 0, 1, 2)
    request = Request("some", "some", tmp_path, False)
    (part,), names = mapped.mapped(request, ["a"], lambda: ([(images, torch.arange(6))], ["x"]))
    assert names == ["x"]
    assert isinstance(part.source, torch.Tensor)
    assert part.source.is_contiguous()
    assert torch.equal(part.images, images)
