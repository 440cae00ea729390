"""How the classes of a data set are related before any training, where that is known."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.data.superclasses import GROUPED, superclasses
from dl2pa.prototypes.words import NAMED, shipped, word_vectors


def superclass_of(source: str, num_classes: int) -> Tensor | None:
    """[C], the superclass of each class; None for a data set's source without any."""
    if source not in GROUPED:
        return None
    groups = torch.from_numpy(superclasses(source))
    return groups if len(groups) == num_classes else None


def word_similarity(source: str, num_classes: int) -> Tensor | None:
    """[C, C] float64, cosines of the class names' shipped word vectors; None where there are none for these classes."""
    if source not in NAMED or len(shipped(source)) != num_classes:
        return None
    return similarity("words", source, num_classes)


def similarity(kind: str, source: str, num_classes: int) -> Tensor:
    """[C, C]: ``tree``, one where classes share a superclass and else zero; ``words``, the cosines of their names.

    Raises UserError where that is not known for the data set.
    """
    if kind == "tree":
        groups = torch.from_numpy(superclasses(source))
        return (groups.unsqueeze(1) == groups).double()
    vectors = F.normalize(torch.from_numpy(word_vectors(source, num_classes)), dim=1)
    return vectors @ vectors.T
