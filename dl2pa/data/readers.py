"""One reader for each published data set: where its files lie, and what is in them. No long tail here."""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dl2pa.data.fetch import Request, open_published
from dl2pa.data.longtail import stratified_holdout
from dl2pa.data.mapped import Part, mapped
from dl2pa.data.split import Split
from dl2pa.errors import UserError

STL10_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
DIGITS = [str(digit) for digit in range(10)]

TINY_IMAGENET_SOURCE = "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there"
IMAGENET_SOURCE = "ImageNet (ILSVRC 2012) must be requested at https://image-net.org/download-images"
IMAGENET_LT_SOURCE = "the lists are in the repository facebookresearch/classifier-balancing, data/ImageNet_LT"


@dataclass(frozen=True)
class Source:
    """A data set as published.

    ``train``: its training splits, each made long-tailed on its own; ``longtail``: it is long-tailed as it stands.
    """

    train: Sequence[Split]
    test: Split
    class_names: list[str]
    longtail: bool = False


def _part(images: npt.NDArray[np.uint8], labels: Any) -> Part:
    return torch.from_numpy(images), torch.as_tensor(np.asarray(labels, dtype=np.int64))


def read_digits(request: Request) -> Source:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8x1, 0..16 stretched to 0..240.

    They have no published split: a fixed stratified 500 are the test set. (Read from their file: load_digits gives the
    same after a second of imports.)
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        table = np.loadtxt(str(path), delimiter=",", dtype=np.int64)
    except OSError as error:
        raise UserError(
            f"digits: {path} cannot be read ({error.strerror or error}): install scikit-learn anew"
        ) from error
    images, labels = table[:, :-1], table[:, -1]
    everything = Split(*_part((images.reshape(-1, 8, 8, 1) * 15).astype(np.uint8), labels))
    train, test = stratified_holdout(everything.labels.numpy(), 500 / len(everything), seed=0)
    return Source([everything.subset(train)], everything.subset(test), DIGITS)


def _read_cifar(request: Request, published: str, folder: str, names: Sequence[str]) -> Source:
    def read() -> tuple[list[Part], list[str]]:
        data = getattr(importlib.import_module("torchvision.datasets"), published)
        listed = [*data.train_list, *data.test_list, (data.meta["filename"], data.meta["md5"])]
        train, test = open_published(
            request,
            [(f"{data.base_folder}/{name}", md5) for name, md5 in listed],
            lambda download: (data(request.root, train=True, download=download), data(request.root, train=False)),
        )
        return [_part(train.data, train.targets), _part(test.data, test.targets)], list(train.classes)

    (train, test), class_names = mapped(request, [f"{folder}/{name}" for name in names], read)
    return Source([train], test, class_names)


def read_cifar10(request: Request) -> Source:
    """DATA_ROOT/cifar-10-batches-py, 32x32."""
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    return _read_cifar(request, "CIFAR10", "cifar-10-batches-py", batches)


def read_cifar100(request: Request) -> Source:
    """DATA_ROOT/cifar-100-python, 32x32, the fine labels."""
    return _read_cifar(request, "CIFAR100", "cifar-100-python", ["train", "test", "meta"])


def read_svhn(request: Request) -> Source:
    """DATA_ROOT/{train,extra,test}_32x32.mat, 32x32. Training is train and extra, label = digit."""
    names = ("train", "extra", "test")

    def read() -> tuple[list[Part], list[str]]:
        from torchvision.datasets import SVHN

        found = open_published(
            request,
            [SVHN.split_list[name][1:] for name in names],
            lambda download: [SVHN(request.root, split=name, download=download) for name in names],
        )
        return [_part(part.data.transpose(0, 2, 3, 1), part.labels) for part in found], DIGITS

    (train, extra, test), class_names = mapped(request, [f"{name}_32x32.mat" for name in names], read)
    return Source([train, extra], test, class_names)


def read_stl10(request: Request) -> Source:
    """DATA_ROOT/stl10_binary, 96x96, the labelled images alone: 5,000 for training and 8,000 for testing."""

    def read() -> tuple[list[Part], list[str]]:
        from torchvision.datasets import STL10

        found = open_published(
            request,
            [(f"{STL10.base_folder}/{name}", md5) for name, md5 in [*STL10.train_list, *STL10.test_list]],
            lambda download: (
                STL10(request.root, split="train", download=download),
                STL10(request.root, split="test"),
            ),
        )
        return [_part(part.data.transpose(0, 2, 3, 1), part.labels) for part in found], STL10_CLASSES

    files = [f"stl10_binary/{split}_{kind}.bin" for split in ("train", "test") for kind in ("X", "y")]
    (train, test), class_names = mapped(request, files, read)
    return Source([train], test, class_names)


