"""Heads: scores by hand, what is trained, and that classes rather than prototypes are predicted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import EpochMean, Queue
from dl2pa.losses import Target
from dl2pa.methods.heads import CosineHead, Head, LinearHead, PrototypeHead, softmax_head

VARIANTS = ("linear", "frozen_linear", "cos_unscaled", "cos_scaled")
CLASSES, DIMENSION = 5, 3


def gaussians(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROTOTYPES = F.normalize(gaussians(0, CLASSES, DIMENSION), dim=1)


def prototype_head(sigma: list[int] | None = None, mixed: bool = True) -> PrototypeHead:
    first = torch.arange(CLASSES) if sigma is None else torch.tensor(sigma)
    return PrototypeHead(PROTOTYPES, Assigner(first, Timetable(10), EpochMean(CLASSES, DIMENSION)), mixed=mixed)


def statistic_of(head: PrototypeHead) -> EpochMean:
    assert isinstance(head.assigner.statistic, EpochMean)
    return head.assigner.statistic


def trained(head: Head) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in head.named_parameters() if p.requires_grad}


# -- fixed prototypes


def test_scores_are_cosines_to_the_prototype_that_each_class_owns() -> None:
    embedding, sigma = gaussians(1, 4, DIMENSION), [3, 0, 4, 1, 2]
    features, scores = prototype_head(sigma)(embedding)
    for b in range(4):
        h = embedding[b] / math.sqrt(sum(float(x) ** 2 for x in embedding[b]))
        torch.testing.assert_close(features[b], h)
        for c in range(CLASSES):
            assert scores[b, c] == pytest.approx(float(h @ PROTOTYPES[sigma[c]]), abs=1e-6)


def test_scores_follow_the_assignment_and_features_do_not() -> None:
    head, embedding = prototype_head(), gaussians(1, 4, DIMENSION)
    features, scores = head(embedding)
    sigma = torch.tensor([3, 0, 4, 1, 2])
    head.assigner.sigma.copy_(sigma)
    features_after, scores_after = head(embedding)
    assert torch.equal(features_after, features)
    torch.testing.assert_close(scores_after, scores[:, sigma])
    assert torch.equal(head.assignment(), sigma)


def test_without_normalisation_lengths_count_in_the_scores_and_not_in_the_statistics() -> None:
    sigma, embedding = [3, 0, 4, 1, 2], gaussians(1, CLASSES, DIMENSION)
    assigner = Assigner(torch.tensor(sigma), Timetable(10), EpochMean(CLASSES, DIMENSION))
    head = PrototypeHead(PROTOTYPES, assigner, normalise=False)
    features, scores = head(embedding)
    assert torch.equal(features, embedding)
    torch.testing.assert_close(scores, embedding @ PROTOTYPES[sigma].T)
    head.observe(features, torch.zeros(CLASSES, CLASSES), Target(torch.arange(CLASSES)))
    assert isinstance(assigner.statistic, EpochMean)
    torch.testing.assert_close(assigner.statistic.sums, F.normalize(embedding, dim=1))


def test_the_prediction_is_the_owner_of_the_nearest_prototype() -> None:
    sigma = [3, 0, 4, 1, 2]
    _, scores = prototype_head(sigma)(7 * PROTOTYPES)  # one embedding on each prototype, of no unit length
    assert scores.argmax(dim=1).tolist() == [sigma.index(p) for p in range(CLASSES)]


def test_the_assignment_moves_at_the_end_of_an_epoch_to_where_the_features_are() -> None:
    sigma = [3, 0, 4, 1, 2]
    head, labels = prototype_head(), torch.arange(CLASSES)
    features = PROTOTYPES[torch.tensor(sigma)]  # each class lies on a prototype that is not its own
    head.observe(features, torch.zeros(CLASSES, CLASSES), Target(labels))
    assert head(features)[1].argmax(dim=1).tolist() != labels.tolist()
    assert head.end_epoch(0)["moved"] == CLASSES
    assert head.assignment().tolist() == sigma
    assert head(features)[1].argmax(dim=1).tolist() == labels.tolist()


def test_prototypes_are_not_trained_but_stored_with_the_assignment() -> None:
    head = prototype_head([3, 0, 4, 1, 2])
    assert not list(head.parameters())
    stored = head.state_dict()
    torch.testing.assert_close(stored["prototypes"], PROTOTYPES)
    assert stored["assigner.sigma"].tolist() == [3, 0, 4, 1, 2]


def test_a_head_keeps_its_own_prototypes() -> None:
    points = PROTOTYPES.clone()
    head = PrototypeHead(points, Assigner(torch.arange(CLASSES), Timetable(10), None))
    points.zero_()
    assert torch.equal(head.prototypes, PROTOTYPES)


def test_gradients_reach_the_embedding() -> None:
    """d cos / dz = (w - cos h) / |z|."""
    embedding = gaussians(2, 1, DIMENSION).double().requires_grad_()
    head = prototype_head([1, 0, 2, 3, 4]).double()
    scores = head(embedding)[1]
    scores[0, 0].backward()
    z, w = embedding.detach()[0], PROTOTYPES[1].double()
    h, cosine = z / z.norm(), scores[0, 0].item()
    torch.testing.assert_close(embedding.grad, ((w - cosine * h) / z.norm()).unsqueeze(0))


@pytest.mark.parametrize("mixed", [True, False])
def test_mixed_images_count_for_both_classes_or_for_the_first_alone(mixed: bool) -> None:
    head, features = prototype_head(mixed=mixed), F.normalize(gaussians(3, 2, DIMENSION), dim=1)
    target = Target(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor(0.75))
    head.observe(features, torch.zeros(2, CLASSES), target)
    expected = torch.zeros(CLASSES, DIMENSION)
    expected[0] = features[0]
    expected[1] = features[1]
    if mixed:
        expected[0] = 0.75 * features[0]
        expected[1] = 0.75 * features[1] + 0.25 * features[0]
        expected[2] = 0.25 * features[1]
    torch.testing.assert_close(statistic_of(head).sums, expected)


def test_the_faithful_queue_takes_mixed_images_under_their_first_label() -> None:
    queue = Queue(CLASSES, DIMENSION, 0.9, torch.Generator().manual_seed(0))
    queue.queue.copy_(PROTOTYPES)
    head = PrototypeHead(PROTOTYPES, Assigner(torch.arange(CLASSES), Timetable(10), queue), mixed=False)
    features = F.normalize(gaussians(3, 2, DIMENSION), dim=1)
    target = Target(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor(0.01))
    head.observe(features, torch.zeros(2, CLASSES), target)
    torch.testing.assert_close(queue.queue[1:], PROTOTYPES[1:])
    torch.testing.assert_close(queue.queue[0], F.normalize(1.9 * PROTOTYPES[0] + 0.1 * features[1], dim=0))


def test_double_precision_goes_through() -> None:
    head = prototype_head().double()
    features, scores = head(gaussians(4, 6, DIMENSION).double())
    head.observe(features, scores, Target(torch.arange(6) % CLASSES))
    assert features.dtype == scores.dtype == statistic_of(head).sums.dtype == torch.float64
    assert statistic_of(head).sums[1].tolist() == features[1].tolist()


# -- learned class vectors


def test_linear_is_affine_and_trained() -> None:
    head, embedding = softmax_head("linear", DIMENSION, CLASSES, 1.0), gaussians(5, 4, DIMENSION)
    features, scores = head(embedding)
    assert isinstance(head, LinearHead)
    assert torch.equal(features, embedding)  # neither normalised nor changed
    torch.testing.assert_close(scores, embedding @ head.linear.weight.T + head.linear.bias)
    assert trained(head) == {"linear.weight": (CLASSES, DIMENSION), "linear.bias": (CLASSES,)}


def test_frozen_linear_trains_nothing_and_is_he_normal() -> None:
    torch.manual_seed(0)
    head = softmax_head("frozen_linear", 50, 2000, 1.0)
    assert isinstance(head, LinearHead)
    assert not trained(head)
    weight = head.linear.weight / math.sqrt(2 / 50)
    assert weight.mean() == pytest.approx(0, abs=0.02)
    assert weight.std() == pytest.approx(1, abs=0.02)
    # Normal and not uniform: 4.55 % lie beyond two standard deviations, of a uniform none.
    assert (weight.abs() > 2).float().mean() == pytest.approx(0.0455, abs=0.005)
    embedding = torch.randn(4, 50, requires_grad=True)
    head(embedding)[1].sum().backward()
    assert head.linear.weight.grad is None
    assert embedding.grad is not None  # what is before it still learns
    assert embedding.grad.abs().sum() > 0


@pytest.mark.parametrize(("variant", "scale"), [("cos_unscaled", 1.0), ("cos_scaled", 14.0)])
def test_cosine_heads_by_hand(variant: str, scale: float) -> None:
    head, embedding = softmax_head(variant, DIMENSION, CLASSES, 14.0), gaussians(6, 4, DIMENSION)
    assert isinstance(head, CosineHead)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([0.1, 1, 2, 3, 4]).unsqueeze(1))  # lengths that training may give them
    features, scores = head(embedding)
    torch.testing.assert_close(features, embedding / embedding.norm(dim=1, keepdim=True))
    cosines = F.cosine_similarity(embedding.unsqueeze(1), head.weight.unsqueeze(0), dim=2)
    torch.testing.assert_close(scores, scale * cosines)
    assert trained(head) == {"weight": (CLASSES, DIMENSION)}


def test_an_unscaled_cosine_softmax_cannot_be_confident() -> None:
    """Even a perfect embedding leaves ln(1 + 99 exp(-1 - 1/99)) = 3.61 nats of 100 classes; scaled, next to nothing."""
    vectors = F.normalize(torch.eye(100) - 0.01, dim=1)
    losses = {}
    for variant in ("cos_unscaled", "cos_scaled"):
        head = softmax_head(variant, 100, 100, 14.0)
        assert isinstance(head, CosineHead)
        with torch.no_grad():
            head.weight.copy_(vectors)
            losses[variant] = float(F.cross_entropy(head(vectors)[1], torch.arange(100)))
    assert losses["cos_unscaled"] == pytest.approx(3.61, abs=0.005)
    assert losses["cos_scaled"] < 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_softmax_heads_predict_the_largest_score_and_own_no_prototypes(variant: str) -> None:
    head = softmax_head(variant, DIMENSION, CLASSES, 14.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    features, scores = head(gaussians(7, 6, DIMENSION))
    assert scores.shape == (6, CLASSES)
    assert head.assignment() is None
    head.observe(features, scores, Target(torch.zeros(6, dtype=torch.long)))
    assert head.end_epoch(0) == {}
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
