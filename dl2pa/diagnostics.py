"""What the features look like while they are trained: neural collapse, and where the class means lie."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.assignment.statistics import EpochMean

_BLOCK = 1 << 24  # cosines of class means held at once, 134 MB


class Moments(EpochMean):
    """First and second moments of an epoch's training features, by class; on the device, read once an epoch.

    The features are those of the training steps (augmented images, the network as it was at each step); a mixed image
    counts for both of its classes by their share.
    """

    def __init__(self, num_classes: int, dimension: int) -> None:
        super().__init__(num_classes, dimension)
        self.products: Tensor
        self.register_buffer("products", torch.zeros(dimension, dimension))

    def observe(self, features: Tensor, cost: Tensor, share: Tensor, classes: Tensor | None = None) -> None:
        super().observe(features, cost, share, classes)
        self.products.addmm_(features.T, features)

    def end_epoch(self) -> None:
        super().end_epoch()
        self.products.zero_()


def collapse(moments: Moments, vectors: Tensor | None) -> dict[str, float]:
    """Neural collapse of an epoch's features (Papyan, Han and Donoho 2020, section 3), zero where it is complete.

    nc1: tr(S_W S_B^+) / C, the spread within classes relative to that between them. nc2_norms: standard deviation over
    mean of the centred class means' lengths. nc2_angles: mean distance of their cosines from -1/(C-1), which only
    d >= C - 1 can reach. With the classes' ``vectors`` [C, d] (weights, or prototypes owned) also nc3, the squared
    distance between vectors and centred means, each scaled to Frobenius norm one; and cosine_mean and cosine_min, of
    the raw class means to the vectors. Only classes with images are looked at; fewer than two give nothing, and neither
    do means that all coincide.
    """
    seen = moments.seen()
    classes = int(seen.sum())
    if classes < 2:
        return {}
    # Small and in double precision: the within-class scatter is a difference of large, nearly equal numbers.
    counts = moments.counts[seen].double()
    means = moments.sums[seen].double() / counts.unsqueeze(1)
    total = counts.sum()
    within = (moments.products.double() - (means.T * counts) @ means) / total
    centred = means - means.mean(dim=0)
    axes, lengths, _ = torch.linalg.svd(centred.T / classes**0.5, full_matrices=False)  # S_B = axes lengths^2 axes^T
    if lengths[0] <= 1e-6 * means.norm():  # rounding of features in fp32
        return {}
    # Axes along which the means hardly differ are left out: bf16 in the neck blurs all of them by 2^-9 of the largest.
    kept = lengths > 1e-2 * lengths[0]
    spread = (axes[:, kept] * (within @ axes[:, kept])).sum(dim=0)
    found = {"nc1": float((spread / lengths[kept].square()).sum() / classes)}
    norms = centred.norm(dim=1)
    found["nc2_norms"] = float(norms.std(correction=0) / norms.mean())
    found["nc2_angles"] = _distance_from_simplex(F.normalize(centred, dim=1))
    if vectors is not None:
        owned = vectors.detach()[seen].double()
        found["nc3"] = float((owned / owned.norm() - centred / centred.norm()).square().sum())
        cosine = F.cosine_similarity(means, owned, dim=1)
        found |= {"cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min())}
    return found


def _distance_from_simplex(unit: Tensor) -> float:
    """Mean of |cos + 1/(C-1)| over pairs of the rows [C, d], some rows at a time."""
    classes, total = len(unit), torch.zeros((), dtype=unit.dtype, device=unit.device)
    for rows in torch.arange(classes, device=unit.device).split(max(1, _BLOCK // classes)):
        distances = (unit[rows] @ unit.T).add_(1 / (classes - 1)).abs_()
        total += distances.scatter_(1, rows.unsqueeze(1), 0).sum()
    return float(total / (classes * (classes - 1)))


def closeness(vectors: Tensor, similarity: Tensor) -> float | None:
    """Spearman's rank correlation, over pairs of classes, of ``similarity`` [C, C] and ``vectors`` [C, d].

    Near one when similar classes have near vectors. None where all pairs are alike, as in a simplex.
    """
    unit = F.normalize(vectors.detach().double().cpu(), dim=1)
    rows, columns = np.triu_indices(len(vectors), k=1)
    # Points of a formula have few distances, which rounding must not tell apart, and a simplex one.
    near, alike = (values.numpy()[rows, columns].round(6) for values in (unit @ unit.T, similarity.double().cpu()))
    if min(np.ptp(near), np.ptp(alike)) < 1.5e-6:  # one step of it
        return None
    return float(np.corrcoef(_ranks(near), _ranks(alike))[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Equal values share the mean of their ranks. (As scipy.stats.rankdata does, whose import takes a second.)"""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (count.cumsum() - (count - 1) / 2)[place]
    return ranks
