import ast
import pickle
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import (
    md5,
    own_checksums,
    wnid,
    write_cifar10,
    write_cifar100,
    write_image_folder,
    write_imagenet_lt,
    write_stl10,
    write_svhn,
    write_tiny_imagenet,
)

from dl2pa.data import fetch
from dl2pa.data.datasets import Data, load
from dl2pa.data.fetch import Request
from dl2pa.data.longtail import class_counts
from dl2pa.data.split import Split, concatenate
from dl2pa.errors import UserError


def read(name: str, root: Path, num_classes: int, **changes: Any) -> Data:
    options = {"imbalance": None, "holdout": 0.0, "download": False, "data_root": root, **changes}
    return load(name, num_classes=num_classes, **options)


def counts(split: Split) -> list[int]:
    return torch.bincount(split.labels).tolist()


def refused(name: str, root: Path, num_classes: int, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(name, root, num_classes, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_digits(tmp_path: Path) -> None:
    data = read("digits", tmp_path, 10)
    assert (len(data.train), len(data.test), data.holdout) == (1297, 500, None)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape == (1297, 8, 8, 1)
    assert int(data.train.images.max()) == 240
    assert counts(data.test) == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    assert data.class_names == list("0123456789")
    again = read("digits", tmp_path, 10)
    assert torch.equal(again.test.images, data.test.images)


def test_images_are_held_out_before_the_tail_is_cut(tmp_path: Path) -> None:
    data = read("digits", tmp_path, 10, imbalance=0.1, holdout=0.2)
    assert data.holdout is not None
    available = np.array(counts(read("digits", tmp_path, 10).train))
    held_out = np.floor(available * 0.2 + 0.5).astype(int)
    assert counts(data.holdout) == held_out.tolist(), "as many of a rare class as there are, not of its tail"
    wanted = class_counts(1297 - held_out.sum(), 10, 0.1)
    assert counts(data.train) == np.minimum(wanted, available - held_out).tolist()
    pixels = {image.numpy().tobytes() for image in data.holdout.images}
    assert not pixels & {image.numpy().tobytes() for image in data.train.images}
    assert len(data.test) == 500


def test_cifar10_pixels_labels_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    data = read("cifar10", tmp_path, 10)
    assert counts(data.train) == [5] * 10
    assert counts(data.test) == [2] * 10
    assert data.class_names[1] == "automobile"
    with (tmp_path / "cifar-10-batches-py" / "data_batch_1").open("rb") as file:
        batch = pickle.load(file)
    assert data.train.labels[:10].tolist() == batch["labels"]
    channels, rows, columns = np.unravel_index([5, 1024 + 40, 3071], (3, 32, 32))
    for place, c, y, x in zip([5, 1024 + 40, 3071], channels, rows, columns, strict=True):
        assert int(data.train.images[3, y, x, c]) == batch["data"][3, place]


def test_cifar100_has_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    data = read("cifar100", tmp_path, 100)
    assert counts(data.train) == [5] * 100
    assert data.class_names[99] == "class_99"


def test_svhn_makes_train_and_extra_longtailed_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, extra = (5, 14, 11, 9, 8, 7, 6, 6, 5, 5), (9, 18, 15, 12, 11, 10, 8, 9, 7, 7)
    write_svhn(tmp_path, train, extra)
    own_checksums(monkeypatch, tmp_path)
    wanted = [np.minimum(class_counts(sum(part), 10, 0.5), part) for part in (train, extra)]
    fixed = read("svhn", tmp_path, 10, imbalance=0.5)
    assert counts(fixed.train) == np.add(*wanted).tolist()
    assert fixed.train.labels.tolist() == np.concatenate([np.repeat(np.arange(10), part) for part in wanted]).tolist()
    shifted = read("svhn", tmp_path, 10, imbalance=0.5, label_alignment="shifted")
    assert torch.equal(shifted.train.images, fixed.train.images)
    assert (shifted.train.labels <= fixed.train.labels).sum() > 0
    wrong = [np.repeat(np.arange(10), class_counts(sum(part), 10, 0.5)) for part in (train, extra)]
    lengths = [int(part.sum()) for part in wanted]
    expected = np.concatenate([part[:length] for part, length in zip(wrong, lengths, strict=True)])
    assert shifted.train.labels.tolist() == expected.tolist() != fixed.train.labels.tolist()


def test_svhn_images_are_upright_and_ten_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import loadmat

    write_svhn(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    data = read("svhn", tmp_path, 10)
    stored = loadmat(tmp_path / "train_32x32.mat")
    assert data.train.images.is_contiguous()
    assert torch.equal(data.train.images[7], torch.from_numpy(stored["X"][:, :, :, 7]))
    assert data.train.labels[:76].tolist() == (stored["y"][:, 0] % 10).tolist()
    assert counts(data.train) == [14, 32, 26, 21, 19, 17, 14, 15, 12, 12]


def test_stl10_is_native_size_and_labelled_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    data = read("stl10", tmp_path, 10)
    assert data.train.images.shape == (30, 96, 96, 3)
    assert counts(data.train) == [3] * 10
    stored = np.fromfile(tmp_path / "stl10_binary" / "train_X.bin", dtype=np.uint8).reshape(30, 3, 96, 96)
    assert int(data.train.images[2, 10, 20, 1]) == stored[2, 1, 20, 10]
    assert data.class_names == (tmp_path / "stl10_binary" / "class_names.txt").read_text().split()


def test_imagenet200_as_published(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, num_classes=4, per_class=3, per_class_test=2)
    data = read("imagenet200", tmp_path, 4)
    assert counts(data.train) == [3] * 4
    assert counts(data.test) == [2] * 4
    assert data.class_names[2] == "thing 2, entity"
    for path, label in zip(data.train.paths, data.train.labels.tolist(), strict=True):
        assert f"/{wnid(label)}/images/" in path
    annotations = (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").read_text().splitlines()
    truth = dict(line.split("\t")[:2] for line in annotations)
    for path, label in zip(data.test.paths, data.test.labels.tolist(), strict=True):
        assert truth[Path(path).name] == wnid(label)
    longtail = read("imagenet200", tmp_path, 4, imbalance=0.4)
    assert counts(longtail.train) == [3, 2, 1, 1]


def test_imagenet200_as_plain_folders(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "tiny-imagenet-200" / "train", num_classes=3, per_class=2)
    write_image_folder(tmp_path / "tiny-imagenet-200" / "test", num_classes=3, per_class=1)
    data = read("imagenet200", tmp_path, 3)
    assert (counts(data.train), counts(data.test)) == ([2] * 3, [1] * 3)
    assert data.class_names == [wnid(0), wnid(1), wnid(2)]


def test_imagenet200_half_unpacked(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, num_classes=3)
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images" / "val_1.JPEG").unlink()
    assert "val_1.JPEG is missing" in refused("imagenet200", tmp_path, 3)
    (root / "wnids.txt").write_text("n12345678\n")
    assert "n12345678 is missing" in refused("imagenet200", tmp_path, 3)


def test_imagenet(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "imagenet" / "train", num_classes=3, per_class=4)
    write_image_folder(tmp_path / "imagenet" / "val", num_classes=3, per_class=1)
    data = read("imagenet", tmp_path, 3, holdout=0.25)
    assert data.holdout is not None
    assert (counts(data.train), counts(data.holdout), counts(data.test)) == ([3] * 3, [1] * 3, [1] * 3)
    assert not set(data.train.paths) & set(data.holdout.paths)


def test_imagenet_folders_that_differ(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "imagenet" / "train", num_classes=3)
    write_image_folder(tmp_path / "imagenet" / "val", num_classes=2)
    assert f"the first is {wnid(2)}" in refused("imagenet", tmp_path, 3)


def test_imagenet_class_without_images(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "imagenet" / "train", num_classes=3)
    (tmp_path / "imagenet" / "train" / "n99999999").mkdir()
    assert "n99999999" in refused("imagenet", tmp_path, 3)


def test_imagenet_lt(tmp_path: Path) -> None:
    write_imagenet_lt(tmp_path, counts=(4, 2, 1))
    data = read("imagenet_lt", tmp_path, 3)
    assert (counts(data.train), counts(data.test)) == ([4, 2, 1], [1, 1, 1])
    assert data.class_names == [wnid(0), wnid(1), wnid(2)]
    assert all(Path(path).is_file() for path in [*data.train.paths, *data.test.paths])
    assert "long-tailed as published" in refused("imagenet_lt", tmp_path, 3, imbalance=0.1)


def test_imagenet_lt_with_bad_lists(tmp_path: Path) -> None:
    assert "ImageNet_LT_train.txt not found" in refused("imagenet_lt", tmp_path, 3)
    write_imagenet_lt(tmp_path)
    listed = tmp_path / "imagenet_lt" / "ImageNet_LT_test.txt"
    good = listed.read_text()
    listed.write_text(good + "val/n0/x.JPEG 7\n")
    assert "x.JPEG is missing" in refused("imagenet_lt", tmp_path, 3)
    listed.write_text(good + "val/n0/x.JPEG\n")
    assert "ImageNet_LT_test.txt:4: expected 'PATH LABEL'" in refused("imagenet_lt", tmp_path, 3)
    listed.write_text(good.replace("JPEG 2", "JPEG 3"))
    assert "found the label 3, expected 0 to 2" in refused("imagenet_lt", tmp_path, 3)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cifar10", ["7 of 7 files", "cifar-10-batches-py/data_batch_1", "dataset=cifar10 download=true data_root="]),
        ("cifar100", ["3 of 3 files", "cifar-100-python/train", "dataset=cifar100 download=true"]),
        ("svhn", ["3 of 3 files", "extra_32x32.mat", "download=true"]),
        ("stl10", ["5 of 5 files", "stl10_binary/train_X.bin", "download=true"]),
        ("imagenet200", ["tiny-imagenet-200/train", "tiny-imagenet-200.zip"]),
        ("imagenet", ["imagenet/train", "image-net.org"]),
        ("imagenet_lt", ["ImageNet_LT_train.txt", "image-net.org"]),
    ],
)
def test_missing_data_says_what_and_where(name: str, wanted: list[str], tmp_path: Path) -> None:
    message = refused(name, tmp_path, 10)
    assert [part for part in [str(tmp_path), *wanted] if part not in message] == []


def test_the_command_names_the_longtail_option(tmp_path: Path) -> None:
    assert "dataset=svhn_lt download=true" in refused("svhn", tmp_path, 10, imbalance=0.01)


def test_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    message = refused("cifar10", tmp_path, 10)
    assert f"{batch} is damaged or incomplete" in message
    assert "download=true" in message


def test_files_that_another_process_has_just_completed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("whole")

    def construct(download: bool) -> None:
        raise RuntimeError("Dataset not found or corrupted")

    with pytest.raises(UserError, match="complete only after a moment; start again"):
        fetch.open_published(Request("x", "x", tmp_path, False), [("a", md5(tmp_path / "a"))], construct)


def test_files_are_checked_against_the_published_sums(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    assert "data_batch_1 is damaged" in refused("cifar10", tmp_path, 10)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """torchvision downloads a small CIFAR-10 from a server here; yields the folders it was downloaded to so far."""
    from torchvision.datasets import CIFAR10, cifar

    folder = tmp_path / "served"
    write_cifar10(folder)
    own_checksums(monkeypatch, folder)
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)
    real, downloads = cifar.download_and_extract_archive, []

    def download(url: str, root: Path, **options: Any) -> None:
        downloads.append(root)
        real(url, root, **options)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield downloads
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_happens_once_for_two_at_a_time(
    tmp_path: Path, served_cifar10: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    both_found_nothing = threading.Barrier(2)

    @contextmanager
    def lock_when_both_are_here(request: Request) -> Iterator[None]:
        both_found_nothing.wait(timeout=60)
        with lock(request):
            yield

    lock = fetch._lock
    monkeypatch.setattr(fetch, "_lock", lock_when_both_are_here)
    root = tmp_path / "new" / "here"
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(read, "cifar10", root, 10, download=True) for _ in range(2)]
        results = [future.result(timeout=60) for future in waiting]
    assert [counts(data.train) for data in results] == [[5] * 10] * 2
    assert len(served_cifar10) == 1


def test_download_repairs_a_damaged_file(tmp_path: Path, served_cifar10: list[Path]) -> None:
    write_cifar10(tmp_path / "here", per_class=10)
    assert counts(read("cifar10", tmp_path / "here", 10, download=True).train) == [5] * 10
    assert len(served_cifar10) == 1


@pytest.mark.usefixtures("served_cifar10")
def test_downloaded_archive_that_is_not_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    assert "(tried here: File not found or corrupted.)" in refused("cifar10", tmp_path / "here", 10, download=True)


def test_no_lock_where_the_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    own_checksums(monkeypatch, tmp_path)
    before = set(tmp_path.rglob("*"))
    read("cifar10", tmp_path, 10, download=True)
    written = {path for path in set(tmp_path.rglob("*")) - before if path.suffix != ".lock"}
    assert not (tmp_path / ".cifar10.lock").exists()
    assert written == {tmp_path / "mapped", *(tmp_path / "mapped").glob("cifar10-*.pt")}
    assert len(written) == 2


def test_download_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = refused("cifar10", tmp_path, 10, download=True)
    assert "7 of 7 files not found" in message
    assert "dataset=cifar10 download=true" in message
    assert "refused" in message


def test_data_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused("cifar10", tmp_path / "file", 10)
    below = tmp_path / "file" / "data"
    assert f"data_root={below}: cannot write there" in refused("cifar10", below, 10, download=True)
    assert "no folder" in refused("imagenet", tmp_path / "file", 10)


def test_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def deny(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", "data_batch_1")

    monkeypatch.setattr(CIFAR10, "_check_integrity", deny)
    assert "cannot be read ([Errno 13] Permission denied: 'data_batch_1')" in refused("cifar10", tmp_path, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mnist"}, "not one of digits, cifar10"),
        ({"num_classes": 7}, "num_classes=7: digits as found on disk has 10 classes (0, 1, 2, ...)"),
        ({"imbalance": 0.001}, "imbalance=0.001: leaves class 7 of digits without"),
    ],
)
def test_values_that_do_not_fit_the_data(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refused(**{"name": "digits", "root": tmp_path, "num_classes": 10, **changes})


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "data") in refused("cifar10", Path("~/data"), 10)


def test_splits_join_and_subset() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 2, 2, 3)
    split = Split(images, torch.arange(4))
    chosen = split.subset(np.array([3, 1, 2])).subset(np.array([0, 1]))
    assert chosen.source is images
    both = concatenate([split, chosen])
    for part, expected in ((chosen, [3, 1]), (both, [0, 1, 2, 3, 3, 1])):
        assert (part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), len(part)) == (
            expected,
            expected,
            len(expected),
        )
        assert part.take(torch.tensor([1, 0]))[:, 0, 0, 0].tolist() == expected[1::-1]
    files = Split(["a", "b"], torch.tensor([0, 1]))
    assert concatenate([files, files.subset(np.array([1]))]).paths == ["a", "b", "b"]


def test_real_cifar_has_the_published_longtail_counts(real_cifar: Path) -> None:
    ten = read("cifar10", real_cifar, 10, imbalance=0.01)
    assert (len(ten.train), len(ten.test)) == (12406, 10000)
    assert counts(ten.train) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert ten.class_names[:3] == ["airplane", "automobile", "bird"]
    hundred = read("cifar100", real_cifar, 100, imbalance=0.01)
    assert (len(hundred.train), len(hundred.test)) == (10847, 10000)
    assert hundred.class_names[:2] == ["apple", "aquarium_fish"]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    modules = sorted(Path(fetch.__file__).parent.glob("*.py"))
    assert len(modules) > 5
    for module in modules:
        top = [node for node in ast.parse(module.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        imported = " ".join(ast.unparse(node) for node in top)
        assert [name for name in ("torchvision", "sklearn", "scipy", "PIL") if name in imported] == [], module
