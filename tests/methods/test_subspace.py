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


def trained(decay: float) -> SubspaceHead:
    made, z = head(3), embeddings()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, weight_decay=decay)
    for _ in range(20):
        loss = F.cross_entropy(made(z)[1], torch.arange(7) % CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.end_step(0)
    return made


def test_columns_are_orthonormal_from_the_first_step_to_the_last() -> None:
    """Steps turn a matrix of columns of length s by 1 / s^2 of what they turn orthonormal ones by."""
    eye = torch.eye(3, dtype=torch.float64).expand(CLASSES, 3, 3)
    start, made = head(3).matrices.detach(), trained(0.0).matrices.detach()
    for matrices in (start, made):
        torch.testing.assert_close(matrices.mT @ matrices, eye, atol=1e-6, rtol=0)
    assert (made - start).abs().max() > 0.3


def test_weight_decay_changes_a_steps_length_by_its_share_alone() -> None:
    """By 1 / (1 - lr decay), here 1.01, however many steps there are."""
    start, decayed, made = head(3).matrices, trained(0.1).matrices, trained(0.0).matrices
    assert (decayed - made).norm() < 0.02 * (made - start).norm()


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
