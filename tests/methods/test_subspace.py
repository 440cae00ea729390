"""Subspace head: what the scores mean, and that the columns stay orthonormal while they are trained."""

import pytest
import torch
import torch.nn.functional as F

from dl2pa.methods.subspace import SubspaceHead

CLASSES, DIMENSION = 5, 6


def head(columns: int, variant: str = "norm") -> SubspaceHead:
    torch.manual_seed(0)
    return SubspaceHead(DIMENSION, CLASSES, columns, 25.0, variant, 0.1).double()


def embeddings() -> torch.Tensor:
    return torch.randn(7, DIMENSION, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_feature_inside_a_classs_subspace_has_the_largest_score_there_is() -> None:
    made = head(3)
    inside = made.bases()[2].detach() @ torch.tensor([3.0, -4.0, 1.0]).double()
    scores = made(inside.unsqueeze(0))[1][0]
    assert scores[2].item() == pytest.approx(25)
    assert scores.argmax() == 2


def test_one_column_is_the_absolute_cosine_and_signed_the_cosine() -> None:
    z, signed = embeddings(), head(1, "signed")
    cosine = F.normalize(z, dim=1) @ F.normalize(signed.matrices[:, :, 0], dim=1).T
    torch.testing.assert_close(signed(z)[1], 25 * cosine)
    torch.testing.assert_close(head(1)(z)[1], 25 * cosine.abs())
    assert (cosine < 0).any()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_columns_stay_orthonormal_and_scores_do_not_feel_weight_decay(decay: float) -> None:
    made, z = head(3), embeddings()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, weight_decay=decay)
    start = made.bases().detach()
    for _ in range(20):
        loss = F.cross_entropy(made(z)[1], torch.arange(7) % CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bases = made.bases().detach()
    eye = torch.eye(3, dtype=torch.float64).expand(CLASSES, 3, 3)
    torch.testing.assert_close(bases.mT @ bases, eye)
    assert (bases - start).abs().max() > 0.1
    before = made(z)[1]
    with torch.no_grad():
        made.matrices.mul_(0.01)  # all that weight decay does
    torch.testing.assert_close(made(z)[1], before)


def test_columns_do_not_change_sign_by_a_small_step() -> None:
    """LAPACK's own factor turns a column over where the leading entry of the matrix passes zero."""
    made = head(1, "signed")
    with torch.no_grad():
        made.matrices[:, 0, 0] = 1e-9
        before = made.bases()
        made.matrices[:, 0, 0] = -1e-9
        torch.testing.assert_close(made.bases(), before, atol=1e-6, rtol=0)


def test_soft_columns_turn_to_the_best_column_as_the_temperature_falls() -> None:
    z, made = embeddings(), head(3, "soft_columns")
    made.column_temperature = 1e-4
    along = torch.einsum("bd,cdk->bck", F.normalize(z, dim=1), made.bases())
    torch.testing.assert_close(made(z)[1], 25 * along.amax(dim=2), atol=1e-2, rtol=0)
    made.column_temperature = 1e6
    torch.testing.assert_close(made(z)[1], 25 * along.mean(dim=2), atol=1e-4, rtol=0)
