"""How well separated a set of prototypes is."""

import math
from dataclasses import dataclass

import torch

from dl2pa.prototypes.bounds import Bound, maximum_cosine_bound, welch_bound

_CHUNK = 1024  # rows of the C x C cosines held at once: 82 MB at C = 10,000 instead of 800


@dataclass(frozen=True)
class Geometry:
    """Measures of C unit vectors; a vector's cosine with itself never counts, so a simplex shows its negative value.

    max_cosine: over all pairs. mean_max_cosine: each vector's largest, averaged (HPN minimises it). min_angle: degrees.
    uniformity: U = log mean_(i<j) exp(-2 |w_i - w_j|^2), lower is better. bound: no max_cosine can be lower. welch: the
    bound on the largest ABSOLUTE cosine, for reference (equiangular vectors come near it, others need not).
    """

    max_cosine: float
    mean_max_cosine: float
    min_angle: float
    uniformity: float
    bound: Bound
    welch: float


def measure(prototypes: torch.Tensor) -> Geometry:
    """The geometry of prototypes [C, d], C >= 2, of any length (they are normalised first), computed in float64."""
    unit = torch.nn.functional.normalize(prototypes.detach().cpu().double(), dim=1)
    num_classes, dimension = unit.shape
    row_maxima, total = [], 0.0
    for first in range(0, num_classes, _CHUNK):
        cosines = unit[first : first + _CHUNK] @ unit.T
        rows = torch.arange(len(cosines))
        cosines[rows, first + rows] = -math.inf
        row_maxima.append(cosines.max(dim=1).values)
        total += float(torch.exp(4 * (cosines - 1)).sum())
    largest = torch.cat(row_maxima)
    max_cosine = float(largest.max())
    return Geometry(
        max_cosine=max_cosine,
        mean_max_cosine=float(largest.mean()),
        min_angle=math.degrees(math.acos(min(1.0, max(-1.0, max_cosine)))),
        uniformity=math.log(total / (num_classes * (num_classes - 1))),
        bound=maximum_cosine_bound(num_classes, dimension),
        welch=welch_bound(num_classes, dimension),
    )
