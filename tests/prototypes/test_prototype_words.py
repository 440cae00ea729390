"""Word vectors: whose rows are whose, a user's own files, and what becomes of them in d dimensions."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED_DATA

from dl2pa.data.readers import STL10_CLASSES
from dl2pa.errors import UserError
from dl2pa.prototypes.build import build
from dl2pa.prototypes.words import class_words, shipped, word_vectors

GLOVE = SHARED_DATA / "wordvectors" / "glove_100d.npz"
TINY_IMAGENET = SHARED_DATA / "tiny-imagenet-200-sample.tar.xz"
SVHN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIZES = {"digits": 10, "svhn": 10, "cifar10": 10, "stl10": 10, "cifar100": 100, "imagenet200": 200}


def row(name: str, *words: str) -> np.ndarray:
    return shipped(name)[class_words(name).index(list(words))]


@pytest.mark.parametrize(("name", "num_classes"), SIZES.items())
def test_shipped_vectors(name: str, num_classes: int) -> None:
    assert word_vectors(name, num_classes).shape == (num_classes, 100)
    assert len(class_words(name)) == num_classes
    assert len(np.unique(shipped(name), axis=0)) == num_classes


def test_one_word_has_one_vector_in_every_data_set() -> None:
    """The rows were made for each data set by itself, so this shows that each is where its name is."""
    known = {name: [" ".join(words) for words in class_words(name)] for name in SIZES}
    for one, other, shared in [("cifar10", "stl10", 8), ("cifar100", "imagenet200", 10)]:
        common = set(known[one]) & set(known[other])
        assert len(common) == shared
        for word in common:
            np.testing.assert_array_equal(
                shipped(one)[known[one].index(word)], shipped(other)[known[other].index(word)]
            )


def test_label_order_is_that_of_the_readers() -> None:
    assert [" ".join(words) for words in class_words("stl10")] == STL10_CLASSES
    assert class_words("digits") == [[w] for w in SVHN]


def test_names_are_those_of_the_published_files(real_cifar: Path) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, published in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        names = published(real_cifar, train=False).classes
        assert ["_".join(words) for words in class_words(name)] == names


@pytest.mark.skipif(not TINY_IMAGENET.is_file(), reason="no ../shared/data beside the repository")
def test_tiny_imagenet_is_in_the_order_of_its_sorted_folders() -> None:
    from dl2pa.prototypes.words import _archive

    with tarfile.open(TINY_IMAGENET) as archive:
        texts = {}
        for member in archive:
            if member.name.endswith(("/wnids.txt", "/words.txt")):
                texts[Path(member.name).name] = archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            if len(texts) == 2:
                break
    listed = texts["wnids.txt"].split()
    words = dict(line.split("\t", 1) for line in texts["words.txt"].splitlines())
    assert listed != sorted(listed)
    assert _archive()["imagenet200_wnids"].tolist() == sorted(listed)
    assert _archive()["imagenet200_names"].tolist() == [words[wnid].split(",")[0] for wnid in sorted(listed)]
    by_wnid = dict(zip(listed, np.load(GLOVE)["tinyimagenet"], strict=True))
    np.testing.assert_array_equal(shipped("imagenet200"), np.stack([by_wnid[wnid] for wnid in sorted(listed)]))
    assert listed[0] == "n02124075"  # Egyptian cat
    np.testing.assert_array_equal(row("imagenet200", "egyptian", "cat"), by_wnid["n02124075"])


def glove(path: Path, words: set[str], header: str = "") -> Path:
    """A text of made-up vectors: the word's letters summed up, and their number."""
    lines = [f"{word} {sum(map(ord, word))} {len(word)} 1" for word in sorted(words)]
    path.write_text(header + "\n".join(lines) + "\nunrelated 1 2 3\n")
    return path


@pytest.mark.parametrize(("suffix", "header"), [(".txt", ""), (".vec", "118 3\n")])
def test_a_text_is_looked_up_by_class_name(tmp_path: Path, suffix: str, header: str) -> None:
    words = {word for name in class_words("cifar100") for word in name}
    found = word_vectors("cifar100", 100, str(glove(tmp_path / f"vectors{suffix}", words, header)))
    lion, maple_tree = found[43], found[47]
    np.testing.assert_array_equal(lion, [sum(map(ord, "lion")), 4, 1])
    np.testing.assert_array_equal(maple_tree, [(sum(map(ord, "maple")) + sum(map(ord, "tree"))) / 2, 4.5, 1])


