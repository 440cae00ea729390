"""The objective behind most optimised kinds, its gradient written out (autograd costs twice the time), and L-BFGS."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def smooth_maximum_cosine(points: Points, sharpness: float) -> tuple[float, Points]:
    """f = (1 / s) log mean_(i<j) exp(s cos_ij) of rows [n, d] of any length, and its gradient [n, d].

    Between the mean cosine (s -> 0) and the maximum cosine (s -> infinity). The uniformity loss of Wang and Isola
    (2020) and of the DL2PA code (its "Equations 4, 5"), U = log mean_(i<j) exp(-t |w_i - w_j|^2), is U = s (f - 1) at
    s = 2t; the separation objective (1 / s) logsumexp(s cos) (Lindstrom et al. 2024) is f plus a constant.
    """
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / lengths
    weights = (
        unit @ unit.T
    )  # one n x n array, changed in place: at n = 1000 the passes over it cost as much as its BLAS
    np.fill_diagonal(weights, -np.inf)
    largest = float(weights.max())
    weights -= largest
    weights *= sharpness
    np.exp(weights, out=weights)
    total = float(weights.sum())
    count = len(points) * (len(points) - 1)
    value = largest + math.log(total / count) / sharpness
    gradient = weights @ unit
    gradient *= 2 / total
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
