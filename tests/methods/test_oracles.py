"""Every method's preset against a few lines of numpy in float64: the loss of a batch, and one step of SGD.

The numpy side uses nothing of the product; its gradients are central differences over every trained number.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from composing import compose_config
from omegaconf import DictConfig
from torch import Tensor, nn

from dl2pa.losses import Target, build_cost, reduce
from dl2pa.model import _HEADS, Classifier
from dl2pa.optimizer import make_optimizer

Array = npt.NDArray[np.float64]
Parameters = dict[str, Array]

CLASSES, INPUTS = 5, 4
LABELS = np.array([0, 0, 0, 1, 2, 2, 4, 0])  # class 3 is absent
COUNTS = np.array([100.0, 40.0, 20.0, 10.0, 4.0])
IMAGES = np.random.default_rng(0).normal(size=(len(LABELS), INPUTS))
LR, DECAY = 0.05, 0.01


# -- numpy's side


def unit(z: Array) -> Array:
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def simplex(k: int) -> Array:
    """P_k [k, k + 1] by the recursion of Kasarla et al. 2022."""
    if k == 1:
        return np.array([[1.0, -1.0]])
    below = np.hstack([np.zeros((k - 1, 1)), math.sqrt(1 - 1 / k**2) * simplex(k - 1)])
    return np.vstack([[1.0] + [-1 / k] * k, below])


def frame(dimension: int) -> Array:
    """[C, d], an ETF: all cosines -1 / (C - 1)."""
    a, _ = np.linalg.qr(np.random.default_rng(1).random((dimension, CLASSES)))
    centring = np.eye(CLASSES) - 1 / CLASSES
    return (math.sqrt(CLASSES / (CLASSES - 1)) * a @ centring).T


def sphere(dimension: int) -> Array:
    return unit(np.random.default_rng(2).normal(size=(CLASSES, dimension)))


def softmax_loss(logits: Array, smoothing: float = 0.0) -> float:
    losses = []
    for z, y in zip(logits, LABELS, strict=True):
        target = np.full(CLASSES, smoothing / CLASSES)
        target[y] += 1 - smoothing
        losses.append(-(target * (z - np.log(np.exp(z).sum()))).sum())
    return float(np.mean(losses))


def cosines(z: Array, w: Array) -> Array:
    return unit(z) @ unit(w).T


def squared_cosine(z: Array, w: Array, p: Parameters) -> float:
    return float(sum((1 - cosines(z, w)[b, y]) ** 2 for b, y in enumerate(LABELS)))


def dot_regression(z: Array, w: Array, p: Parameters) -> float:
    """1/2 E^2 (1 - cos)^2 behind a BatchNorm; E^2 = (8 images / 4 classes) / images of the class."""
    normal = (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5) * p["norm.weight"] + p["norm.bias"]
    e = {0: 2 / 4, 1: 2 / 1, 2: 2 / 2, 4: 2 / 1}
    return float(np.mean([0.5 * e[y] * (1 - cosines(normal, w)[b, y]) ** 2 for b, y in enumerate(LABELS)]))


def layer_norm(z: Array, weight: Array, bias: Array) -> Array:
    centred = z - z.mean(axis=1, keepdims=True)
    return centred / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5) * weight + bias


def dnc_scores(z: Array, centroids: Array, p: Parameters) -> Array:
    x = unit(layer_norm(z, p["head.norm.weight"], p["head.norm.bias"]))
    nearest = np.array([[max(x[b] @ v for v in centroids[c]) for c in range(CLASSES)] for b in range(len(x))])
    return layer_norm(nearest, p["head.score_norm.weight"], p["head.score_norm.bias"])


def gram_schmidt(v: Array) -> Array:
    """[d, K] -> orthonormal columns of the same span."""
    columns: list[Array] = []
    for k in range(v.shape[1]):
        u = v[:, k] - sum(((v[:, k] @ other) * other for other in columns), np.zeros(len(v)))
        columns.append(u / np.linalg.norm(u))
    return np.stack(columns, axis=1)


def goto_scores(z: Array, p: Parameters, variant: str) -> Array:
    scores = np.zeros((len(z), CLASSES))
    for b, h in enumerate(unit(z)):
        for c in range(CLASSES):
            along = gram_schmidt(p["head.matrices"][c]).T @ h
            shares = np.exp(along / 0.2) / np.exp(along / 0.2).sum()
            scores[b, c] = (
                25 * {"norm": np.linalg.norm(along), "soft_columns": shares @ along, "signed": along[0]}[variant]
            )
    return scores


PRIOR = np.log(COUNTS / COUNTS.sum())
Loss = Callable[[Array, Array, Parameters], float]
# words of the run, d, points [C, d] (prototypes in class order, or DNC's sub-centroids), (embedding, points, p) -> loss
CASES: dict[str, tuple[str, int, Array | None, Loss]] = {
    "hpn and word2vec": ("dataset=cifar100 method=dl2pa assignment=static", 3, sphere(3), squared_cosine),
    "dl2pa": ("dataset=cifar100 method=dl2pa", 3, sphere(3), squared_cosine),
    "tsc": ("dataset=cifar100 method=tsc", 3, sphere(3), squared_cosine),
    "dl2pa, long tail": ("dataset=cifar100_lt method=dl2pa", 3, sphere(3), dot_regression),
    "etf": ("dataset=cifar100 method=etf", 6, frame(6), dot_regression),
    "kasarla": ("method=kasarla", 4, simplex(4).T, lambda z, w, p: softmax_loss(0.1 * z @ w.T)),
    "ebv": ("method=ebv prototypes=random", 3, sphere(3), lambda z, w, p: softmax_loss(cosines(z, w) / 0.07, 0.1)),
    "prototypes, balanced": (
        "method=dl2pa loss=balanced_cross_entropy",
        3,
        sphere(3),
        lambda z, w, p: softmax_loss(cosines(z, w) / 0.1 + PRIOR),
    ),
    "psc.linear": (
        "method=psc method.variant=linear",
        3,
        None,
        lambda z, w, p: softmax_loss(z @ p["head.linear.weight"].T + p["head.linear.bias"]),
    ),
    "psc.frozen_linear": (
        "method=psc method.variant=frozen_linear",
        3,
        None,
        lambda z, w, p: softmax_loss(z @ p["head.linear.weight"].T + p["head.linear.bias"]),
    ),
    "psc.cos_unscaled": (
        "method=psc method.variant=cos_unscaled",
        3,
        None,
        lambda z, w, p: softmax_loss(cosines(z, p["head.weight"])),
    ),
    "psc.cos_scaled": (
        "method=psc method.variant=cos_scaled method.scale=7",
        3,
        None,
        lambda z, w, p: softmax_loss(7 * cosines(z, p["head.weight"])),
    ),
    "balanced_softmax": (
        "method=balanced_softmax",
        3,
        None,
        lambda z, w, p: softmax_loss(z @ p["head.linear.weight"].T + p["head.linear.bias"] + PRIOR),
    ),
    "balanced_softmax, cosine, tau 2": (
        "method=balanced_softmax method.variant=cos_scaled loss.adjust=2",
        3,
        None,
        lambda z, w, p: softmax_loss(10 * cosines(z, p["head.weight"]) + 2 * PRIOR),
    ),
    "dnc": (
        "method=dnc method.vectors=2",
        4,
        unit(np.random.default_rng(3).normal(size=(CLASSES, 2, 4))),
        lambda z, w, p: softmax_loss(dnc_scores(z, w, p)),
    ),
    "goto.norm": ("method=goto method.vectors=2", 4, None, lambda z, w, p: softmax_loss(goto_scores(z, p, "norm"))),
    "goto.soft_columns": (
        "method=goto method.vectors=2 method.variant=soft_columns method.column_temperature=0.2",
        4,
        None,
        lambda z, w, p: softmax_loss(goto_scores(z, p, "soft_columns")),
    ),
    "goto.signed": (
        "method=goto method.vectors=1 method.variant=signed",
        4,
        None,
        lambda z, w, p: softmax_loss(goto_scores(z, p, "signed")),
    ),
}


def gradient(f: Callable[[Parameters], float], at: Parameters, name: str) -> Array:
    found = np.zeros_like(at[name])
    for index in np.ndindex(*found.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = {**at, name: at[name].copy()}
            moved[name][index] += step
            ends.append(f(moved))
        found[index] = (ends[0] - ends[1]) / 2e-6
    return found


# -- ours


def configured(words: str, dimension: int) -> DictConfig:
    sizes = [f"dataset.num_classes={CLASSES}", f"dimension={dimension}", f"batch_size={len(LABELS)}"]
    rates = ["optimizer=sgd", f"optimizer.lr={LR}", f"optimizer.weight_decay={DECAY}", "schedule=step"]
    return compose_config(*words.split(), *sizes, *rates)


def network(cfg: DictConfig, points: Array | None) -> Classifier:
    """A linear network below the head that ``cfg`` names; ``points`` are in class order."""
    torch.manual_seed(0)
    prototypes = None if points is None or cfg.method.head != "prototypes" else torch.from_numpy(points)
    head = _HEADS[cfg.method.head](cfg, prototypes)
    if prototypes is not None:  # class c owns points[c], whatever the first assignment
        head.prototypes[head.assignment()] = prototypes.clone()
    elif points is not None:
        head.centroids = torch.from_numpy(points)
    norm = nn.BatchNorm1d(cfg.dimension) if cfg.method.bn else nn.Identity()
    model = Classifier(nn.Linear(INPUTS, cfg.dimension), nn.Identity(), norm, head, torch.float32).double()
    with torch.no_grad():  # no parameter at a special value such as a LayerNorm's one and zero
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def loss_of(cfg: DictConfig, model: Classifier) -> Tensor:
    features, scores = model.head(model.norm(model.backbone(torch.from_numpy(IMAGES))))
    labels, options = torch.from_numpy(LABELS), cfg.loss
    counts = torch.from_numpy(COUNTS)
    cost = build_cost(options.name, options.weights, options.temperature, counts, options.smoothing, options.adjust)
    matrix, weights = cost(scores, features, labels)
    return reduce(matrix, Target(labels, weights=weights), options.reduction)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_one_step(case: str) -> None:
    words, dimension, points, np_loss = CASES[case]
    cfg = configured(words, dimension)
    model = network(cfg, points)
    before = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}
    given = np.zeros(0) if points is None else points

    def expected(p: Parameters) -> float:
        return np_loss(IMAGES @ p["backbone.weight"].T + p["backbone.bias"], given, p)

    optimizer = make_optimizer(cfg, model)
    loss = loss_of(cfg, model)
    assert loss.item() == pytest.approx(expected(before), rel=1e-10)
    loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        new = before[name]
        if parameter.requires_grad:
            new = new - LR * (gradient(expected, before, name) + DECAY * new)
            assert np.abs(new - before[name]).max() > 1e-5
        np.testing.assert_allclose(parameter.detach().numpy(), new, rtol=1e-6, atol=1e-8, err_msg=name)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == (["head.linear.weight", "head.linear.bias"] if case == "psc.frozen_linear" else [])


def test_adjustment_is_for_training_alone() -> None:
    """The same network has the same scores, and so predictions, with and without it; its loss differs."""
    plain, balanced = (
        configured(f"method=psc method.variant=linear loss={loss}", 3) for loss in ("softmax", "balanced_softmax")
    )
    scores = []
    for cfg in (plain, balanced):
        model = network(cfg, None)
        scores.append(model.head(model.backbone(torch.from_numpy(IMAGES)))[1])
    assert torch.equal(scores[0], scores[1])
    assert loss_of(plain, network(plain, None)).item() != loss_of(balanced, network(balanced, None)).item()
