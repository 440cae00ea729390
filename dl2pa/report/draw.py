"""Figures as PNG and PDF."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from dl2pa.report.figures import WORDS, Figure, Series

# Okabe and Ito (2008): told apart with any colour vision; markers tell on where there are more rows than colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "osD^vP*X"


def styles(found: Sequence[Figure]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each label, the same in all figures."""
    labels = dict.fromkeys(series.label for figure in found for series in figure.series)
    markers = [marker for marker in MARKERS for _ in COLOURS]
    return dict(zip(labels, zip(cycle(COLOURS), cycle(markers), strict=False), strict=False))


def draw(
    figure: Figure, folder: Path, style: Mapping[str, tuple[str, str]], endings: Sequence[str] = ("png", "pdf")
) -> None:
    """Writes NAME.png and NAME.pdf, or those of other ``endings``."""
    tall = min(12.0, max(3.2, 0.16 * len(figure.rows)))
    drawn, axes = plt.subplots(figsize=(6.4, tall if figure.kind == "map" else 4.0))
    {"line": _line, "bar": _bar, "scatter": _scatter, "points": _points, "map": _map}[figure.kind](axes, figure, style)
    axes.set(title=textwrap.fill(figure.title, 75), xlabel=figure.x, ylabel=figure.y)  # as wide as the axes
    axes.title.set_fontsize(10)
    if figure.kind != "map" and len(figure.series) > 1:
        handles, labels = axes.get_legend_handles_labels()
        wrapped = [textwrap.fill(label, 40) for label in labels]
        axes.legend(handles, wrapped, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    for ending in endings:
        drawn.savefig(folder / f"{figure.name}.{ending}", dpi=160, bbox_inches="tight")
    plt.close(drawn)


def _line(axes: Axes, figure: Figure, style: Mapping[str, tuple[str, str]]) -> None:
    for series in figure.series:
        colour, marker = style[series.label]
        axes.errorbar(
            series.x, series.y, yerr=_bars(series), label=series.label, color=colour, marker=marker, markersize=4,
            capsize=2, linewidth=1.2,
        )  # fmt: skip
    if figure.log_x:
        axes.set_xscale("log")
        if ticks := figure.ticks():
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # epochs
    axes.grid(alpha=0.25)


def _bar(axes: Axes, figure: Figure, style: Mapping[str, tuple[str, str]]) -> None:
    width = 0.85 / len(figure.series)
    for number, series in enumerate(figure.series):
        places = [at + (number - (len(figure.series) - 1) / 2) * width for at in range(len(series.x))]
        axes.bar(places, series.y, width, yerr=_bars(series), label=series.label, color=style[series.label][0],
                 hatch="//" if style[series.label][1] != MARKERS[0] else None, capsize=2)  # fmt: skip
    axes.set_xticks(range(len(figure.series[0].x)), figure.series[0].x)
    axes.grid(axis="y", alpha=0.25)


def _scatter(axes: Axes, figure: Figure, style: Mapping[str, tuple[str, str]]) -> None:
    for series in figure.series:
        colour, marker = style[series.label]
        axes.plot(series.x, series.y, label=series.label, color=colour, marker=marker, markersize=4, linestyle="none")
    if figure.log_x:
        axes.set_xscale("log")
        values = [x for series in figure.series for x in series.x]
        if max(values) < 10 * min(values):  # within a decade the labels of its minor ticks touch
            axes.xaxis.set(major_locator=MaxNLocator(6), major_formatter=ScalarFormatter(), minor_locator=NullLocator())
    axes.grid(alpha=0.25)


def _points(axes: Axes, figure: Figure, style: Mapping[str, tuple[str, str]]) -> None:
    _scatter(axes, figure, style)
    axes.set_aspect("equal")
    for series in figure.series:
        for x, y, word in zip(series.x, series.y, series.text if len(series.text) <= WORDS else (), strict=False):
            axes.annotate(word, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=6)


def _map(axes: Axes, figure: Figure, style: Mapping[str, tuple[str, str]]) -> None:
    values = [[float("nan") if value is None else value for value in row] for row in figure.values]
    image = axes.imshow(values, aspect="auto", cmap="turbo" if figure.unit == "prototype" else "viridis")
    axes.figure.colorbar(image, label=figure.unit)
    step = max(1, len(figure.columns) // 20)
    axes.set_xticks(range(0, len(figure.columns), step), figure.columns[::step])
    axes.set_yticks(range(len(figure.rows)), figure.rows, fontsize=8 if len(figure.rows) <= 30 else 4)
    if len(figure.rows) * len(figure.columns) <= 60 and figure.unit != "prototype":
        for row, line in enumerate(figure.values):
            for column, value in enumerate(line):
                if value is not None:
                    bright = np.asarray(image.norm(np.array([value]))).item() > 0.6  # viridis ends in yellow
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color="wk"[bright], fontsize=8)


def _bars(series: Series) -> list[float] | None:
    """A single run has no deviation to draw; among others that have one its bar has no length."""
    if not any(deviation is not None for deviation in series.deviation):
        return None
    return [deviation or 0.0 for deviation in series.deviation]
