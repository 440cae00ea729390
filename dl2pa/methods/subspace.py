"""Subspace head: a class is the span of K orthonormal learned vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl2pa.methods.heads import Head


class SubspaceHead(Head):
    """scores[b, c] = s |U_c^T h_b| with h = z / |z| and U_c [d, K], U_c^T U_c = I, learned by gradient.

    An interpretation of Goto et al. (WACV 2024), who replace a class's sub-centroids by an orthonormal matrix and the
    hard choice of one of them by a continuous one: the exact logit of that paper could not be checked. ``norm`` is the
    logit of Grassmann class representations (ICCV 2023), with its scale 25 and K 8. ``soft_columns`` is nearer to the
    abstract's words: s sum_k a_k u_ck . h with a = softmax_k(u_ck . h / column_temperature). ``signed`` is K = 1
    without the absolute value that the norm of a single number is.
    """

    def __init__(
        self,
        dimension: int,
        num_classes: int,
        columns: int,
        scale: float,
        variant: str = "norm",
        column_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.variant = variant
        self.column_temperature = column_temperature
        self.matrices = nn.Parameter(torch.linalg.qr(torch.randn(num_classes, dimension, columns))[0])

    def bases(self) -> Tensor:
        """U [C, d, K]: the orthonormal factor of the trained matrices.

        The factor with a positive diagonal of R is the one that moves continuously: a column that changed sign would
        turn soft_columns and signed over. (Weight decay drives torch's own orthogonal parametrisation, Householder
        vectors with signs on the diagonal, to zero in a single step.)
        """
        q, r = torch.linalg.qr(self.matrices)
        signs = r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        bases: Tensor = q * signs
        return bases

    @torch.no_grad()
    def end_step(self, epoch: int, last: bool = False) -> None:
        """Back to orthonormal columns. Scores do not feel the matrices' length, but what a step does to them falls with
        its square, and steps and weight decay change it."""
        self.matrices.copy_(self.bases())

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        features = F.normalize(embedding, dim=1)
        along = torch.einsum("bd,cdk->bck", features, self.bases())
        if self.variant == "norm":
            scores = along.norm(dim=2)
        elif self.variant == "soft_columns":
            scores = ((along / self.column_temperature).softmax(dim=2) * along).sum(dim=2)
        else:
            scores = along.squeeze(2)
        return features, self.scale * scores
