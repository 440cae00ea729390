"""How low the maximum cosine of C unit vectors in d dimensions can possibly be."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """value: no C unit vectors in d dimensions have a lower maximum cosine. name: whose bound it is."""

    value: float
    name: str


def maximum_cosine_bound(num_classes: int, dimension: int) -> Bound:
    """The best lower bound we have on the maximum cosine (signed: antipodes are welcome), C >= 2, d >= 1.

    Attained up to C = 2d and on a circle. Above 2d it is Levenshtein's (1979), which is attained by few figures
    (icosahedron, the 240 roots of E8, ...), so a gap to it does not show that better prototypes exist.
    """
    if num_classes <= dimension + 1:
        return Bound(-1 / (num_classes - 1), "simplex")
    if num_classes <= 2 * dimension:
        return Bound(0.0, "Rankin")
    if dimension == 1:
        return Bound(1.0, "line")
    if dimension == 2:
        return Bound(math.cos(2 * math.pi / num_classes), "polygon")
    return Bound(_levenshtein(num_classes, dimension), "Levenshtein")


def welch_bound(num_classes: int, dimension: int) -> float:
    """Welch's (1974) lower bound on the largest ABSOLUTE cosine, 0 for C <= d; it does not bound the signed one."""
    if num_classes <= dimension:
        return 0.0
    return math.sqrt((num_classes - dimension) / (dimension * (num_classes - 1)))


def _levenshtein(num_classes: int, dimension: int) -> float:
    """The cosine s at which Levenshtein's bound L(s) on the number of points reaches C, for d >= 3 and C > 2d.

    L is made of pieces L_1, L_2, ... which join where the largest zero of a Jacobi polynomial lies and increase with s:
    find the piece, then bisect in it.
    """
    degree = 2
    while _piece(degree, _right_end(degree, dimension), dimension) < num_classes:
        degree += 1
    low, high = _right_end(degree - 1, dimension), _right_end(degree, dimension)
    for _ in range(60):
        middle = (low + high) / 2
        if _piece(degree, middle, dimension) < num_classes:
            low = middle
        else:
            high = middle
    return low


def _right_end(degree: int, dimension: int) -> float:
    """Where piece L_degree ends: the largest zero of the adjacent polynomial P_k^(1,0) (odd) or P_k^(1,1) (even)."""
    from scipy.special import roots_jacobi

    alpha = (dimension - 3) / 2
    k, even = (degree + 1) // 2, degree % 2 == 0
    zeros, _ = roots_jacobi(k, alpha + 1, alpha + even)
    return float(zeros[-1])


def _piece(degree: int, cosine: float, dimension: int) -> float:
    """L_degree(s): the largest number of points with cosines up to s, for s between the ends of that piece."""
    from scipy.special import comb, eval_jacobi

    alpha = (dimension - 3) / 2

    def gegenbauer(order: int) -> float:
        return float(eval_jacobi(order, alpha, alpha, cosine) / eval_jacobi(order, alpha, alpha, 1.0))

    k = (degree + 1) // 2
    if degree % 2 == 1:
        before, here = gegenbauer(k - 1), gegenbauer(k)
        inner = (2 * k + dimension - 3) / (dimension - 1) - (before - here) / ((1 - cosine) * here)
        return float(comb(k + dimension - 3, k - 1)) * inner
    here, after = gegenbauer(k), gegenbauer(k + 1)
    fraction = (1 + cosine) * (here - after) / ((1 - cosine) * (here + after))
    return float(comb(k + dimension - 2, k)) * ((2 * k + dimension - 1) / (dimension - 1) - fraction)
