"""Deep nearest centroids: the bank's update against numpy, when it happens, and what a checkpoint keeps of it."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.losses import Target
from dl2pa.methods.dnc import NearestCentroidsHead, balanced_transport

Array = npt.NDArray[np.float64]
CLASSES, DIMENSION, VECTORS, BATCH, MOMENTUM = 4, 5, 2, 12, 0.7


def head(bank_batches: int = 3) -> NearestCentroidsHead:
    torch.manual_seed(0)
    made = NearestCentroidsHead(
        DIMENSION, CLASSES, VECTORS, bank_batches=bank_batches, batch_size=BATCH, momentum=MOMENTUM
    ).double()
    with torch.no_grad():  # learned weights over the classes change which of them is predicted
        made.score_norm.weight.copy_(torch.tensor([1.0, 0.8, 1.3, 1.1]))
        made.score_norm.bias.copy_(torch.tensor([0.1, -0.2, 0.0, 0.3]))
    # Near the features of their class, so that most are classified correctly and not all.
    for c in range(CLASSES):
        noise = torch.randn(VECTORS, DIMENSION, generator=torch.Generator().manual_seed(c), dtype=torch.float64)
        made.centroids[c] = F.normalize(torch.eye(DIMENSION, dtype=torch.float64)[c] + 0.5 * noise, dim=1)
    made.first.copy_(made.centroids)
    return made


def batches(sizes: tuple[int, ...] = (BATCH, BATCH, 7)) -> list[tuple[Tensor, Tensor]]:
    """Unit features, classes 0 to 2 scattered about directions of their own, and their labels; nothing of class 3."""
    source = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        labels = torch.randint(0, 3, (size,), generator=source)
        noise = torch.randn(size, DIMENSION, generator=source, dtype=torch.float64)
        found.append((F.normalize(torch.eye(DIMENSION, dtype=torch.float64)[labels] + 0.4 * noise, dim=1), labels))
    return found


def take(made: NearestCentroidsHead, features: Tensor, target: Target) -> None:
    made.observe(features, torch.zeros(0), target)
    made.end_step(0)


def observe(made: NearestCentroidsHead, batch: tuple[Tensor, Tensor]) -> None:
    take(made, batch[0], Target(batch[1]))


def unit(z: Array) -> Array:
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def sinkhorn(similarities: Array) -> Array:
    """[n, K] of one class: columns brought to 1 / K and rows to 1 / n, three times."""
    n, k = similarities.shape
    plan = np.exp(similarities / 0.05)
    for _ in range(3):
        plan = plan / plan.sum(axis=0) / k
        plan = plan / plan.sum(axis=1, keepdims=True) / n
    return plan * n


def updated(centroids: Array, x: Array, y: Array, weight: Array, bias: Array) -> tuple[Array, int]:
    """The sub-centroids after an update on features ``x`` with labels ``y``, and how many features were left out."""
    nearest = np.array([[max(v @ p for p in centroids[c]) for c in range(CLASSES)] for v in x])
    centred = nearest - nearest.mean(axis=1, keepdims=True)
    scores = centred / np.sqrt(nearest.var(axis=1, keepdims=True) + 1e-5) * weight + bias
    new, wrong = centroids.copy(), scores.argmax(axis=1) != y
    for c in range(CLASSES):
        members = np.flatnonzero(y == c)
        if len(members) == 0:
            continue
        chosen = sinkhorn(x[members] @ centroids[c].T).argmax(axis=1)
        for k in range(VECTORS):
            kept = x[members[(chosen == k) & ~wrong[members]]]
            if len(kept):
                new[c, k] = unit(MOMENTUM * centroids[c, k] + (1 - MOMENTUM) * unit(kept.sum(axis=0)))
    return new, int(wrong.sum())


def test_the_update_against_numpy() -> None:
    made = head()
    given = batches()
    before = made.centroids.numpy().copy()
    for batch in given[:2]:
        observe(made, batch)
        np.testing.assert_array_equal(made.centroids.numpy(), before)
    observe(made, given[2])
    x, y = (torch.cat([batch[part] for batch in given]).numpy() for part in (0, 1))
    weight, bias = made.score_norm.weight.detach().numpy(), made.score_norm.bias.detach().numpy()
    expected, wrong = updated(before, x, y, weight, bias)
    assert 0 < wrong < len(x) / 2
    np.testing.assert_allclose(made.centroids.numpy(), expected, atol=1e-12)
    assert (np.abs(expected - before).max(axis=(1, 2)) > 1e-3).tolist() == [True, True, True, False]


def test_the_bank_is_emptied_by_an_update() -> None:
    """The second update is that of the later batches alone."""
    made = head(bank_batches=1)
    first, second = batches((BATCH, 5))
    observe(made, first)
    between = made.centroids.numpy().copy()
    observe(made, second)
    weight, bias = made.score_norm.weight.detach().numpy(), made.score_norm.bias.detach().numpy()
    expected, _ = updated(between, second[0].numpy(), second[1].numpy(), weight, bias)
    np.testing.assert_allclose(made.centroids.numpy(), expected, atol=1e-12)
    everything = [torch.cat(parts).numpy() for parts in ((second[0], first[0][5:]), (second[1], first[1][5:]))]
    assert np.abs(expected - updated(between, everything[0], everything[1], weight, bias)[0]).max() > 1e-3


def test_a_class_without_correctly_classified_features_stays() -> None:
    made = head(bank_batches=1)
    x = F.normalize(made.centroids[1, 0].repeat(BATCH, 1), dim=1)
    with torch.no_grad():
        made.score_norm.weight.fill_(1.0)
        made.score_norm.bias.zero_()
    assert made._scores(x).argmax(dim=1).unique().tolist() == [1]
    before = made.centroids.clone()
    observe(made, (x, torch.zeros(BATCH, dtype=torch.long)))
    assert torch.equal(made.centroids, before)


def test_transport_spreads_a_class_evenly_over_its_sub_centroids() -> None:
    """Eight features that all lie nearer to the first of two sub-centroids: four go to each; other classes apart."""
    similarities = torch.stack([torch.linspace(0.6, 0.9, 8), torch.full((8,), 0.5)], dim=1).double()
    other = torch.tensor([[0.1, 0.9], [0.2, 0.9]]).double()
    share = torch.zeros(11, 2, dtype=torch.float64)
    share[:8, 0] = 1
    share[8:10, 1] = 1  # the last row is an empty place
    rows = torch.cat([similarities, other, torch.zeros(1, 2, dtype=torch.float64)])
    plan = balanced_transport(rows, share, iterations=50)
    torch.testing.assert_close(plan[:8].sum(dim=0), torch.tensor([4.0, 4.0]).double(), atol=1e-3, rtol=0)
    assert plan[:8].argmax(dim=1).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    torch.testing.assert_close(plan[8:10].sum(dim=0), torch.tensor([1.0, 1.0]).double(), atol=1e-3, rtol=0)
    assert plan.isfinite().all()


def test_a_mixed_image_counts_for_the_label_with_the_larger_share() -> None:
    made, (x, labels) = head(), batches()[0]
    take(made, x, Target(labels, labels.roll(1), torch.tensor(0.7)))
    take(made, x, Target(labels, labels.roll(1), torch.tensor(0.3)))
    assert torch.equal(made.bank_labels[:BATCH], labels)
    assert torch.equal(made.bank_labels[made.slot : made.slot + BATCH], labels.roll(1))


def test_a_batch_that_took_in_a_lone_last_image_has_room() -> None:
    made, (x, labels) = head(), batches()[0]
    first = made.centroids.clone()
    larger, named = torch.cat([x, x[:1]]), torch.cat([labels, labels[:1]])
    for _ in range(made.bank_batches):
        take(made, larger, Target(named))
    assert made.batches == 0
    assert not torch.equal(made.centroids, first)


def test_a_restored_head_goes_on_with_its_bank() -> None:
    given, whole, stopped, restored = batches(), head(), head(), head()
    for batch in given:
        observe(whole, batch)
    for batch in given[:2]:
        observe(stopped, batch)
    restored.load_state_dict(stopped.state_dict())
    observe(restored, given[2])
    assert torch.equal(restored.centroids, whole.centroids)
    assert not torch.equal(restored.centroids, stopped.centroids)


def test_how_far_the_sub_centroids_have_moved_is_reported() -> None:
    made = head(bank_batches=1)
    assert made.end_epoch(0) == {"cosine_first": pytest.approx(1.0)}
    start = made.centroids.clone()
    for batch in 5 * batches((BATCH, BATCH)):
        observe(made, batch)
    mean = float((made.centroids * start).sum(dim=2).mean())
    assert made.end_epoch(1) == {"cosine_first": pytest.approx(mean)}
    assert mean < 0.99
    torch.testing.assert_close(made.centroids.norm(dim=2), torch.ones(CLASSES, VECTORS).double())


def test_sub_centroids_get_no_gradient_and_the_norms_do() -> None:
    made = head()
    made(torch.randn(3, DIMENSION, dtype=torch.float64))[1].square().sum().backward()
    trained = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == {"norm.weight", "norm.bias", "score_norm.weight", "score_norm.bias"}
