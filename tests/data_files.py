"""Writes small data sets of random images in exactly the published on-disk formats.

``own_checksums`` then makes torchvision take the files for the published ones: it checks their md5 sums as ever, but
against those the files have now.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

STL10_NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def _pixels(random: np.random.RandomState, *shape: int) -> npt.NDArray[np.uint8]:
    return random.randint(0, 256, shape).astype(np.uint8)


def _labels(random: np.random.RandomState, num_classes: int, per_class: int) -> npt.NDArray[np.int64]:
    return random.permutation(np.repeat(np.arange(num_classes), per_class))


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def write_cifar10(root: Path, per_class: int = 5, per_class_test: int = 2) -> None:
    """Five training batches; ``per_class`` is a multiple of 5 so that they are equal."""
    random = np.random.RandomState(0)
    folder = root / "cifar-10-batches-py"
    labels = _labels(random, 10, per_class)
    for number, part in enumerate(np.split(labels, 5), 1):
        batch = {"data": _pixels(random, len(part), 3072), "labels": part.tolist()}
        _pickle(folder / f"data_batch_{number}", batch)
    test = _labels(random, 10, per_class_test)
    _pickle(folder / "test_batch", {"data": _pixels(random, len(test), 3072), "labels": test.tolist()})
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    _pickle(folder / "batches.meta", {"label_names": names, "num_vis": 3072})


def write_cifar100(root: Path, per_class: int = 5, per_class_test: int = 2) -> None:
    random = np.random.RandomState(1)
    folder = root / "cifar-100-python"
    for name, count in (("train", per_class), ("test", per_class_test)):
        labels = _labels(random, 100, count)
        content = {"data": _pixels(random, len(labels), 3072), "fine_labels": labels.tolist()}
        _pickle(folder / name, {**content, "coarse_labels": (labels // 5).tolist()})
    _pickle(folder / "meta", {"fine_label_names": [f"class_{i}" for i in range(100)]})


def write_svhn(
    root: Path,
    train: tuple[int, ...] = (5, 14, 11, 9, 8, 7, 6, 6, 5, 5),
    extra: tuple[int, ...] = (9, 18, 15, 12, 11, 10, 8, 9, 7, 7),
    per_class_test: int = 2,
) -> None:
    """``train``, ``extra``: number of images of each digit. In the files the digit 0 has the label 10."""
    from scipy.io import savemat

    random = np.random.RandomState(2)
    root.mkdir(parents=True, exist_ok=True)
    for name, counts in (("train", train), ("extra", extra), ("test", (per_class_test,) * 10)):
        labels = random.permutation(np.repeat(np.arange(10), counts))
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(root / f"{name}_32x32.mat", {"X": _pixels(random, 32, 32, 3, len(labels)), "y": stored})


def write_stl10(root: Path, per_class: int = 3, per_class_test: int = 1) -> None:
    """96x96 bytes a channel, column by column, labels from 1."""
    random = np.random.RandomState(3)
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", per_class), ("test", per_class_test)):
        labels = _labels(random, 10, count)
        _pixels(random, len(labels), 3, 96, 96).tofile(folder / f"{name}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    _pixels(random, 2, 3, 96, 96).tofile(folder / "unlabeled_X.bin")
    (folder / "class_names.txt").write_text("\n".join(STL10_NAMES) + "\n")


def _image(random: np.random.RandomState, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(random, size, size, 3)).save(path, format="JPEG")


def wnid(label: int) -> str:
    return f"n{label + 1000:08d}"


def write_tiny_imagenet(root: Path, num_classes: int = 200, per_class: int = 1, per_class_test: int = 1) -> None:
    random = np.random.RandomState(4)
    folder = root / "tiny-imagenet-200"
    names = [wnid(label) for label in range(num_classes)]
    annotations = []
    for name in names:
        for number in range(per_class):
            _image(random, folder / "train" / name / "images" / f"{name}_{number}.JPEG", 64)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t63\t63\n")
        for _ in range(per_class_test):
            file = f"val_{len(annotations)}.JPEG"
            _image(random, folder / "val" / "images" / file, 64)
            annotations.append(f"{file}\t{name}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(random.permutation(annotations)))
    _image(random, folder / "test" / "images" / "test_0.JPEG", 64)
    (folder / "wnids.txt").write_text("".join(f"{name}\n" for name in random.permutation(names)))
    words = [f"{name}\tthing {label}, entity\n" for label, name in enumerate(names)]
    (folder / "words.txt").write_text("n00001740\tentity\n" + "".join(words))


def write_image_folder(folder: Path, num_classes: int = 3, per_class: int = 2, size: int = 64) -> None:
    """FOLDER/WNID/NAME.JPEG."""
    random = np.random.RandomState(5)
    for label in range(num_classes):
        for number in range(per_class):
            _image(random, folder / wnid(label) / f"{wnid(label)}_{number}.JPEG", size)


def write_imagenet_lt(root: Path, counts: tuple[int, ...] = (4, 2, 1), per_class_test: int = 1, size: int = 64) -> None:
    """The two lists and the images that they name; ``counts``: training images of each class."""
    random = np.random.RandomState(6)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, count in enumerate(counts):
        name = wnid(label)
        lists["train"] += [f"train/{name}/{name}_{number}.JPEG {label}\n" for number in range(count)]
        lists["test"] += [f"val/{name}/ILSVRC2012_val_{label}{i}.JPEG {label}\n" for i in range(per_class_test)]
    (root / "imagenet_lt").mkdir(parents=True, exist_ok=True)
    for split, lines in lists.items():
        (root / "imagenet_lt" / f"ImageNet_LT_{split}.txt").write_text("".join(lines))
        for line in lines:
            _image(random, root / "imagenet" / line.split()[0], size)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def own_checksums(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Makes torchvision expect the sums of those CIFAR, SVHN and STL-10 files that lie below ``root``."""
    from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

    for published in (CIFAR10, CIFAR100, STL10):
        folder = root / published.base_folder
        if not folder.is_dir():
            continue
        for attribute in ("train_list", "test_list"):
            names = [name for name, _ in getattr(published, attribute)]
            monkeypatch.setattr(published, attribute, [[name, md5(folder / name)] for name in names])
    for published in (CIFAR10, CIFAR100):
        meta = root / published.base_folder / published.meta["filename"]
        if meta.is_file():
            monkeypatch.setattr(published, "meta", {**published.meta, "md5": md5(meta)})
    if (root / "train_32x32.mat").is_file():
        sums = {name: [url, file, md5(root / file)] for name, (url, file, _) in SVHN.split_list.items()}
        monkeypatch.setattr(SVHN, "split_list", sums)
