"""Every loss, and training steps with it, against a few lines of numpy in float64."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from composing import compose_config
from torch import Tensor, nn

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.compiled import Compiler
from dl2pa.errors import UserError
from dl2pa.losses import Target, build_cost, cross_entropy, dot_regression, inverse_frequency, membership, reduce
from dl2pa.methods.heads import PrototypeHead
from dl2pa.mixing import Mixing
from dl2pa.model import Classifier
from dl2pa.optimizer import make_optimizer
from dl2pa.schedule import Schedule
from dl2pa.seeding import Stream, derive
from dl2pa.trainer import Trainer

Array = npt.NDArray[np.float64]
CLASSES, DIMENSION, BATCH = 5, 3, 8
SIGMA = torch.tensor([3, 0, 4, 1, 2])
LABELS = torch.tensor([0, 0, 0, 1, 2, 2, 4, 0])  # class 3 is absent
OTHER = LABELS.roll(1)
TEMPERATURE = 0.3
COUNTS = torch.tensor([100, 40, 20, 10, 4])
LOSSES = ("squared_cosine", "dot_regression", "cross_entropy")


def gaussians(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PROTOTYPES = F.normalize(gaussians(0, CLASSES, DIMENSION), dim=1)


# -- numpy's side: nothing of the product is used


def np_e(counts: Array) -> Array:
    """E_c = sqrt((B / K) / n_c), one for absent classes."""
    e = np.ones(len(counts))
    e[counts > 0] = np.sqrt(counts.sum() / (counts > 0).sum() / counts[counts > 0])
    return e


def np_loss(
    name: str, h: Array, owned: Array, labels: Array, other: Array | None, lam: float, reduction: str, weights: str
) -> float:
    """Loss of features ``h`` [B, d], any length, towards ``owned`` [C, d] in class order."""
    e = np_e(COUNTS.numpy().astype(float) if weights == "global" else np.bincount(labels, minlength=CLASSES))

    def one(b: int, y: int) -> float:
        if name == "squared_cosine":
            return (1 - h[b] @ owned[y]) ** 2
        if name == "dot_regression":
            m, length = e[y] * owned[y], np.linalg.norm(h[b])
            return 0.5 * (h[b] @ m - np.linalg.norm(m) * length) ** 2 / length
        z = owned @ h[b] / TEMPERATURE
        return float(np.log(np.exp(z).sum()) - z[y])

    values = [
        one(b, labels[b]) if other is None else lam * one(b, labels[b]) + (1 - lam) * one(b, other[b])
        for b in range(len(h))
    ]
    return float(np.sum(values) if reduction == "sum" else np.mean(values))


def np_gradient(f: Callable[[Array], float], at: Array) -> Array:
    """Central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-6
        gradient[index] = (f(at + step) - f(at - step)) / 2e-6
    return gradient


def np_unit(z: Array) -> Array:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


# -- ours


def our_loss(name: str, h: Tensor, target: Target, reduction: str, weights: str) -> Tensor:
    cost, factors = build_cost(name, weights, TEMPERATURE, COUNTS)(h @ PROTOTYPES[SIGMA].T, h, target.labels)
    return reduce(cost, target._replace(weights=factors), reduction)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize(
    ("name", "weights", "unit"),
    [
        ("squared_cosine", "batch", True),
        ("dot_regression", "batch", True),
        ("dot_regression", "batch", False),
        ("dot_regression", "global", True),
        ("dot_regression", "global", False),
        ("cross_entropy", "batch", True),
    ],
)
def test_losses_against_numpy(name: str, weights: str, unit: bool, mixup: bool, reduction: str) -> None:
    h = gaussians(1, BATCH, DIMENSION)
    h = F.normalize(h, dim=1) if unit else 2 * h
    target = Target(LABELS, OTHER, torch.tensor(0.7, dtype=torch.float64)) if mixup else Target(LABELS)
    ours = our_loss(name, h, target, reduction, weights)
    other = OTHER.numpy() if mixup else None
    expected = np_loss(name, h.numpy(), PROTOTYPES[SIGMA].numpy(), LABELS.numpy(), other, 0.7, reduction, weights)
    assert ours.dtype == torch.float64
    # Fixed weights come in float32, as the parts of a run do.
    assert ours.item() == pytest.approx(expected, rel=1e-6 if weights == "global" else 1e-12)


