"""Prototypes that a formula gives. All return [C, d] float64 unit rows."""

import math

import torch

from dl2pa.prototypes.draws import generator, random_points, turn_and_shuffle


def simplex(num_classes: int, dimension: int) -> torch.Tensor:
    """The regular simplex of Kasarla et al. (NeurIPS 2022), all cosines -1 / (C - 1), zeros beyond C - 1 dimensions.

    Their recursion P_k = [1, -1/k ...; 0, sqrt(1 - 1/k^2) P_(k-1)] unrolled: row i of the [k, k + 1] matrix P_k, k =
    C - 1, holds s at column i and -s / (k - i) to its right, and s shrinks by sqrt(1 - 1 / (k - i)^2) a row. The
    recursion itself would pass Python's depth limit at C = 1000. Always the same matrix: nothing is drawn.
    """
    columns = torch.zeros(dimension, num_classes, dtype=torch.float64)
    scale = 1.0
    for row in range(num_classes - 1):
        others = num_classes - 1 - row
        columns[row, row] = scale
        columns[row, row + 1 :] = -scale / others
        scale *= math.sqrt(1 - 1 / others**2)
    return columns.T.contiguous()


def simplex_and_pairs(num_classes: int, dimension: int) -> torch.Tensor:
    """The lowest maximum cosine for any C <= 2d: one simplex and C - d - 1 antipodal pairs, mutually orthogonal.

    Up to C = d + 1 it is the simplex alone, at C = 2d the cross-polytope (every +-e_i). In between the best maximum
    cosine is 0 (Rankin 1955) and every split of the space into C - d orthogonal simplices reaches it. Of those this one
    has the lowest uniformity loss: what a simplex of n points takes off the sum of exp(2t(cos - 1)) grows faster than
    its n, so all points that no pair needs go into a single one. It also fills the space, as C of the +-e_i do not.
    """
    pairs = max(0, num_classes - dimension - 1)
    points = torch.zeros(num_classes, dimension, dtype=torch.float64)
    points[:pairs, :pairs] = torch.eye(pairs, dtype=torch.float64)
    points[pairs : 2 * pairs, :pairs] = -torch.eye(pairs, dtype=torch.float64)
    points[2 * pairs :, pairs:] = simplex(num_classes - 2 * pairs, dimension - pairs)
    return points


def polygon(num_classes: int) -> torch.Tensor:
    """[C, 2]: the regular polygon, the best there is on a circle, maximum cosine cos(2 pi / C)."""
    angles = 2 * math.pi * torch.arange(num_classes, dtype=torch.float64) / num_classes
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def orthoplex(num_classes: int, dimension: int, *, seed: int) -> torch.Tensor:
    """C of the 2d points +-e_i of the cross-polytope, in a random orientation and order (C <= 2d).

    Complete antipodal pairs first: any choice has maximum cosine 0 (from C = 3 on), and each complete pair trades a
    cosine of 0 for one of -1, so as many pairs as possible give the lowest uniformity loss and the lowest mean cosine.
    """
    points = torch.zeros(num_classes, dimension, dtype=torch.float64)
    rows = torch.arange(num_classes)
    points[rows, rows // 2] = 1.0 - 2.0 * (rows % 2).double()
    return turn_and_shuffle(points, generator(seed))


def etf(num_classes: int, dimension: int, *, seed: int) -> torch.Tensor:
    """The simplex equiangular tight frame of Yang et al. (NeurIPS 2022), all cosines -1 / (C - 1); needs d >= C.

    M = sqrt(C / (C - 1)) A (I - 1 1^T / C), A the orthonormal factor of a d x C matrix of uniform [0, 1) entries.
    """
    entries = torch.rand(dimension, num_classes, generator=generator(seed), dtype=torch.float64)
    orthonormal, _ = torch.linalg.qr(entries)
    centred = orthonormal - orthonormal.mean(dim=1, keepdim=True)
    frame: torch.Tensor = math.sqrt(num_classes / (num_classes - 1)) * centred.T
    return frame


def random(num_classes: int, dimension: int, *, seed: int) -> torch.Tensor:
    """Normalised Gaussian vectors: the control that any optimisation has to beat."""
    return random_points(num_classes, dimension, generator(seed))
