"""The README's figure: python docs/figure.py RUN_FOLDER [OUT.png]

Left and middle: three classes on the circle, each joined to the prototype it owns, before and after one matching.
Right: a finished digits run, its classes' prototypes and accuracy by epoch.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes

from dl2pa.assignment.assigner import Assigner, Timetable
from dl2pa.assignment.statistics import EpochMean
from dl2pa.folder import RunFolder
from dl2pa.prototypes.build import build

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#0072b2", "#d55e00", "#009e73"]


def toy(before: Axes, after: Axes) -> None:
    """Three clouds of made-up features, the exact prototypes of the circle, and the product's own matching."""
    prototypes = build(3, 2, "exact", seed=0)
    first = torch.tensor([1, 2, 0])
    directions = prototypes + 0.35 * prototypes.roll(1, 0)  # class c is nearest to prototype c, but owns another
    random = torch.Generator().manual_seed(0)
    features = F.normalize(directions.repeat_interleave(40, 0) + 0.25 * torch.randn(120, 2, generator=random), dim=1)
    labels = torch.arange(3).repeat_interleave(40)
    assigner = Assigner(first, Timetable(epochs=2), EpochMean(3, 2))
    for axes, title in ((before, "first assignment"), (after, "after one matching")):
        _circle(axes, title, prototypes, features, labels, assigner.sigma)
        assigner.observe(features, torch.zeros(120, 3), F.one_hot(labels, 3).float())
        assigner.end_epoch(prototypes, epoch=0)


def _circle(
    axes: Axes, title: str, prototypes: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, sigma: torch.Tensor
) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.8", linewidth=1)
    for c, colour in enumerate(COLOURS):
        cloud = features[labels == c]
        centre = F.normalize(cloud.mean(dim=0), dim=0)
        owned = prototypes[sigma[c]]
        axes.scatter(*cloud.T, s=12, color=colour, alpha=0.5, linewidth=0)
        axes.annotate(
            "",
            xy=owned.tolist(),
            xytext=centre.tolist(),
            arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.6},
        )
        axes.scatter(*owned, marker="*", s=260, color=colour, edgecolor="black", zorder=3)
    axes.set(title=title, aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axes.axis("off")


def moves(axes: Axes, folder: RunFolder) -> None:
    """Which prototype each class of a run owned while it trained, and how accurate the run was."""
    assignments = np.array([line["assignment"] for line in folder.lines("assignments")])
    metrics, result = folder.lines("metrics"), folder.result()
    assert result is not None, f"{folder.path} is not finished"
    moved = np.flatnonzero((assignments[1:] != assignments[:-1]).any(axis=1))
    shown = min(
        len(assignments), (moved.max() if len(moved) else 0) + 12
    )  # what comes after the last move is all alike
    assignments, metrics = assignments[:shown], metrics[:shown]
    epochs = np.arange(1, shown + 1)
    for c in range(assignments.shape[1]):
        axes.step(epochs, assignments[:, c], where="mid", linewidth=1.4, color=f"C{c}")
        axes.annotate(str(c), (epochs[-1], assignments[-1, c]), xytext=(4, -3), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="epoch",
        ylabel="prototype that each digit owns",
        title=f"{result['dataset']}, d = {result['dimension']}",
        yticks=range(assignments.shape[1]),
    )
    accuracy = axes.twinx()
    accuracy.plot(
        [line["epoch"] for line in metrics], [line["top1"] for line in metrics], color="black", linewidth=2, alpha=0.4
    )
    accuracy.set(ylabel="test accuracy, % (grey)", ylim=(0, 100))


def main(run: str, out: str = "docs/figure.png") -> None:
    figure, (before, after, right) = plt.subplots(
        1, 3, figsize=(12, 3.8), width_ratios=(1, 1, 1.5), layout="constrained"
    )
    toy(before, after)
    moves(right, RunFolder(Path(run)))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
