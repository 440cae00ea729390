"""CIFAR-100's superclasses, and the prototypes that know nothing else."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dl2pa.data.superclasses import superclasses
from dl2pa.errors import UserError
from dl2pa.prototypes.build import build

PARENTS = torch.from_numpy(superclasses("cifar100"))
SIBLINGS = (PARENTS[:, None] == PARENTS[None, :]) & ~torch.eye(100, dtype=torch.bool)


def test_superclasses_are_the_coarse_labels_of_the_published_file(real_cifar: Path) -> None:
    with (real_cifar / "cifar-100-python" / "test").open("rb") as stream:
        published = pickle.load(stream, encoding="latin1")
    np.testing.assert_array_equal(superclasses("cifar100")[published["fine_labels"]], published["coarse_labels"])


def test_at_full_dimension_the_tree_is_exact() -> None:
    """Squared distances of 4 and 16; half their mean over all pairs, 7.68, is the squared radius."""
    points = build(100, 99, "label_tree", 0, words="cifar100")
    cosines = points @ points.T
    torch.testing.assert_close(cosines[SIBLINGS], torch.full((400,), 1 - 2 / 7.68), atol=1e-4, rtol=0)
    others = ~SIBLINGS & ~torch.eye(100, dtype=torch.bool)
    torch.testing.assert_close(cosines[others], torch.full((9500,), 1 - 8 / 7.68), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dimension", [20, 50])
def test_siblings_are_near_and_the_seed_chooses_how(dimension: int) -> None:
    points = build(100, dimension, "label_tree", 0, words="cifar100")
    cosines = points @ points.T
    assert cosines[SIBLINGS].mean() > 0.8
    assert len(torch.unique(points, dim=0)) == 100
    assert abs(float(cosines[~SIBLINGS].mean())) < 0.05
    other = build(100, dimension, "label_tree", 1, words="cifar100")
    assert not torch.allclose(other @ other.T, cosines, atol=1e-2)


@pytest.mark.parametrize(
    ("num_classes", "dimension", "words", "message"),
    [
        (100, 19, "cifar100", "takes 20 to 99"),
        (100, 100, "cifar100", "takes 20 to 99"),
        (10, 20, "cifar10", "words=cifar10: no superclasses are known for it, only for cifar100"),
        (10, 20, None, "words=null: no superclasses"),
        (10, 20, "cifar100", "has 100 classes, not num_classes=10"),
    ],
)
def test_where_there_is_no_tree(num_classes: int, dimension: int, words: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(num_classes, dimension, "label_tree", 0, words=words)
