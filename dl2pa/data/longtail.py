"""Long-tail class counts and subsets, as drawn by the LDAM, MiSLAS and ETF code lines. NumPy alone.

Class c of C keeps n_c = floor(n_max * imbalance ** (c / (C - 1))) images, n_max = (images in the split) / C as a float,
in label order. ``imbalance`` is the ratio of the smallest to the largest class, in (0, 1].
"""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


def class_counts(num_images: int, num_classes: int, imbalance: float) -> Labels:
    """The wanted number of images of each class, int64 [C]; whether so many exist is not asked here."""
    assert num_classes >= 2, num_classes
    assert 0 < imbalance <= 1, imbalance
    largest = num_images / num_classes
    # Python floats, not a NumPy power: the two can differ in the last bit, and so in the floor.
    return np.array([int(largest * imbalance ** (c / (num_classes - 1))) for c in range(num_classes)], dtype=np.int64)


def _by_class(labels: Labels, num_classes: int) -> list[Labels]:
    """Ascending indices of the images of each class."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])


def longtail_indices(labels: Labels, num_classes: int, imbalance: float, seed: int = 0) -> Labels:
    """Indices [n] into ``labels`` of a long-tail subset, class after class.

    The indices of each class are shuffled and the first n_c taken, classes in label order, from one RandomState: with
    seed 0 this is the stream that the published code draws from NumPy's global generator. A class with fewer images
    than wanted gives all it has. The subset of a smaller ratio is contained in that of a larger one.
    """
    random = np.random.RandomState(seed)
    counts = class_counts(len(labels), num_classes, imbalance)
    chosen = []
    for indices, count in zip(_by_class(labels, num_classes), counts, strict=True):
        random.shuffle(indices)
        chosen.append(indices[:count])
    return np.concatenate(chosen)


def shifted_labels(labels: Labels, num_classes: int, imbalance: float) -> Labels:
    """The labels [n] that the published code gives to the images of ``longtail_indices``.

    It writes the *wanted* number of labels of every class, also where fewer images exist, so that all later labels
    slide towards the head (SVHN, whose digit 0 is rarer than n_max: a third of all labels are wrong). Where every
    class has enough images these are the true labels.
    """
    counts = class_counts(len(labels), num_classes, imbalance)
    available = np.bincount(labels, minlength=num_classes)
    return np.repeat(np.arange(num_classes), counts)[: np.minimum(counts, available).sum()]


def stratified_holdout(labels: Labels, fraction: float, seed: int = 0) -> tuple[Labels, Labels]:
    """Ascending (training, held-out) indices; ``fraction`` in (0, 1) of each class, rounded, is held out.

    A class of two images or more has at least one on either side; a single image stays in training.
    """
    assert 0 < fraction < 1, fraction
    random = np.random.RandomState(seed)
    held_out = []
    for indices in _by_class(labels, int(labels.max()) + 1):
        random.shuffle(indices)
        count = int(np.floor(fraction * len(indices) + 0.5))
        held_out.append(indices[: min(max(count, 1), max(len(indices) - 1, 0))])
    mask = np.zeros(len(labels), dtype=bool)
    mask[np.concatenate(held_out)] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