def test_the_dot_regressions_weights() -> None:
    """Labels 0 0 0 1 of three classes: B / K = 2, E_0 = 0.8165, E_1 = 1.4142; absent classes have one."""
    squares = inverse_frequency(torch.tensor([3.0, 1.0, 0.0]))
    assert squares.sqrt().tolist() == pytest.approx([0.8165, 1.4142, 1.0], abs=5e-5)
    scores = torch.full((4, 3), 0.3)
    _, weights = build_cost("dot_regression", "batch", 1.0, COUNTS)(
        scores, torch.eye(3)[[0, 0, 0, 1]], LABELS[[0, 0, 0, 3]]
    )
    assert weights is not None
    torch.testing.assert_close(weights, squares)


def test_every_class_of_a_batch_has_the_same_weight_in_the_dot_regression() -> None:
    counts = torch.bincount(LABELS, minlength=CLASSES)
    totals = inverse_frequency(counts) * counts
    assert totals.tolist() == pytest.approx([BATCH / 4] * 3 + [0, BATCH / 4])


def test_the_dot_regression_is_half_e_squared_times_the_squared_cosine_for_unit_features() -> None:
    h = F.normalize(gaussians(2, 64, DIMENSION), dim=1)
    labels = torch.arange(64) % 7 % CLASSES
    ours = our_loss("dot_regression", h, Target(labels), "sum", "batch")
    cosines = (h * PROTOTYPES[SIGMA[labels]]).sum(dim=1)
    e = torch.from_numpy(np_e(np.bincount(labels.numpy(), minlength=CLASSES)))
    assert ours.item() == pytest.approx((0.5 * e[labels] ** 2 * (1 - cosines) ** 2).sum().item(), rel=1e-6)


def test_the_dot_regressions_length_has_no_gradient() -> None:
    """Of features of any length: |h| is a constant in the derivative, which the full derivative is not."""
    h = (2 * gaussians(3, BATCH, DIMENSION)).requires_grad_()
    our_loss("dot_regression", h, Target(LABELS), "sum", "batch").backward()
    at, owned, labels = h.detach().numpy(), PROTOTYPES[SIGMA].numpy(), LABELS.numpy()
    e, lengths = np_e(np.bincount(labels, minlength=CLASSES)), np.linalg.norm(at, axis=1)

    def held(x: Array) -> float:
        m = e[labels, None] * owned[labels]
        return float((0.5 * ((x * m).sum(1) - np.linalg.norm(m, axis=1) * lengths) ** 2 / lengths).sum())

    def full(x: Array) -> float:
        return np_loss("dot_regression", x, owned, labels, None, 1.0, "sum", "batch")

    assert h.grad is not None
    np.testing.assert_allclose(h.grad.numpy(), np_gradient(held, at), atol=1e-7)
    assert np.abs(h.grad.numpy() - np_gradient(full, at)).max() > 0.1


def test_the_dot_regression_of_a_vanished_feature_is_finite() -> None:
    h = torch.zeros(2, DIMENSION, dtype=torch.float64, requires_grad=True)
    loss = dot_regression(h @ PROTOTYPES.T, h).sum()
    loss.backward()
    assert loss.item() == 0
    assert h.grad is not None
    assert h.grad.isfinite().all()


def test_cross_entropy_survives_small_temperatures() -> None:
    scores = torch.tensor([[1.0, -1.0]])
    assert cross_entropy(scores, 1e-3)[0].tolist() == pytest.approx([0, 2000])


def test_adjustment_needs_images_of_every_class() -> None:
    with pytest.raises(UserError, match=r"loss\.adjust .* class 1 has none: use loss\.adjust=0"):
        build_cost("cross_entropy", "batch", 1.0, torch.tensor([3, 0, 1]), adjust=1.0)
    build_cost("cross_entropy", "batch", 1.0, torch.tensor([3, 0, 1]))


