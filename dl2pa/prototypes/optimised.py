"""Prototypes that an optimiser finds. All return [C, d] float64 unit rows; time grows with C^2."""

import numpy as np
import torch

from dl2pa.prototypes.draws import generator, random_points
from dl2pa.prototypes.energy import cosines_of, descend, row_blocks, smooth_maximum_cosine

UNIFORMITY_T = 2.0  # t of the uniformity loss, fixed in the DL2PA code
_SHARPNESS = 2 * UNIFORMITY_T


def uniform_readme(
    num_classes: int, dimension: int, *, seed: int, steps: int, lr: float, batch_size: int
) -> torch.Tensor:
    """The estimator of the DL2PA code ("Equations 4, 5") as its README runs it, which stops far from the optimum.

    Entries U(-1, 1), vectors normalised once at the start; SGD without momentum on log mean_(i<j in batch)
    exp(-2 |w_i - w_j|^2), vectors normalised inside the loss; `steps` passes over the prototypes, each shuffled into
    batches of `batch_size`: one step a pass up to C = batch_size, several above, where a step sees only the pairs
    within its batch. The generator is seeded by `seed` itself. Entries are drawn in float32, steps taken in float64.
    """
    source = torch.Generator().manual_seed(seed)
    entries = torch.rand(dimension, num_classes, generator=source) * 2 - 1
    points = torch.nn.functional.normalize(entries.double(), dim=0).T.contiguous().numpy()
    for _ in range(steps):
        for batch in torch.randperm(num_classes, generator=source).split(batch_size):
            if len(batch) < 2:  # a last batch of one has no pair: the mean over nothing would make everything NaN
                continue
            rows = batch.numpy()
            _, gradient = smooth_maximum_cosine(points[rows], _SHARPNESS)
            points[rows] -= lr * _SHARPNESS * gradient
    return torch.nn.functional.normalize(torch.from_numpy(points), dim=1)


def uniform(num_classes: int, dimension: int, *, seed: int, tolerance: float) -> torch.Tensor:
    """The same uniformity loss (t = 2, all pairs) brought to convergence: a local optimum by L-BFGS.

    From random points. Up to C = 2d a first descent at t = 8 brings them close to their final place: at t = 2 the
    repulsion is so even there that a few misplaced points hold it up (C = 1000, d = 512: maximum cosine .01 instead of
    .06 in the same time). Above 2d the optima at different t differ, and the descent starts at t = 2.
    """
    points = random_points(num_classes, dimension, generator(seed)).numpy()
    if num_classes <= 2 * dimension:
        points = descend(points, 4 * _SHARPNESS, tolerance, iterations=100_000)
    return torch.from_numpy(descend(points, _SHARPNESS, tolerance, iterations=100_000))


def separated(num_classes: int, dimension: int, *, seed: int) -> torch.Tensor:
    """The lowest maximum cosine we can find: the smooth maximum, sharpened in steps of 4 until it is the maximum.

    The last sharpness s is 4^8; the true maximum is at most 2 log(C) / s above the smooth one (2e-4 at C = 1000). Small
    problems have several local optima, so they are started up to 50 times and the best is kept; the starts differ in
    their first sharpness, too, because the basin of the blunt one need not be the best (C = 10, d = 3: .414, not .404).
    50 starts found the known optimum in all of the cases tried (C = 7 to 13 in d = 3 to 5, and the 24-cell).
    """
    starts = min(50, max(1, 5000 // (num_classes * dimension)))
    best, lowest = None, np.inf
    for start in range(starts):
        points = random_points(num_classes, dimension, generator(seed, start)).numpy()
        for power in range(1 + start % 4, 9):
            points = descend(points, 4.0**power, tolerance=1e-9, iterations=300)
        largest = max(cosines_of(points, block, -np.inf).max() for block in row_blocks(num_classes))
        if largest < lowest:
            best, lowest = points, largest
    assert best is not None
    return torch.from_numpy(best)
