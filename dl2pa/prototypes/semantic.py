"""Prototypes that say how alike the classes are: from the words of their names, or from the tree of their labels.

All return [C, d] float64 unit rows. Imports no torch: validation asks here what is possible.
"""

import numpy as np

from dl2pa.data.superclasses import superclasses
from dl2pa.errors import UserError
from dl2pa.prototypes.energy import Points
from dl2pa.prototypes.kinds import Options
from dl2pa.prototypes.reduce import classical_scaling, rank, reduced, scaled_axes
from dl2pa.prototypes.words import word_vectors
from dl2pa.seeding import Stream, derive

_TIE_BREAK = 1e-6


def semantic(
    num_classes: int, dimension: int, *, seed: int, words: str | None, file: str | None, key: str | None, reduce: str
) -> Points:
    """Word2Vec prototypes, as HPN (Mettes et al., NeurIPS 2019) compares with: word vectors in d dimensions.

    `words`, `file` and `key` as in word_vectors; unit vectors are reduced by `reduce` (see reduce.reduced), and made
    unit vectors again. Which reduction HPN used is not known. Raises UserError for a d above the vectors' rank.
    """
    vectors = _unit(word_vectors(words, num_classes, file, key))
    if problem := _too_many(dimension, vectors, reduce):
        raise UserError(problem)
    source = np.random.default_rng(derive(seed, Stream.PROTOTYPES))
    return _unit(reduced(vectors, dimension, reduce, source))


def label_tree(num_classes: int, dimension: int, *, seed: int, words: str) -> Points:
    """Classical scaling of the classes' distances in the tree root - superclass - class: 2 within a superclass, else 4.

    No word is read: a stand-in for word vectors that knows the superclasses alone. All superclasses are equally far
    apart, and so are the classes in them, hence most eigenvalues are equal; the seed chooses the axes among them.
    """
    if problem := label_tree_problem(num_classes, dimension, Options(words=words)):
        raise UserError(problem)
    parents = superclasses(words)
    distances = np.where(parents[:, None] == parents[None, :], 2.0, 4.0)
    np.fill_diagonal(distances, 0)
    noise = np.random.default_rng(derive(seed, Stream.PROTOTYPES)).standard_normal(distances.shape)
    values, axes = classical_scaling(distances**2 + _TIE_BREAK * (noise + noise.T))
    return _unit(scaled_axes(values, axes, dimension))


def semantic_problem(num_classes: int, dimension: int, options: Options) -> str | None:
    """Why these sizes and options cannot be, as far as it shows without reading a user's file, or None."""
    if options.seed is not None and options.reduce != "random_projection":
        return f"seed={options.seed}: does nothing with reduce={options.reduce}, which draws nothing"
    if options.file is not None:
        return None
    try:
        vectors = word_vectors(options.words, num_classes, None, options.key)
    except UserError as error:
        return str(error)
    return _too_many(dimension, _unit(vectors), options.reduce)


def words_problem(num_classes: int, dimension: int, options: Options) -> str | None:
    """The same for separation_semantic, which reduces nothing."""
    if num_classes < 4:
        return f"num_classes={num_classes}: must be at least 4, two neighbours of a class and one other"
    if options.file is not None:
        return None
    try:
        word_vectors(options.words, num_classes, None, options.key)
    except UserError as error:
        return str(error)
    return None


def label_tree_problem(num_classes: int, dimension: int, options: Options) -> str | None:
    """Why label_tree cannot have these sizes and words, or None."""
    try:
        parents = superclasses(options.words)
    except UserError as error:
        return str(error)
    if len(parents) != num_classes:
        return f"words={options.words}: has {len(parents)} classes, not num_classes={num_classes}"
    low, high = len(np.unique(parents)), num_classes - 1
    if not low <= dimension <= high:
        return (
            f"dimension={dimension}: kind=label_tree with words={options.words} takes {low} to {high} "
            f"(below, classes of one superclass fall together; above, there are no more axes)"
        )
    return None


def _too_many(dimension: int, vectors: Points, reduce: str) -> str | None:
    found = rank(vectors, reduce)
    if dimension > found:
        return (
            f"dimension={dimension}: the word vectors of {len(vectors)} classes have rank {found} with "
            f"reduce={reduce}; use dimension <= {found}"
        )
    return None


def _unit(rows: Points) -> Points:
    unit: Points = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
