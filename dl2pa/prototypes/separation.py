"""Prototypes by gradient descent on the largest cosines. All return [C, d] float64 unit rows; cost grows with C^2 d."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from dl2pa.prototypes.draws import generator, random_points
from dl2pa.prototypes.energy import Points, cosines_of, row_blocks, smooth_maximum_cosine
from dl2pa.prototypes.words import word_vectors

_MOMENTUM = 0.9
_NEIGHBOURS = 2


def separation(num_classes: int, dimension: int, *, seed: int, steps: int, lr: float) -> torch.Tensor:
    """The prototypes of HPN (Mettes et al., NeurIPS 2019, eq. 6): mean over c of max_(c' != c) cos(w_c, w_c').

    From normalised Gaussians, `steps` steps of SGD at `lr`, renormalised after each. Their momentum has no effect: the
    optimiser is made anew at every step. All pairs are seen in every step.
    """
    return _descend(num_classes, dimension, _apart, seed, steps, lr)


def separation_semantic(
    num_classes: int,
    dimension: int,
    *,
    seed: int,
    steps: int,
    lr: float,
    words: str | None,
    file: str | None,
    key: str | None,
    word_weight: float,
) -> torch.Tensor:
    """HPN's prototypes with privileged information (Mettes et al., NeurIPS 2019, eq. 7 to 9): order follows the words.

    To the loss of `separation` comes `word_weight` times the mean over all triplets (i, j, k), j one of the 2 word
    vectors nearest to i and k any other, of -log sigmoid(cos_ij - cos_ik) (RankNet, Burges et al. 2005). The released
    script has the linear cos_ik - cos_ij instead, and does not run. `words`, `file` and `key` as in word_vectors.

    Measured at C = 100, d = 50, 2,000 steps: word_weight 1, 2, 3 put .88, .98, 1.00 of the triplets in order (without
    words .45); the mean of row maxima is .10, .16, .54, so that from about 3 on neighbours merge.
    """
    ranking = WordRanking(word_vectors(words, num_classes, file, key), word_weight)
    return _descend(num_classes, dimension, ranking.step, seed, steps, lr)


class WordRanking:
    """The ranking term of word vectors [C, D], C >= 4, in blocks of rows."""

    def __init__(self, vectors: Points, weight: float) -> None:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        count = len(unit)
        similar = (cosines_of(unit, block, -np.inf) for block in row_blocks(count))
        self.nearest: npt.NDArray[np.int64] = np.concatenate(
            [np.argsort(-block, axis=1, kind="stable")[:, :_NEIGHBOURS].copy() for block in similar]
        )
        self.share = weight / (count * _NEIGHBOURS * (count - 1 - _NEIGHBOURS))

    def slope(self, cosines: Points, block: slice) -> Points:
        """[k, C]: the term's derivative by the cosines [k, C] of ``block``'s rows, where ij and ji count as two."""
        rows, nearest = np.arange(len(cosines))[:, None], self.nearest[block]
        slope = np.zeros_like(cosines)
        for at in nearest.T[:, :, None]:  # a neighbour of each row
            pull = self.share / (1 + np.exp(cosines[rows, at] - cosines))  # of cos_ij - cos_ik
            pull[rows, nearest] = 0
            pull[rows, rows + block.start] = 0
            slope += pull
            slope[rows, at] -= pull.sum(axis=1, keepdims=True)
        return slope

    def step(self, points: Points, lr: float) -> Points:
        """[C, d]: lr times the gradient of both terms."""
        count = len(points)
        step = np.zeros_like(points)
        for block in row_blocks(count):
            cosines = cosines_of(points, block, -np.inf)
            rows, nearest = np.arange(len(cosines)), cosines.argmax(axis=1)
            slope = self.slope(cosines, block)
            slope[rows, nearest] += 1 / count
            step[block] += slope @ points
            step += slope.T @ points[block]
        return lr * step


def _apart(points: Points, lr: float) -> Points:
    """[C, d]: lr times the gradient of the mean over c of c's largest cosine, c with its nearest."""
    count = len(points)
    nearest = np.concatenate([cosines_of(points, block, -np.inf).argmax(axis=1) for block in row_blocks(count)])
    step = np.empty_like(points)
    for block in row_blocks(count):
        pull = np.zeros((block.stop - block.start, count))
        pull[np.arange(len(pull)), nearest[block]] += 1 / count
        followers = np.flatnonzero((nearest >= block.start) & (nearest < block.stop))
        pull[nearest[followers] - block.start, followers] += 1 / count
        step[block] = lr * pull @ points
    return step


def _descend(
    num_classes: int, dimension: int, step: Callable[[Points, float], Points], seed: int, steps: int, lr: float
) -> torch.Tensor:
    points = random_points(num_classes, dimension, generator(seed)).numpy()
    for _ in range(steps):
        points = points - step(points, lr)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return torch.from_numpy(points)


def softmax_separation(num_classes: int, dimension: int, *, seed: int, steps: int, lr: float) -> torch.Tensor:
    """(1 / T) logsumexp_(i<j) (T cos_ij), T = 1 + C step / steps (Lindstrom et al., GRaM 2024).

    From normalised Gaussians, `steps` steps of SGD at `lr` with momentum 0.9, renormalised after each.
    """
    points = random_points(num_classes, dimension, generator(seed)).numpy()
    velocity = np.zeros_like(points)
    for step in range(steps):
        _, gradient = smooth_maximum_cosine(points, 1 + num_classes * step / steps)
        velocity = _MOMENTUM * velocity + gradient
        points = points - lr * velocity
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    return torch.from_numpy(points)
