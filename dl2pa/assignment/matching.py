"""Bipartite matching of classes to prototypes (DL2PA, CVPR 2024)."""

import numpy as np

from dl2pa.assignment.large import Pairs, solve


def match(score: np.ndarray | Pairs, assignment: np.ndarray, seen: np.ndarray, hysteresis: float = 0.0) -> np.ndarray:
    """Give every class a prototype of its own so that the summed score is the largest possible.

    sigma = argmax over bijections of sum_c score[c, sigma(c)], solved exactly by the Hungarian method; where the scores
    are too many to be there as a whole, by large.py, to 1e-7 for the mean class.

    Args:
        score: [C, C], how well prototype p (column) suits class c (row); only rows of seen classes are read.
        assignment: [C], the prototype each class owns now.
        seen: [C] bool. A class without any evidence keeps its prototype, and the others are matched to the rest.
        hysteresis: the old assignment stands unless the mean score per seen class grows by more than this.

    Returns:
        [C], the prototype each class owns from now on: the old one where a score read is not finite.
    """
    from scipy.optimize import linear_sum_assignment  # half a second, which a run's start need not wait for

    classes = np.flatnonzero(seen)
    prototypes = np.sort(assignment[classes])
    choices = score[np.ix_(classes, prototypes)] if isinstance(score, np.ndarray) else score.part(classes, prototypes)
    if len(classes) == 0 or not _finite(choices):  # not finite: the trainer says so at the end of the epoch
        return assignment.copy()
    if isinstance(choices, np.ndarray):
        # What is taken off a whole column changes no matching. At C=1000 scipy needs up to .6 s where all classes like
        # the same prototypes, as a young network's do, .22 s without the columns' maxima, and so at most .1 s.
        middle = (choices.mean(axis=0) + choices.max(axis=0)) / 2
        _, chosen = linear_sum_assignment(choices - middle, maximize=True)
    else:
        chosen = solve(choices, np.searchsorted(prototypes, assignment[classes])).chosen
    matched = assignment.copy()
    matched[classes] = prototypes[chosen]
    gain = (score[classes, matched[classes]] - score[classes, assignment[classes]]).sum()
    # A tie, or rounding, must not move classes: the network would have to learn the same thing again.
    return matched if gain > max(hysteresis, 1e-7) * len(classes) else assignment.copy()


def _finite(score: np.ndarray | Pairs) -> bool:
    return bool(np.isfinite(score).all()) if isinstance(score, np.ndarray) else score.finite()
