"""Prototypes whose ABSOLUTE cosines are bounded: no two are alike, and none are antipodal either."""

from functools import partial

import numpy as np
import torch

from dl2pa.errors import UserError
from dl2pa.prototypes.bounds import welch_bound
from dl2pa.prototypes.draws import generator, random_points, turn_and_shuffle
from dl2pa.prototypes.energy import Points, cosines_of, lbfgs, row_blocks

_SLACK = 1e-4 - 1e-6  # that of the published code, less what float32 may round
_STEP, _ITERATIONS, _LAST_ITERATIONS = 1.01, 20, 200


def equiangular(num_classes: int, dimension: int, *, seed: int, tau: str | float) -> torch.Tensor:
    """Equiangular basis vectors (Shen et al., CVPR 2023): |cos| <= tau + 1e-4 for every pair; [C, d] float64 unit rows.

    They minimise the sum over pairs of relu(|cos| - tau), which is 0 once every pair is within tau, by SGD in up to
    100,000 steps. Here L-BFGS minimises the squares of the same excesses, from normalised Gaussians: the same zeros in
    some hundred steps. For d >= C any tau is met by an orthonormal basis, in a random orientation.

    The descent climbs a ladder of bounds from the Welch bound up by 1 %, with 20 iterations on each, from where the
    last ones ended. tau=auto takes the first rung that is met: maximum |cos| .132, .077, .0346 at C = 1000, d = 100,
    200, 500, with .135, .080, .035 in the published files. Any other tau is the last rung, and has 200 iterations.

    Raises UserError if tau was not reached, saying what was.
    """
    if num_classes <= dimension:
        return turn_and_shuffle(torch.eye(num_classes, dimension, dtype=torch.float64), generator(seed))
    points = random_points(num_classes, dimension, generator(seed)).numpy()
    bound = welch_bound(num_classes, dimension)
    rung, last = bound, 1.0 if tau == "auto" else float(tau)
    while True:
        points = lbfgs(points, partial(excess, tau=rung), 0.0, _ITERATIONS if rung < last else _LAST_ITERATIONS)
        reached = _largest(points)
        if reached <= (rung if tau == "auto" else last) + _SLACK:
            return torch.from_numpy(points)
        if rung == last:
            raise UserError(
                f"tau={tau}: not reached with num_classes={num_classes}, dimension={dimension}, seed={seed}, but "
                f"{reached:.4f}; use tau=auto or a larger tau (the Welch bound is {bound:.4f})"
            )
        rung = min(rung * _STEP, last)


def excess(points: Points, tau: float) -> tuple[float, Points]:
    """1/2 sum_(i != j) relu(|cos_ij| - tau)^2 of rows [n, d] of any length, and its gradient [n, d].

    Both are 0 as soon as every |cos| is within tau + 1e-4: the gradient that ends a descent.
    """
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / lengths
    gradient, value, largest = np.empty_like(unit), 0.0, 0.0
    for block in row_blocks(len(unit)):
        beyond = cosines_of(unit, block, 0)
        largest = max(largest, beyond.max(), -beyond.min())
        beyond -= np.clip(beyond, -tau, tau)
        value += float(np.einsum("ij,ij->", beyond, beyond)) / 2
        gradient[block] = beyond @ unit
    if largest <= tau + _SLACK:
        return 0.0, np.zeros_like(points)
    gradient *= 2
    gradient -= np.einsum("nd,nd->n", gradient, unit)[:, None] * unit  # the part along the row changes nothing
    gradient /= lengths
    return value, gradient


def _largest(points: Points) -> float:
    return max(float(np.abs(cosines_of(points, block, 0)).max()) for block in row_blocks(len(points)))
