"""Random numbers that depend on where a run is, not on how it got there.

Every random choice of a run is drawn from a generator seeded by (seed, stream, position), so a run that is killed and
resumed draws what the undisturbed run would have drawn, and no generator state needs to be saved.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a number is drawn for. Members are never renumbered: stored runs depend on them."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENT = 2
    MIXUP = 3
    NETWORK = 4
    ASSIGNMENT = 5
    PROTOTYPES = 6
    POLICY = 7
    ERASE = 8


def derive(seed: int, stream: Stream, *position: int) -> int:
    """A 63-bit seed, a pure function of its non-negative arguments."""
    state = np.random.SeedSequence((seed, int(stream), *position)).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
