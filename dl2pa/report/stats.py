"""Whether a difference is more than chance."""

from collections.abc import Sequence

LEAST = 3  # runs on either side


def welch(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test; None with fewer than LEAST runs on a side, or where nothing varies at all."""
    if min(len(mine), len(theirs)) < LEAST or len({*mine}) == len({*theirs}) == 1:
        return None
    from scipy.stats import ttest_ind

    return float(ttest_ind(mine, theirs, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p for a family of tests (Holm 1979): the chance that any one of them is called different wrongly."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