def test_what_is_wrong_with_a_text(tmp_path: Path) -> None:
    words = {word for name in class_words("cifar100") for word in name} - {"maple", "lion"}
    with pytest.raises(UserError, match=r"has no vector for lion, maple$"):
        word_vectors("cifar100", 100, str(glove(tmp_path / "a.txt", words)))
    (tmp_path / "b.txt").write_text("zero 1 2 three\n")
    with pytest.raises(UserError, match="line 1: 'zero' is not followed by numbers"):
        word_vectors("svhn", 10, str(tmp_path / "b.txt"))
    (tmp_path / "c.txt").write_text(
        "".join(f"{name[0]} {'1 ' * (2 + n)}\n" for n, name in enumerate(class_words("svhn")))
    )
    with pytest.raises(UserError, match="differ in length"):
        word_vectors("svhn", 10, str(tmp_path / "c.txt"))
    with pytest.raises(UserError, match="no such file"):
        word_vectors("svhn", 10, str(tmp_path / "absent.txt"))
    with pytest.raises(UserError, match="words=imagenet: no class names are known"):
        word_vectors("imagenet", 1000, str(tmp_path / "c.txt"))
    with pytest.raises(UserError, match="key=x"):
        word_vectors("svhn", 10, str(tmp_path / "c.txt"), "x")


def test_rows_in_label_order_need_no_names(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5))
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", mine=rows, other=-rows)
    np.testing.assert_array_equal(word_vectors("nowhere", 7, str(tmp_path / "rows.npy")), rows)
    np.testing.assert_array_equal(word_vectors(None, 7, str(tmp_path / "rows.npz"), "mine"), rows)
    with pytest.raises(UserError, match="vectors for 7 classes, not num_classes=8"):
        word_vectors(None, 8, str(tmp_path / "rows.npy"))
    rows[3] = 0
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(UserError, match="class 3 is zero"):
        word_vectors(None, 7, str(tmp_path / "rows.npy"))


def test_no_words_are_told_apart_from_too_few_classes() -> None:
    with pytest.raises(UserError, match="words=imagenet: no class names are known for it, only for digits"):
        build(1000, 50, "semantic", 0, words="imagenet")
    with pytest.raises(UserError, match="words=null"):
        build(10, 5, "semantic", 0)
    with pytest.raises(UserError, match="words=cifar10: has vectors for 10 classes, not num_classes=100"):
        build(100, 5, "semantic", 0, words="cifar10")


def cosines(rows: torch.Tensor | np.ndarray) -> torch.Tensor:
    unit = torch.nn.functional.normalize(torch.as_tensor(rows).double(), dim=1)
    return unit @ unit.T


def test_pca_at_full_rank_keeps_every_cosine() -> None:
    """d = C: centred vectors span no more than C - 1, so these are not centred."""
    found = build(100, 100, "semantic", 0, words="cifar100")
    torch.testing.assert_close(cosines(found), cosines(shipped("cifar100")), atol=1e-5, rtol=0)


def test_pca_below_is_centred_and_keeps_most_of_the_variance() -> None:
    unit = torch.nn.functional.normalize(torch.from_numpy(shipped("cifar100")), dim=1)
    centred = unit - unit.mean(dim=0)
    torch.testing.assert_close(
        cosines(build(100, 99, "semantic", 0, words="cifar100")), cosines(centred), atol=1e-5, rtol=0
    )
    _, _, axes = torch.linalg.svd(centred)
    found = build(100, 10, "semantic", 0, words="cifar100")
    torch.testing.assert_close(cosines(found), cosines(centred @ axes[:10].T), atol=1e-5, rtol=0)


def test_mds_finds_points_whose_distances_are_the_angles() -> None:
    """Ten angles between words can be had as distances in nine dimensions; before they are made unit vectors."""
    from dl2pa.prototypes.reduce import rank, reduced

    unit = torch.nn.functional.normalize(torch.from_numpy(shipped("cifar10")), dim=1).numpy()
    assert rank(unit, "mds") == 9
    points = reduced(unit, 9, "mds", np.random.default_rng(0))
    angles = np.arccos(np.clip(unit @ unit.T, -1, 1))
    distances = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    np.testing.assert_allclose(distances, angles - np.diag(np.diag(angles)), atol=1e-8)


@pytest.mark.parametrize("method", ["pca", "mds", "random_projection"])
def test_any_reduction_keeps_cat_near_dog(method: str) -> None:
    found = cosines(build(10, 8, "semantic", 0, words="cifar10", reduce=method))
    cat, dog, ship = 3, 5, 8
    assert found[cat, dog] > found[cat, ship] + 0.2


def test_the_seed_draws_the_projection_and_nothing_else() -> None:
    drawn = [build(10, 5, "semantic", seed, words="cifar10", reduce="random_projection") for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], atol=1e-2)
    assert torch.equal(build(10, 5, "semantic", 0, words="cifar10"), build(10, 5, "semantic", 1, words="cifar10"))


@pytest.mark.parametrize(
    ("words", "num_classes", "method", "rank"),
    [("cifar10", 10, "pca", 10), ("cifar10", 10, "mds", 9), ("imagenet200", 200, "random_projection", 100)],
)
def test_a_dimension_above_the_rank_is_refused(words: str, num_classes: int, method: str, rank: int) -> None:
    assert build(num_classes, rank, "semantic", 0, words=words, reduce=method).shape == (num_classes, rank)
    with pytest.raises(UserError, match=f"rank {rank} with reduce={method}; use dimension <= {rank}"):
        build(num_classes, rank + 1, "semantic", 0, words=words, reduce=method)
