"""Random points and orientations, in float64, from a generator of their own: torch's global one is never touched."""

import torch

from dl2pa.seeding import Stream, derive


def generator(seed: int, *position: int) -> torch.Generator:
    """A new generator on the CPU for the prototypes of this seed; `position` separates several starts of one seed."""
    source: torch.Generator = torch.Generator()
    source.manual_seed(derive(seed, Stream.PROTOTYPES, *position))
    return source


def random_points(num_classes: int, dimension: int, source: torch.Generator) -> torch.Tensor:
    """[C, d] float64, independent and uniform on the unit sphere (normalised Gaussians)."""
    points = torch.randn(num_classes, dimension, generator=source, dtype=torch.float64)
    return torch.nn.functional.normalize(points, dim=1)


def turn_and_shuffle(points: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """[C, d] float64 points, turned by a Haar-random orthogonal map and put in random order.

    The order is drawn because a formula lists its points by structure (a point, its antipode, ...), and which two
    classes become antipodal should be the seed's choice, not that of the label order.
    """
    dimension = points.shape[1]
    gaussian = torch.randn(dimension, dimension, generator=source, dtype=torch.float64)
    orthogonal, triangular = torch.linalg.qr(gaussian)
    # Without these signs the map is not Haar distributed (Mezzadri 2007, "How to generate random matrices ...").
    orthogonal = orthogonal * triangular.diagonal().sign()
    turned: torch.Tensor = points @ orthogonal.T
    return turned[torch.randperm(len(points), generator=source)]
