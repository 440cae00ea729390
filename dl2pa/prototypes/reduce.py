"""Vectors in fewer dimensions, in numpy alone."""

import numpy as np

from dl2pa.prototypes.energy import Points


def rank(vectors: Points, method: str) -> int:
    """How many dimensions `reduced` can give unit vectors [C, D]."""
    if method == "mds":
        return int((classical_scaling(_squared_angles(vectors))[0] > 0).sum())
    return int(np.linalg.matrix_rank(vectors))


def reduced(vectors: Points, dimension: int, method: str, source: np.random.Generator) -> Points:
    """[C, d] of any length, from unit vectors [C, D] and d <= rank(vectors, method).

    pca: principal components; of the vectors as they are where centred ones span too little (d > C - 1). mds: classical
    scaling of the angles between the vectors; of their chords it would be pca. random_projection: onto Gaussian axes
    drawn from `source`.
    """
    if method == "random_projection":
        projected: Points = vectors @ source.standard_normal((vectors.shape[1], dimension))
        return projected
    if method == "mds":
        return scaled_axes(*classical_scaling(_squared_angles(vectors)), dimension)
    centred = vectors - vectors.mean(axis=0)
    spanning = centred if np.linalg.matrix_rank(centred) >= dimension else vectors
    axes, lengths, _ = np.linalg.svd(spanning, full_matrices=False)
    return scaled_axes(lengths**2, axes, dimension)


def classical_scaling(squared_distances: Points) -> tuple[Points, Points]:
    """Classical multidimensional scaling (Torgerson 1952) of [C, C]: eigenvalues, largest first, and axes [C, C].

    Eigenvalues that are zero up to rounding are 0; negative ones belong to distances that no Euclidean space has.
    """
    centred = squared_distances - squared_distances.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    values, axes = np.linalg.eigh(-(centred + centred.T) / 4)
    values[np.abs(values) < len(values) * np.finfo(np.float64).eps * np.abs(values).max()] = 0
    return values[::-1], axes[:, ::-1]


def scaled_axes(values: Points, axes: Points, dimension: int) -> Points:
    """Coordinates [C, d] on the first d axes."""
    coordinates: Points = axes[:, :dimension] * np.sqrt(values[:dimension])
    return coordinates


def _squared_angles(vectors: Points) -> Points:
    angles = np.arccos(np.clip(vectors @ vectors.T, -1, 1))
    np.fill_diagonal(angles, 0)
    return np.asarray(angles**2)
