"""Which classes belong together, as the makers of a data set published it."""

import numpy as np
import numpy.typing as npt

from dl2pa.errors import UserError

# CIFAR-100's 20 superclasses in the order of its coarse labels, each with its fine labels (Krizhevsky 2009).
_CIFAR100 = (
    (4, 30, 55, 72, 95),  # aquatic_mammals: beaver, dolphin, otter, seal, whale
    (1, 32, 67, 73, 91),  # fish: aquarium_fish, flatfish, ray, shark, trout
    (54, 62, 70, 82, 92),  # flowers: orchid, poppy, rose, sunflower, tulip
    (9, 10, 16, 28, 61),  # food_containers: bottle, bowl, can, cup, plate
    (0, 51, 53, 57, 83),  # fruit_and_vegetables: apple, mushroom, orange, pear, sweet_pepper
    (22, 39, 40, 86, 87),  # household_electrical_devices: clock, keyboard, lamp, telephone, television
    (5, 20, 25, 84, 94),  # household_furniture: bed, chair, couch, table, wardrobe
    (6, 7, 14, 18, 24),  # insects: bee, beetle, butterfly, caterpillar, cockroach
    (3, 42, 43, 88, 97),  # large_carnivores: bear, leopard, lion, tiger, wolf
    (12, 17, 37, 68, 76),  # large_man-made_outdoor_things: bridge, castle, house, road, skyscraper
    (23, 33, 49, 60, 71),  # large_natural_outdoor_scenes: cloud, forest, mountain, plain, sea
    (15, 19, 21, 31, 38),  # large_omnivores_and_herbivores: camel, cattle, chimpanzee, elephant, kangaroo
    (34, 63, 64, 66, 75),  # medium_mammals: fox, porcupine, possum, raccoon, skunk
    (26, 45, 77, 79, 99),  # non-insect_invertebrates: crab, lobster, snail, spider, worm
    (2, 11, 35, 46, 98),  # people: baby, boy, girl, man, woman
    (27, 29, 44, 78, 93),  # reptiles: crocodile, dinosaur, lizard, snake, turtle
    (36, 50, 65, 74, 80),  # small_mammals: hamster, mouse, rabbit, shrew, squirrel
    (47, 52, 56, 59, 96),  # trees: maple_tree, oak_tree, palm_tree, pine_tree, willow_tree
    (8, 13, 48, 58, 90),  # vehicles_1: bicycle, bus, motorcycle, pickup_truck, train
    (41, 69, 81, 85, 89),  # vehicles_2: lawn_mower, rocket, streetcar, tank, tractor
)
_GROUPS = {"cifar100": _CIFAR100}
GROUPED = frozenset(_GROUPS)
"""The sources of data sets whose superclasses are known."""


def superclasses(name: str | None) -> npt.NDArray[np.int64]:
    """[C], the superclass of each class in label order, for a data set's source; UserError where none are known."""
    if name not in _GROUPS:
        raise UserError(
            f"words={'null' if name is None else name}: no superclasses are known for it, only for {', '.join(_GROUPS)}"
        )
    groups = _GROUPS[name]
    parents = np.empty(sum(map(len, groups)), dtype=np.int64)
    for parent, classes in enumerate(groups):
        parents[list(classes)] = parent
    return parents
