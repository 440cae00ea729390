"""The best separated prototypes known to us for any C and d."""

import torch

from dl2pa.prototypes.closed_form import polygon, simplex_and_pairs
from dl2pa.prototypes.draws import generator, turn_and_shuffle
from dl2pa.prototypes.optimised import separated


def exact(num_classes: int, dimension: int, *, seed: int) -> torch.Tensor:
    """[C, d] float64 unit rows with the lowest maximum cosine: proven up to C = 2d and on a circle, else as found.

    C <= d + 1: simplex, -1 / (C - 1). C <= 2d: 0. d = 2: regular polygon. Above 2d no formula is known in general and a
    search gives maximum cosines .33, .11 (C = 100, d = 10, 25) and .18, .075 (C = 200, d = 25, 50), where 10,000 steps
    of the HPN objective give .377, .134, .216, .105. The seed draws orientation and order, or the start of the search.
    """
    if num_classes <= 2 * dimension:
        return turn_and_shuffle(simplex_and_pairs(num_classes, dimension), generator(seed))
    if dimension == 2:
        return turn_and_shuffle(polygon(num_classes), generator(seed))
    return separated(num_classes, dimension, seed=seed)
