"""Seeds that depend on the seed, the stream and the position, and on nothing else."""

import itertools
import random

import numpy as np
import pytest
import torch

from dl2pa.seeding import Stream, derive

GOLDEN = {
    (0, Stream.WEIGHTS): 7896617691693857887,
    (1, Stream.WEIGHTS): 3717377837946358015,
    (0, Stream.ORDER, 7): 2440468269607536873,
    (3, Stream.MIXUP, 1): 6408854984653479099,
    (3, Stream.NETWORK, 1, 2): 8802103283612647908,
    (123456789, Stream.ASSIGNMENT): 8606437954967220976,
}


def test_seeds_are_the_same_for_ever() -> None:
    """Stored runs were drawn from these."""
    assert [derive(*arguments) for arguments in GOLDEN] == list(GOLDEN.values())


def test_streams_keep_their_numbers() -> None:
    assert {stream.name: stream.value for stream in Stream} == {
        "WEIGHTS": 0,
        "ORDER": 1,
        "AUGMENT": 2,
        "MIXUP": 3,
        "NETWORK": 4,
        "ASSIGNMENT": 5,
        "PROTOTYPES": 6,
        "POLICY": 7,
        "ERASE": 8,
    }


@pytest.mark.parametrize("arity", [0, 1, 2])
def test_no_two_places_draw_the_same(arity: int) -> None:
    places = list(itertools.product(range(6), Stream, *[range(6)] * arity))
    assert len({derive(*place) for place in places}) == len(places)


def test_global_generators_neither_matter_nor_are_touched() -> None:
    expected = derive(5, Stream.ORDER, 1)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
    assert derive(5, Stream.ORDER, 1) == expected
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()) == before


def test_seeds_fit_a_torch_generator_and_use_its_width() -> None:
    seeds = [derive(seed, Stream.WEIGHTS) for seed in range(200)]
    for seed in seeds:
        torch.Generator().manual_seed(seed)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_a_negative_place_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        derive(-1, Stream.WEIGHTS)
