"""The orientation of the prototypes, decided together with the matching.

How prototypes are spread over the sphere does not depend on their orientation: a rotated set is as good a set.
"""

import numpy as np
import torch

from dl2pa.assignment.large import LARGE, Pairs, Product
from dl2pa.assignment.matching import match


def procrustes(means: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R = argmax over orthogonal R of sum_c means[c] . R targets[c]  (orthogonal Procrustes, Schoenemann 1966).

    That is tr(means^T R targets)-wise U V^T of the singular value decomposition of sum_c means[c] targets[c]^T; both
    arguments are [n, d].
    """
    left, _, right = np.linalg.svd(means.T @ targets)
    return left @ right


def rotate_and_match(
    means: np.ndarray, prototypes: np.ndarray, assignment: np.ndarray, seen: np.ndarray, hysteresis: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Maximise sum over seen classes of means[c] . R prototypes[sigma(c)] over sigma and orthogonal R, in turn.

    Each half is solved exactly (matching.py, and ``procrustes``), so the value never falls; what is reached is a local
    maximum, since the two halves are not decided at once.

    Args:
        means, prototypes: [C, d], unit rows.
        assignment, seen, hysteresis: as for ``match``; the gain is that of both halves together.

    Returns:
        sigma [C] and R [d, d]: the old one and the identity where the gain is too small or a mean is not finite.
    """
    still = assignment.copy(), np.eye(prototypes.shape[1])
    if not seen.any() or not np.isfinite(means).all():
        return still

    def score(rotation: np.ndarray) -> np.ndarray | Pairs:
        turned = means @ rotation
        if len(means) < LARGE:
            return turned @ prototypes.T
        return Product(torch.from_numpy(turned), torch.from_numpy(prototypes))

    def value(sigma: np.ndarray, rotation: np.ndarray) -> float:
        return float((means[seen] @ rotation * prototypes[sigma[seen]]).sum())

    least = 1e-7 * seen.sum()  # as in ``match``; it ends the alternation, for no value is over the number of classes
    (sigma, rotation), start = still, value(*still)
    reached, gain = start, np.inf
    while gain > least:
        new_sigma = match(score(rotation), sigma, seen)
        new_rotation = procrustes(means[seen], prototypes[new_sigma[seen]])
        gain = value(new_sigma, new_rotation) - reached
        if gain > least:
            sigma, rotation, reached = new_sigma, new_rotation, reached + gain
    return (sigma, rotation) if reached - start > max(hysteresis * seen.sum(), least) else still
