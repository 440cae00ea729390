"""Word vectors of class names: those that are shipped, or a user's own. Imports no torch.

Shipped (wordvectors.npz, whose origin and licence are in wordvectors.md): GloVe 6B, 100 dimensions, the mean over the
words of a class name.
"""

import functools
import re
from pathlib import Path

import numpy as np

from dl2pa.errors import UserError
from dl2pa.prototypes.energy import Points

_SHIPPED = Path(__file__).with_name("wordvectors.npz")
_WORDS_OF = {  # a data set's source: whose class names it has
    "digits": "svhn",
    **{name: name for name in ("cifar10", "cifar100", "stl10", "svhn", "imagenet200")},
}
NAMED = frozenset(_WORDS_OF)
"""The sources of data sets for whose class names vectors are shipped."""

_TEXT = (".txt", ".vec")


def word_vectors(name: str | None, num_classes: int, file: str | None = None, key: str | None = None) -> Points:
    """[C, D] float64, a row for each class in label order, none of them zero.

    `name`: a data set's source; without `file`, the vectors shipped for it: digits, cifar10, cifar100, stl10, svhn, or
    imagenet200, which follow data/readers.py (imagenet200: Tiny-ImageNet's sorted WNIDs). `file`: GloVe or word2vec
    text (.txt, .vec: a word and its numbers a line), in which the class names of `name` are looked up, lower-case, the
    mean over the words of a name; or .npy, .npz (at `key`), ... with [C, D] rows in label order.

    Raises UserError for a name without vectors, a word that the file lacks, and a file of other content or C.
    """
    if file is None:
        if key is not None:
            raise UserError(f"key={key}: does nothing without file=PATH")
        vectors = shipped(name)
        where = f"words={name}"
    elif Path(file).suffix.lower() in _TEXT:
        if key is not None:
            raise UserError(f"key={key}: {file} is a text of word vectors and has no keys; leave key out")
        vectors = _look_up(class_words(name), Path(file))
        where = f"words={name}"
    else:
        from dl2pa.prototypes.files import read_matrix  # imports torch

        vectors = read_matrix(file, key)[0].numpy()
        where = f"file={file}"
    if len(vectors) != num_classes:
        raise UserError(f"{where}: has vectors for {len(vectors)} classes, not num_classes={num_classes}")
    unusable = np.flatnonzero(~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
    if len(unusable):
        raise UserError(f"{where}: the vector of class {unusable[0]} is zero or not finite and has no direction")
    return vectors


def shipped(name: str | None) -> Points:
    """[C, D] float64, the vectors that are shipped for a data set's source; UserError where there are none."""
    array: Points = _archive()[_own(name)].astype(np.float64)
    return array


def class_words(name: str | None) -> list[list[str]]:
    """The words of each class name of a data set's source, in label order: [["maple", "tree"], ...], lower-case."""
    names = _archive()[_own(name) + "_names"].tolist()
    return [re.split(r"[ _-]+", text.lower().replace("'s", "")) for text in names]


def _own(name: str | None) -> str:
    if name not in _WORDS_OF:
        raise UserError(
            f"words={'null' if name is None else name}: no class names are known for it, only for "
            f"{', '.join(_WORDS_OF)}; give file=PATH, .npy or .npz with a row for each class"
        )
    return _WORDS_OF[name]


@functools.cache
def _archive() -> dict[str, np.ndarray]:
    with np.load(_SHIPPED, allow_pickle=False) as archive:
        return dict(archive)


def _look_up(names: list[list[str]], path: Path) -> Points:
    if not path.is_file():
        raise UserError(f"file={path}: no such file")
    wanted = {word for words in names for word in words}
    found: dict[str, Points] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, numbers = line.rstrip().partition(" ")
            if word in wanted and word not in found:
                try:
                    found[word] = np.array(numbers.split(), dtype=np.float64)
                except ValueError:
                    raise UserError(f"file={path}: line {number}: '{word}' is not followed by numbers alone") from None
    missing = sorted(wanted - set(found))
    if missing:
        raise UserError(f"file={path}: has no vector for {', '.join(missing)}")
    if len({len(vector) for vector in found.values()}) > 1:
        raise UserError(f"file={path}: its vectors differ in length")
    return np.stack([np.mean([found[word] for word in words], axis=0) for words in names])
