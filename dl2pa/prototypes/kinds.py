"""The kinds of prototypes, what each reads and which (num_classes, dimension) each can do. Imports nothing heavy.

A new kind is one function elsewhere and one row of KINDS here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dl2pa.prototypes.bounds import welch_bound

MAX_SEED = 2**32 - 1  # of any seed: numpy pads a longer one into the next word of its entropy

Check = Callable[[int, int], str | None]


@dataclass(frozen=True)
class Kind:
    """One kind of prototypes.

    builder: "module:function" inside this package, imported only when prototypes are built; it is called as
        function(num_classes, dimension, **{option: value for option in reads}) and returns [C, d], tensor or array.
    reads: the options that change the result; the others are no part of its identity and never reach the builder.
    check: (num_classes, dimension) -> why this pair is impossible and what is legal, or None.
    cached: whether the result is worth keeping in a file.
    defaults: the options whose default is another than Options'; the kind's file in conf/prototypes/ says the same.
    fits: (num_classes, dimension, options) -> why these options are impossible at these sizes, or None.
    version: raised when the algorithm's result changes, so that files kept from before are not read.
    """

    builder: str
    reads: tuple[str, ...]
    check: Check
    cached: bool = True
    defaults: dict[str, Any] = field(default_factory=dict)
    fits: "Callable[[int, int, Options], str | None]" = lambda num_classes, dimension, options: None
    version: int = 1


@dataclass
class Options:
    """The options of all kinds; each kind's row says which of them it reads.

    seed: of the random start, orientation and order. steps: passes over the prototypes. lr: learning rate.
    batch_size: prototypes that see each other in one step. tolerance: the descent ends when an iteration lowers the
    objective by no more than this. file, key: where stored prototypes (or word vectors) lie. tau: largest |cosine|, or
    auto. words: the source of the data set whose class names count. word_weight: of the words' order against
    separation. reduce: how word vectors get down to d (reduce.py).
    """

    seed: int | None = None
    steps: int = 1000
    lr: float = 0.1
    batch_size: int = 100
    tolerance: float = 1e-8
    file: str | None = None
    key: str | None = None
    tau: Any = "auto"
    words: str | None = None
    word_weight: float = 1.0
    reduce: str = "pca"


_AT_LEAST = {"seed": 0, "steps": 1, "batch_size": 2}
_AT_MOST = {"seed": MAX_SEED}
_ABOVE = {"lr": 0.0, "tolerance": 0.0, "word_weight": 0.0}
_AMONG = {"reduce": ("pca", "random_projection", "mds")}


def check_option(name: str, value: int | float | str | None) -> str | None:
    """Why a value of an option is out of its range and what is legal, or None. None (not given) is never refused."""
    if name == "tau" and value != "auto" and not (isinstance(value, float) and 0 < value < 1):
        return f"tau={value}: must be auto, or above 0 and below 1"
    if name in _AMONG and value not in _AMONG[name]:
        return f"{name}={value}: must be one of {', '.join(_AMONG[name])}"
    if value is None or isinstance(value, str):
        return None
    if name in _AT_LEAST and value < _AT_LEAST[name]:
        return f"{name}={value}: must be at least {_AT_LEAST[name]}"
    if name in _AT_MOST and value > _AT_MOST[name]:
        return f"{name}={value}: must be at most {_AT_MOST[name]}"
    if name in _ABOVE and not _ABOVE[name] < value < float("inf"):
        return f"{name}={value}: must be finite and above {_ABOVE[name]:g}"
    return None


def _sizes(num_classes: int, dimension: int) -> str | None:
    if num_classes < 2:
        return f"num_classes={num_classes}: prototypes need at least 2 classes"
    if dimension < 1:
        return f"dimension={dimension}: must be at least 1"
    return None


def _circle_or_more(num_classes: int, dimension: int) -> str | None:
    if problem := _sizes(num_classes, dimension):
        return problem
    if dimension < 2:  # on a line nothing can turn: the gradient vanishes and random points coincide
        return (
            f"dimension={dimension}: must be at least 2 (at dimension=1 only exact, simplex, orthoplex, for 2 classes)"
        )
    return None


def _exact(num_classes: int, dimension: int) -> str | None:
    if problem := _sizes(num_classes, dimension):
        return problem
    if dimension == 1 and num_classes > 2:
        return f"dimension=1: holds 2 prototypes, not num_classes={num_classes}; use dimension >= 2"
    return None


def _simplex(num_classes: int, dimension: int) -> str | None:
    if problem := _sizes(num_classes, dimension):
        return problem
    if dimension < num_classes - 1:
        return (
            f"dimension={dimension}: kind=simplex with num_classes={num_classes} needs dimension >= {num_classes - 1}; "
            "kind=exact and kind=uniform take any dimension >= 2"
        )
    return None


def _orthoplex(num_classes: int, dimension: int) -> str | None:
    if problem := _sizes(num_classes, dimension):
        return problem
    if num_classes > 2 * dimension:
        return (
            f"dimension={dimension}: kind=orthoplex has 2 * dimension = {2 * dimension} points, so num_classes="
            f"{num_classes} needs dimension >= {(num_classes + 1) // 2}; kind=exact and kind=uniform take any >= 2"
        )
    return None


def _etf(num_classes: int, dimension: int) -> str | None:
    if problem := _sizes(num_classes, dimension):
        return problem
    if dimension < num_classes:
        return (
            f"dimension={dimension}: kind=etf with num_classes={num_classes} needs dimension >= {num_classes}; "
            f"kind=simplex is the same figure from dimension {num_classes - 1} on"
        )
    return None


def _tau(num_classes: int, dimension: int, options: Options) -> str | None:
    bound = welch_bound(num_classes, dimension)
    if options.tau != "auto" and options.tau < bound:
        return (
            f"tau={options.tau}: num_classes={num_classes} and dimension={dimension} allow no less than "
            f"{math.ceil(bound * 1e5) / 1e5:.5f}, the Welch bound; use tau=auto, or more"
        )
    return None


def _semantic(num_classes: int, dimension: int, options: Options) -> str | None:
    from dl2pa.prototypes.semantic import semantic_problem  # numpy, and a file to be read

    return semantic_problem(num_classes, dimension, options)


def _words(num_classes: int, dimension: int, options: Options) -> str | None:
    from dl2pa.prototypes.semantic import words_problem

    return words_problem(num_classes, dimension, options)


def _label_tree(num_classes: int, dimension: int, options: Options) -> str | None:
    from dl2pa.prototypes.semantic import label_tree_problem

    return label_tree_problem(num_classes, dimension, options)


_SGD = ("seed", "steps", "lr")
_HPN = {"steps": 10_000}

KINDS: dict[str, Kind] = {
    "uniform_readme": Kind("optimised:uniform_readme", ("seed", "steps", "lr", "batch_size"), _circle_or_more),
    "uniform": Kind("optimised:uniform", ("seed", "tolerance"), _circle_or_more),
    "exact": Kind("exact:exact", ("seed",), _exact),
    "simplex": Kind("closed_form:simplex", (), _simplex),
    "orthoplex": Kind("closed_form:orthoplex", ("seed",), _orthoplex),
    "etf": Kind("closed_form:etf", ("seed",), _etf),
    "random": Kind("closed_form:random", ("seed",), _circle_or_more),
    "separation": Kind("separation:separation", _SGD, _circle_or_more, defaults=_HPN),
    "separation_semantic": Kind(
        "separation:separation_semantic",
        (*_SGD, "words", "file", "key", "word_weight"),
        _circle_or_more,
        defaults=_HPN,
        fits=_words,
    ),
    "softmax_separation": Kind("separation:softmax_separation", _SGD, _circle_or_more, defaults={"lr": 0.2}),
    "equiangular": Kind("equiangular:equiangular", ("seed", "tau"), _circle_or_more, fits=_tau),
    "semantic": Kind(
        "semantic:semantic", ("seed", "words", "file", "key", "reduce"), _circle_or_more, cached=False, fits=_semantic
    ),
    "label_tree": Kind("semantic:label_tree", ("seed", "words"), _circle_or_more, cached=False, fits=_label_tree),
    "file": Kind("files:load", ("file", "key"), _sizes, cached=False),
}


def options_of(kind: str) -> Options:
    """The options' defaults as this kind has them."""
    return replace(Options(), **KINDS[kind].defaults)


def check(kind: str, num_classes: int, dimension: int) -> str | None:
    """Why this kind cannot be had at these sizes and what is legal, or None. An unknown kind is a reason, too."""
    if kind not in KINDS:
        return f"kind={kind}: unknown kind of prototypes; known are {', '.join(KINDS)}"
    return KINDS[kind].check(num_classes, dimension)


def check_fit(kind: str, num_classes: int, dimension: int, **options: Any) -> str | None:
    """Why sizes and options that `check` and `check_option` let through cannot go together, or None.

    Options are those that were asked for; a seed that only follows from elsewhere is not.
    """
    return KINDS[kind].fits(num_classes, dimension, replace(options_of(kind), **options))