def read_imagenet200(request: Request) -> Source:
    """DATA_ROOT/tiny-imagenet-200, 64x64, labels in the order of the sorted class folders.

    Either as published (train/WNID/images, val/images with val_annotations.txt, whose labelled validation images are
    the test set) or as plain folders train/CLASS and test/CLASS. Classes are named by words.txt where it is there,
    else by their folders.
    """
    root = request.root / "tiny-imagenet-200"
    train, classes = _read_folder(request, root / "train", TINY_IMAGENET_SOURCE)
    listed = root / "wnids.txt"
    absent = sorted(set(listed.read_text().split()) - set(classes)) if listed.is_file() else []
    if absent:
        raise UserError(f"{request.name}: {root / 'train' / absent[0]} is missing, though {listed} lists it")
    if (root / "val" / "val_annotations.txt").is_file():
        test = _read_annotations(request, root / "val", classes)
    else:
        test, test_classes = _read_folder(request, root / "test", TINY_IMAGENET_SOURCE)
        _same_classes(request, root / "train", classes, root / "test", test_classes)
    return Source([train], test, _words(root / "words.txt", classes))


def _read_annotations(request: Request, folder: Path, classes: list[str]) -> Split:
    """The validation images of Tiny-ImageNet: lines of FILE, WNID and a box, separated by tabs."""
    index = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for place, line in _lines(folder / "val_annotations.txt"):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in index:
            raise UserError(f"{request.name}: {place}: no training class {wnid!r}")
        paths.append(str(folder / "images" / name))
        labels.append(index[wnid])
    _require(request, paths)
    return Split(paths, torch.tensor(labels, dtype=torch.int64))


def _words(path: Path, classes: list[str]) -> list[str]:
    if not path.is_file():
        return classes
    words = dict(line.split("\t", 1) for _, line in _lines(path) if "\t" in line)
    return [words.get(name, name) for name in classes]


def read_imagenet(request: Request) -> Source:
    """DATA_ROOT/imagenet/train/WNID and DATA_ROOT/imagenet/val/WNID; the validation images are the test set."""
    root = request.root / "imagenet"
    train, classes = _read_folder(request, root / "train", IMAGENET_SOURCE)
    test, test_classes = _read_folder(request, root / "val", IMAGENET_SOURCE)
    _same_classes(request, root / "train", classes, root / "val", test_classes)
    return Source([train], test, classes)


def read_imagenet_lt(request: Request) -> Source:
    """DATA_ROOT/imagenet_lt/ImageNet_LT_{train,test}.txt, images below DATA_ROOT/imagenet.

    Lines are "train/WNID/NAME.JPEG LABEL" and "val/WNID/NAME.JPEG LABEL" (Liu et al., CVPR 2019); labels are in the
    order of the WNIDs, not of the counts.
    """
    lists = request.root / "imagenet_lt"
    train = _read_list(request, lists / "ImageNet_LT_train.txt")
    test = _read_list(request, lists / "ImageNet_LT_test.txt")
    classes = [str(label) for label in range(int(train.labels.max()) + 1)]
    for path, label in zip(train.paths, train.labels.tolist(), strict=True):
        classes[label] = Path(path).parent.name
    return Source([train], test, classes, longtail=True)


def _read_list(request: Request, path: Path) -> Split:
    if not path.is_file():
        raise UserError(f"{request.name}: {path} not found; {IMAGENET_LT_SOURCE}; {IMAGENET_SOURCE}")
    paths, labels = [], []
    for place, line in _lines(path):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"{request.name}: {place}: expected 'PATH LABEL', found {line!r}")
        paths.append(str(request.root / "imagenet" / name))
        labels.append(int(label))
    if not paths:
        raise UserError(f"{request.name}: {path} lists no image")
    _require(request, paths)
    return Split(paths, torch.tensor(labels, dtype=torch.int64))


def _lines(path: Path) -> list[tuple[str, str]]:
    """(PATH:NUMBER, text) of each line that is not blank."""
    text = path.read_text(encoding="utf-8").splitlines()
    return [(f"{path}:{number}", line.rstrip()) for number, line in enumerate(text, 1) if line.strip()]


def _read_folder(request: Request, folder: Path, source: str) -> tuple[Split, list[str]]:
    """Every image below FOLDER/CLASS, classes in sorted order."""
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise UserError(f"{request.name}: no folder {folder} with one folder of images a class; {source}")
    try:
        found = ImageFolder(str(folder))
    except OSError as error:  # torchvision: no class folder, or one without an image; or a folder that is unreadable
        raise UserError(f"{request.name}: {folder}: {' '.join(str(error).split())[:200]}; {source}") from error
    return Split([path for path, _ in found.samples], torch.tensor(found.targets, dtype=torch.int64)), found.classes


def _same_classes(request: Request, train: Path, in_train: list[str], test: Path, in_test: list[str]) -> None:
    different = sorted(set(in_train) ^ set(in_test))
    if different:
        raise UserError(
            f"{request.name}: {len(different)} classes are in only one of {train} and {test}, "
            f"the first is {different[0]}"
        )


def _require(request: Request, paths: list[str]) -> None:
    """One listing a folder: 166,000 single look-ups would take minutes on a network file system."""
    there: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in there:
            there[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in there[folder]:
            raise UserError(f"{request.name}: {path} is missing, though it is listed")


READERS: dict[str, Callable[[Request], Source]] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "imagenet200": read_imagenet200,
    "imagenet": read_imagenet,
    "imagenet_lt": read_imagenet_lt,
}
