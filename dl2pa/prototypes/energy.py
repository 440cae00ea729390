"""The objective behind most optimised kinds, its gradient written out (autograd costs twice the time), and L-BFGS."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

_ENTRIES = 1 << 24  # of the n x n cosines held at once, 134 MB: up to n = 4096 all, 1677 rows at n = 10,000


def row_blocks(count: int) -> Iterator[slice]:
    """The rows of a count x count matrix, so many at a time as may be held at once."""
    step = max(1, _ENTRIES // count)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def cosines_of(unit: Points, block: slice, own: float) -> Points:
    """[k, n] cosines of the unit rows [n, d] in ``block`` with all rows; ``own`` in place of those with themselves."""
    cosines: Points = unit[block] @ unit.T
    cosines[np.arange(len(cosines)), np.arange(block.start, block.stop)] = own
    return cosines


def smooth_maximum_cosine(points: Points, sharpness: float) -> tuple[float, Points]:
    """f = (1 / s) log mean_(i<j) exp(s cos_ij) of rows [n, d] of any length, and its gradient [n, d].

    Between the mean cosine (s -> 0) and the maximum cosine (s -> infinity). The uniformity loss of Wang and Isola
    (2020) and of the DL2PA code (its "Equations 4, 5"), U = log mean_(i<j) exp(-t |w_i - w_j|^2), is U = s (f - 1) at
    s = 2t; the separation objective (1 / s) logsumexp(s cos) (Lindstrom et al. 2024) is f plus a constant.
    """
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / lengths
    gradient = np.empty_like(unit)
    parts: list[tuple[slice, float, float]] = []
    for block in row_blocks(len(unit)):
        # One array, changed in place: at n = 1000 the passes over it cost as much as its BLAS.
        weights = cosines_of(unit, block, -np.inf)
        largest = float(weights.max())
        weights -= largest
        weights *= sharpness
        np.exp(weights, out=weights)
        gradient[block] = weights @ unit
        parts.append((block, largest, float(weights.sum())))
    top = max(largest for _, largest, _ in parts)
    scales = [math.exp(sharpness * (largest - top)) for _, largest, _ in parts]
    total = sum(scale * mass for scale, (_, _, mass) in zip(scales, parts, strict=True))
    count = len(points) * (len(points) - 1)
    value = top + math.log(total / count) / sharpness
    for scale, (block, _, _) in zip(scales, parts, strict=True):
        gradient[block] *= scale * (2 / total)
    gradient -= np.einsum("nd,nd->n", gradient, unit)[:, None] * unit  # the part along the row changes nothing
    gradient /= lengths
    return value, gradient


def descend(points: Points, sharpness: float, tolerance: float, iterations: int) -> Points:
    """Minimises smooth_maximum_cosine by L-BFGS from rows [n, d]; returns unit rows [n, d]."""
    return lbfgs(points, lambda rows: smooth_maximum_cosine(rows, sharpness), tolerance, iterations)


def lbfgs(
    points: Points, objective: Callable[[Points], tuple[float, Points]], tolerance: float, iterations: int
) -> Points:
    """Minimises an objective (rows [n, d] of any length -> value, gradient) from `points`; returns unit rows [n, d].

    Ends when an iteration lowers the value by no more than `tolerance` (times the value, where that is over 1), at a
    zero gradient, or after `iterations`. L-BFGS needs 50 to 1000 evaluations where gradient descent at lr 10 or Adam
    needs thousands, and ends lower (measured at C = 100 and 200).
    """
    from scipy.optimize import minimize

    def flattened(flat: Any) -> tuple[float, Any]:
        value, gradient = objective(flat.reshape(points.shape))
        return value, gradient.ravel()

    # scipy's ftol divides by max(|value|, 1), which is 1 for the smooth maximum cosine: an absolute tolerance there.
    limits = {"ftol": tolerance, "gtol": 0.0, "maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 10}
    found = minimize(flattened, points.ravel(), jac=True, method="L-BFGS-B", options=limits).x.reshape(points.shape)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float64)