@pytest.mark.parametrize("name", LOSSES)
def test_columns_of_the_cost_are_what_other_labels_would_cost(name: str) -> None:
    """An image's own weight aside, the cost of a class is the loss of an image with that label."""
    h = F.normalize(gaussians(4, 1, DIMENSION), dim=1)
    cost, _ = build_cost(name, "batch", TEMPERATURE, COUNTS)(h @ PROTOTYPES.T, h, torch.tensor([0]))
    for c in range(CLASSES):
        expected = np_loss(name, h.numpy(), PROTOTYPES.numpy(), np.array([c]), None, 1.0, "sum", "batch")
        assert cost[0, c].item() == pytest.approx(expected, rel=1e-9)  # a batch of one has E = 1


def test_shares() -> None:
    labels, other, lam = torch.tensor([0, 2]), torch.tensor([2, 2]), torch.tensor(0.75)
    assert membership(labels, 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert Target(labels).share(3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert Target(labels, other, lam).share(3).tolist() == [[0.75, 0, 0.25], [0, 0, 1]]
    assert Target(labels, other, lam).share(3, mixed=False).tolist() == [[1, 0, 0], [0, 0, 1]]


# -- steps of SGD: momentum and weight decay, against v <- m v + (g + w theta), theta <- theta - lr v

INPUTS, LR, MOMENTUM, DECAY = 4, 0.05, 0.9, 0.01
CASES = [
    ("squared_cosine", "sum", "batch"),
    ("squared_cosine", "mean", "batch"),
    ("dot_regression", "mean", "batch"),
    ("dot_regression", "mean", "global"),
    ("cross_entropy", "mean", "batch"),
]


def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches of 1 x 2 x 2 images."""
    return [(gaussians(10 + number, BATCH, 1, 2, 2), LABELS.roll(number)) for number in range(3)]


def linear() -> nn.Linear:
    net = nn.Linear(INPUTS, DIMENSION).double()
    with torch.no_grad():
        net.weight.copy_(gaussians(20, DIMENSION, INPUTS))
        net.bias.copy_(gaussians(21, DIMENSION))
    return net


def prototype_head() -> PrototypeHead:
    return PrototypeHead(PROTOTYPES, Assigner(SIGMA, Timetable(1), None))


def np_train(name: str, reduction: str, weights: str, lams: list[float] | None, factors: list[float]) -> Array:
    """[d, inputs + 1], weight and bias after one step a batch; images (and ones) are mixed with their neighbours."""
    theta = np.concatenate([gaussians(20, DIMENSION, INPUTS).numpy(), gaussians(21, DIMENSION, 1).numpy()], axis=1)
    velocity = np.zeros_like(theta)
    for number, (images, labels) in enumerate(batches()):
        x = np.concatenate([images.reshape(BATCH, INPUTS).numpy(), np.ones((BATCH, 1))], axis=1)
        lam, other = 1.0, None
        if lams is not None:
            lam, other = lams[number], np.roll(labels.numpy(), 1)
            x = lam * x + (1 - lam) * np.roll(x, 1, axis=0)

        y = labels.numpy()

        def loss(at: Array, x: Array = x, y: Array = y, other: Array | None = other, lam: float = lam) -> float:
            h = np_unit(x @ at.T)
            return np_loss(name, h, PROTOTYPES[SIGMA].numpy(), y, other, lam, reduction, weights)

        velocity = MOMENTUM * velocity + np_gradient(loss, theta) + DECAY * theta
        theta = theta - LR * factors[number] * velocity
    return theta


@pytest.mark.parametrize(("name", "reduction", "weights"), CASES)
def test_sgd_steps_in_float64(name: str, reduction: str, weights: str) -> None:
    """The optimizer that a config asks for, on a linear network below a prototype head."""
    cfg = compose_config(
        "optimizer=sgd", f"optimizer.lr={LR}", f"optimizer.momentum={MOMENTUM}", f"optimizer.weight_decay={DECAY}"
    )
    model = Classifier(linear(), nn.Identity(), nn.Identity(), prototype_head().double(), torch.float32)
    optimizer = make_optimizer(cfg, model)
    for images, labels in batches():
        features, _ = model.head(model.backbone(images.flatten(1)))
        optimizer.zero_grad()
        our_loss(name, features, Target(labels), reduction, weights).backward()
        optimizer.step()
    trained = torch.cat([model.backbone.weight, model.backbone.bias.unsqueeze(1)], dim=1).detach().numpy()
    expected = np_train(name, reduction, weights, None, [1, 1, 1])
    np.testing.assert_allclose(trained, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(trained - np_train(name, reduction, weights, None, [0, 0, 0])).max() > 1e-2  # it went somewhere


class ThreeBatches:
    """A loader of one epoch."""

    steps = 3

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in batches()[start:]:
            yield images.float(), labels


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize(("name", "reduction", "weights"), CASES)
def test_an_epoch_of_the_trainer(name: str, reduction: str, weights: str, alpha: float) -> None:
    """The loop itself, in float32: mixup, the schedule's factor at each step, and the mean loss that it reports."""
    model = Classifier(
        nn.Sequential(nn.Flatten(), linear().float()),
        nn.Identity(),
        nn.Identity(),
        prototype_head().float(),
        torch.float32,
    )
    schedule = Schedule("linear", epochs=1, per="step")
    factors = [schedule.factor(0, step, 3) for step in range(3)]
    trainer = Trainer(
        model=model,
        cost=build_cost(name, weights, TEMPERATURE, COUNTS),
        reduction=reduction,
        optimizer=torch.optim.SGD(model.parameters(), lr=99, momentum=MOMENTUM, weight_decay=DECAY),
        schedule=schedule,
        loader=ThreeBatches(),  # type: ignore[arg-type]
        num_classes=len(SIGMA),
        dimension=DIMENSION,
        mixing=Mixing(alpha, 0.0, "soft", 8, 3, torch.device("cpu"), epochs=1),
        lr=LR,
        seed=3,
        epochs=1,
        max_steps=None,
        device=torch.device("cpu"),
        compiler=Compiler(False, torch.device("cpu")),
    )
    told: list[tuple[float, bool]] = []
    trainer.fit(on_step=lambda: None, end_epoch=lambda loss, last: told.append((loss, last)))
    net = model.backbone[1]
    trained = torch.cat([net.weight, net.bias.unsqueeze(1)], dim=1).detach().numpy()
    lams = np.random.default_rng(derive(3, Stream.MIXUP, 0)).beta(alpha, alpha, 3).tolist() if alpha else None
    np.testing.assert_allclose(trained, np_train(name, reduction, weights, lams, factors), rtol=1e-4, atol=1e-5)
    assert len(set(factors)) == 3
    assert [last for _, last in told] == [True]
    assert trainer.position.images == 3 * BATCH


def test_the_trainer_reports_the_mean_loss_of_an_image_for_a_sum_as_for_a_mean() -> None:
    told: dict[str, float] = {}
    for reduction in ("sum", "mean"):
        model = Classifier(nn.Flatten(), linear().float(), nn.Identity(), prototype_head().float(), torch.float32)
        trainer = Trainer(
            model=model,
            cost=build_cost("squared_cosine", "batch", 1.0, COUNTS),
            reduction=reduction,
            optimizer=torch.optim.SGD(model.parameters()),
            schedule=Schedule("linear", epochs=1),
            loader=ThreeBatches(),  # type: ignore[arg-type]
            num_classes=len(SIGMA),
            dimension=DIMENSION,
            mixing=Mixing(0.0, 0.0, "soft", 8, 0, torch.device("cpu"), epochs=1),
            lr=0.0,
            seed=0,
            epochs=1,
            max_steps=None,
            device=torch.device("cpu"),
            compiler=Compiler(False, torch.device("cpu")),
        )
        trainer.fit(lambda: None, lambda loss, last, key=reduction: told.update({key: loss}))  # type: ignore[misc]
    net, expected = linear(), 0.0
    for images, labels in batches():
        h = np_unit(net(images.flatten(1)).detach().numpy())
        owned = PROTOTYPES[SIGMA].numpy()
        expected += np_loss("squared_cosine", h, owned, labels.numpy(), None, 1.0, "mean", "batch") / 3
    assert told == {"sum": pytest.approx(expected, rel=1e-5), "mean": pytest.approx(expected, rel=1e-5)}
