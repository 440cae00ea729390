"""Classifiers with fixed prototypes on a hypersphere and a moving label-to-prototype assignment (DL2PA, CVPR 2024)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dl2pa.predict import Model


def load(run: str | Path, which: str = "last") -> "Model":
    """The trained model of a run folder, ready to use (see dl2pa.predict.load)."""
    from dl2pa.predict import load  # torch takes seconds to import

    return load(run, which)
