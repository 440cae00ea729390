"""Neural collapse against its definition in numpy, and at the points where it is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from dl2pa.diagnostics import Moments, closeness, collapse
from dl2pa.prototypes.build import build

CLASSES, DIMENSION = 4, 6


def moments(features: torch.Tensor, labels: torch.Tensor, batches: int = 1) -> Moments:
    found = Moments(CLASSES, features.shape[1])
    for part, names in zip(features.chunk(batches), labels.chunk(batches), strict=True):
        found.observe(part.float(), torch.zeros(0), F.one_hot(names, CLASSES).float())
    return found


def cloud(seed: int = 0, per_class: tuple[int, ...] = (30, 20, 10, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, DIMENSION, generator=draw)
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(per_class))
    return F.normalize(centres[labels] + 0.3 * torch.randn(len(labels), DIMENSION, generator=draw), dim=1), labels


def test_against_the_definition() -> None:
    features, labels = cloud()
    vectors = torch.randn(CLASSES, DIMENSION, generator=torch.Generator().manual_seed(1))
    found = collapse(moments(features, labels, batches=5), vectors)

    h, y, w = features.double().numpy(), labels.numpy(), vectors.double().numpy()
    means = np.stack([h[y == c].mean(axis=0) for c in range(CLASSES)])
    within = np.mean([np.outer(x - means[c], x - means[c]) for x, c in zip(h, y, strict=True)], axis=0)
    centred = means - means.mean(axis=0)
    between = centred.T @ centred / CLASSES
    norms = np.linalg.norm(centred, axis=1)
    cosines = [centred[i] @ centred[j] / norms[i] / norms[j] for i in range(CLASSES) for j in range(CLASSES) if i != j]
    own = [means[c] @ w[c] / np.linalg.norm(means[c]) / np.linalg.norm(w[c]) for c in range(CLASSES)]
    assert found["nc1"] == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / CLASSES, rel=1e-4)
    assert found["nc2_norms"] == pytest.approx(norms.std() / norms.mean(), rel=1e-5)
    assert found["nc2_angles"] == pytest.approx(np.mean(np.abs(np.array(cosines) + 1 / 3)), rel=1e-5)
    assert found["nc3"] == pytest.approx(
        np.linalg.norm(w / np.linalg.norm(w) - centred / np.linalg.norm(centred)) ** 2, rel=1e-5
    )
    assert found["cosine_mean"] == pytest.approx(np.mean(own), rel=1e-5)
    assert found["cosine_min"] == pytest.approx(min(own), rel=1e-5)


def test_zero_at_collapse_on_a_simplex() -> None:
    simplex = F.normalize(torch.eye(CLASSES) - 1 / CLASSES, dim=1)
    labels = torch.arange(CLASSES).repeat(8)
    found = collapse(moments(simplex[labels], labels), simplex)
    for name in ("nc1", "nc2_norms", "nc2_angles", "nc3"):
        assert found[name] == pytest.approx(0, abs=1e-5), name
    assert found["cosine_min"] == pytest.approx(1)


def test_classes_without_images_are_left_out() -> None:
    features, labels = cloud()
    three = labels < 3
    found = collapse(moments(features[three], labels[three]), None)
    assert all(np.isfinite(value) for value in found.values())
    assert "nc3" not in found
    assert collapse(moments(features[labels == 0], labels[labels == 0]), None) == {}


def test_closeness_is_one_when_similar_classes_are_near_and_null_on_a_simplex() -> None:
    vectors = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    cosines = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
    assert closeness(vectors, cosines**3) == pytest.approx(1)  # ranks alone count
    assert closeness(vectors, -cosines) == pytest.approx(-1)
    assert closeness(torch.eye(8), cosines) is None
    few = (3 * cosines).round()  # most pairs are alike to several others
    rows, columns = np.triu_indices(8, k=1)
    expected = spearmanr(cosines.numpy()[rows, columns], few.numpy()[rows, columns]).statistic
    assert closeness(vectors, few) == pytest.approx(expected, abs=1e-12)


def test_closeness_is_the_same_in_every_orientation() -> None:
    """Also where the cosines take two values, which the rounding of a rotation splits up."""
    points = build(20, 10, "exact", seed=0).double()
    draw = torch.Generator().manual_seed(0)
    similarity = torch.randn(20, 20, generator=draw)
    similarity += similarity.T.clone()
    turned = points @ torch.linalg.qr(torch.randn(10, 10, generator=draw, dtype=torch.float64)).Q
    assert closeness(turned.float(), similarity) == closeness(points.float(), similarity)


def test_means_that_coincide_tell_nothing() -> None:
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor([5, 7, 9, 11]))
    draw = torch.Generator().manual_seed(0)
    for same in (torch.zeros(DIMENSION), F.normalize(torch.randn(DIMENSION, generator=draw), dim=0)):
        assert collapse(moments(same.expand(len(labels), -1), labels), torch.eye(CLASSES, DIMENSION)) == {}


def test_closeness_is_null_on_a_simplex_whose_cosine_is_rounded_to_either_side() -> None:
    points = build(129, 128, "simplex", seed=0)
    assert closeness(points, torch.rand(129, 129, generator=torch.Generator().manual_seed(0))) is None


def test_the_cosines_are_summed_up_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = cloud()
    whole = collapse(moments(features, labels), None)
    for block in (CLASSES, 2 * CLASSES + 1):
        monkeypatch.setattr("dl2pa.diagnostics._BLOCK", block)
        assert collapse(moments(features, labels), None) == pytest.approx(whole)
