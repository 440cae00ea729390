from itertools import pairwise

import numpy as np
import pytest

from dl2pa.data.longtail import class_counts, longtail_indices, shifted_labels, stratified_holdout

SVHN_TRAIN = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]
SVHN_EXTRA = [45550, 90560, 74740, 60765, 53490, 49013, 41582, 43997, 35358, 36076]


@pytest.mark.parametrize(
    ("num_images", "imbalance", "expected"),
    [
        (50000, 0.005, [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25]),
        (50000, 0.01, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (50000, 0.02, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        (5000, 0.005, [500, 277, 154, 85, 47, 26, 14, 8, 4, 2]),
        (5000, 0.01, [500, 299, 179, 107, 64, 38, 23, 13, 8, 5]),
        (5000, 0.02, [500, 323, 209, 135, 87, 56, 36, 23, 15, 10]),
        (73257, 0.01, [7325, 4391, 2632, 1578, 946, 567, 340, 203, 122, 73]),
        (531131, 0.01, [53113, 31840, 19087, 11442, 6859, 4112, 2465, 1477, 885, 531]),
    ],
)
def test_counts_of_ten_classes(num_images: int, imbalance: float, expected: list[int]) -> None:
    assert class_counts(num_images, 10, imbalance).tolist() == expected


@pytest.mark.parametrize(
    ("num_images", "num_classes", "imbalance", "last", "total"),
    [
        (50000, 10, 0.005, 25, 11203),
        (50000, 10, 0.01, 50, 12406),
        (50000, 10, 0.02, 100, 13996),
        (50000, 100, 0.005, 2, 9502),
        (50000, 100, 0.01, 5, 10847),
        (50000, 100, 0.02, 10, 12608),
        (5000, 10, 0.005, 2, 1117),
        (5000, 10, 0.01, 5, 1236),
        (5000, 10, 0.02, 10, 1394),
        (73257, 10, 0.01, 73, 18177),
        (531131, 10, 0.01, 531, 131811),
    ],
)
def test_totals(num_images: int, num_classes: int, imbalance: float, last: int, total: int) -> None:
    counts = class_counts(num_images, num_classes, imbalance)
    assert counts.dtype == np.int64
    assert counts[0] == num_images // num_classes
    assert counts[-1] == last
    assert counts.sum() == total


def test_a_ratio_of_one_keeps_the_balance() -> None:
    assert class_counts(60, 6, 1.0).tolist() == [10] * 6


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)


def test_indices_are_those_of_the_global_stream() -> None:
    labels = labels_of([40] * 5)
    before = np.random.get_state()
    np.random.seed(0)
    expected: list[int] = []
    for c, count in enumerate(class_counts(200, 5, 0.1)):
        indices = np.where(labels == c)[0]
        np.random.shuffle(indices)
        expected += indices[:count].tolist()
    np.random.set_state(before)
    assert longtail_indices(labels, 5, 0.1).tolist() == expected


def test_subset_has_the_wanted_classes_in_order_and_no_image_twice() -> None:
    labels = labels_of([40] * 5)
    indices = longtail_indices(labels, 5, 0.1)
    assert labels[indices].tolist() == np.repeat(np.arange(5), class_counts(200, 5, 0.1)).tolist()
    assert len(set(indices.tolist())) == len(indices)


def test_smaller_ratios_are_nested_and_seeds_differ() -> None:
    labels = labels_of([100] * 10)
    subsets = [set(longtail_indices(labels, 10, ratio).tolist()) for ratio in (0.02, 0.1, 0.5, 1.0)]
    for smaller, larger in pairwise(subsets):
        assert smaller < larger
    assert set(longtail_indices(labels, 10, 0.1, seed=1).tolist()) != subsets[1]


def test_a_class_with_too_few_gives_what_it_has() -> None:
    labels = labels_of([3, 40, 40])
    counts = np.bincount(labels[longtail_indices(labels, 3, 0.5)])
    assert class_counts(83, 3, 0.5).tolist() == [27, 19, 13]
    assert counts.tolist() == [3, 19, 13]


@pytest.mark.parametrize(
    ("imbalance", "images", "right", "per_digit"),
    [
        (0.005, 125506, 0.673, [1, 0.70, 0.47, 0.15, 0, 0, 0, 0, 0, 0]),
        (0.01, 140048, 0.660, [1, 0.73, 0.54, 0.30, 0, 0, 0, 0, 0, 0]),
        (0.02, 159278, 0.651, [1, 0.75, 0.61, 0.42, 0.17, 0, 0, 0, 0, 0]),
    ],
)
def test_svhn_shift(imbalance: float, images: int, right: float, per_digit: list[float]) -> None:
    assert sum(SVHN_TRAIN) == 73257
    assert sum(SVHN_EXTRA) == 531131
    true, given = [], []
    for counts in (SVHN_TRAIN, SVHN_EXTRA):
        labels = labels_of(counts)
        true.append(labels[longtail_indices(labels, 10, imbalance)])
        given.append(shifted_labels(labels, 10, imbalance))
    assert [len(part) for part in given] == [len(part) for part in true]
    truth, hit = np.concatenate(true), np.concatenate(true) == np.concatenate(given)
    assert len(truth) == images
    assert round(float(hit.mean()), 3) == right
    assert [round(float(hit[truth == digit].mean()), 2) for digit in range(10)] == per_digit


def test_no_shift_where_every_class_has_enough() -> None:
    labels = labels_of([40] * 5)
    assert shifted_labels(labels, 5, 0.1).tolist() == labels[longtail_indices(labels, 5, 0.1)].tolist()


def test_holdout_is_stratified_disjoint_and_whole() -> None:
    labels = labels_of([200, 50, 10, 3, 2, 1])
    kept, held_out = stratified_holdout(labels, 0.1)
    assert np.bincount(labels[held_out], minlength=6).tolist() == [20, 5, 1, 1, 1, 0]
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept)


def test_holdout_leaves_one_of_each_class_in_training() -> None:
    labels = labels_of([10, 2, 1])
    kept, held_out = stratified_holdout(labels, 0.99)
    assert np.bincount(labels[kept]).tolist() == [1, 1, 1]
    assert np.bincount(labels[held_out]).tolist() == [9, 1]


def test_holdout_depends_on_its_seed_alone() -> None:
    labels = labels_of([50, 50])
    first = stratified_holdout(labels, 0.2, seed=0)[1].tolist()
    np.random.seed(5)
    assert stratified_holdout(labels, 0.2, seed=0)[1].tolist() == first
    assert stratified_holdout(labels, 0.2, seed=1)[1].tolist() != first
