"""python -m dl2pa prototypes: builds prototypes, keeps them in the cache, prints how good they are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dl2pa.config import Config
from dl2pa.errors import UserError
from dl2pa.prototypes.kinds import KINDS, Options, check, check_fit, check_option, options_of

_DEFAULT = Options()


@dataclass
class PrototypesCommand:
    """The KEY=VALUE words of the command. The first three must be given; out=FILE.npy writes a further copy there.

    An option that is not given takes its kind's own default.
    """

    num_classes: int = MISSING
    dimension: int = MISSING
    kind: str = MISSING
    seed: int = 0
    steps: int = _DEFAULT.steps
    lr: float = _DEFAULT.lr
    batch_size: int = _DEFAULT.batch_size
    tolerance: float = _DEFAULT.tolerance
    file: str | None = _DEFAULT.file
    key: str | None = _DEFAULT.key
    tau: Any = _DEFAULT.tau
    words: str | None = _DEFAULT.words
    word_weight: float = _DEFAULT.word_weight
    reduce: str = _DEFAULT.reduce
    out: str | None = None
    data_root: str = Config.data_root


def main(arguments: Sequence[str]) -> None:
    """Runs the command, e.g. ["num_classes=100", "dimension=50", "kind=uniform_readme", "seed=100"].

    Raises UserError for a word that is not KEY=VALUE, an unknown key, a value of the wrong type or range, sizes that
    the kind cannot do, and an option that the kind does not read.
    """
    command = parse(arguments)
    from dl2pa.prototypes.build import (
        build,
        cache_path,
        cached,
        write,
    )  # here: torch takes seconds, a mistake should not
    from dl2pa.prototypes.geometry import measure

    options = {option.name: getattr(command, option.name) for option in fields(Options)}
    wanted = (command.num_classes, command.dimension, command.kind)
    rows: list[tuple[str, str]] = []
    if KINDS[command.kind].cached:
        folder = Path(command.data_root) / "prototypes"
        points = cached(folder, *wanted, **options)
        path = cache_path(folder, *wanted, **options)
        if os.path.isfile(path):
            rows.append(("file", str(path)))
        elif command.out is None:
            raise UserError(f"data_root={command.data_root}: cannot keep prototypes in {folder}")
    else:
        points = build(*wanted, **options)
        if command.file is not None:
            rows.append(("read", command.file))
    if command.out is not None:
        copy = Path(command.out)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write(copy, points)
        rows.append(("copy", str(copy)))
    found = measure(points)
    rows += [
        ("max cosine", f"{found.max_cosine:9.5f}   lower bound {found.bound.value:.5f} ({found.bound.name})"),
        ("mean of row maxima", f"{found.mean_max_cosine:9.5f}"),
        ("min angle, degrees", f"{found.min_angle:9.3f}"),
        ("uniformity U, t = 2", f"{found.uniformity:9.5f}"),
        ("Welch, on |cosine|", f"{found.welch:9.5f}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")


def parse(arguments: Sequence[str]) -> PrototypesCommand:
    """The words as a checked PrototypesCommand; raises UserError as main does, reads no file and imports no torch."""
    command, given = _typed(arguments)
    if problem := check(command.kind, command.num_classes, command.dimension):
        raise UserError(problem)
    reads, defaults = KINDS[command.kind].reads, options_of(command.kind)
    for option in fields(Options):
        if option.name not in given and option.name != "seed":
            setattr(command, option.name, getattr(defaults, option.name))
        value = getattr(command, option.name)
        if option.name in given and option.name not in reads:
            readable = ", ".join(reads) or "no option"
            raise UserError(f"{option.name}={value}: kind={command.kind} does not read it; it reads {readable}")
        if problem := check_option(option.name, value):
            raise UserError(problem)
    asked = {option.name: getattr(command, option.name) for option in fields(Options) if option.name in given}
    if problem := check_fit(command.kind, command.num_classes, command.dimension, **asked):
        raise UserError(problem)
    if command.out is not None and Path(command.out).suffix != ".npy":
        raise UserError(f"out={command.out}: must end in .npy, the format that is written")
    return command


def _typed(arguments: Sequence[str]) -> tuple[PrototypesCommand, set[str]]:
    """The words with their types checked, and the keys that were given."""
    types = {field.name: field.type for field in fields(PrototypesCommand)}
    config = OmegaConf.structured(PrototypesCommand)
    given: set[str] = set()
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"'{word}': expected KEY=VALUE with KEY one of {', '.join(types)}")
        if name not in types:
            raise UserError(f"{word}: unknown key '{name}'; known are {', '.join(types)}")
        try:
            config[name] = _number_if_it_is(value) if types[name] is Any else value
            OmegaConf.select(config, name, throw_on_missing=True)  # an interpolation or ??? shows only when it is read
        except OmegaConfBaseException as error:
            expected = "an integer" if types[name] is int else "a number" if types[name] is float else "a text"
            raise UserError(f"{name}={value}: not {expected}") from error
        given.add(name)
    for name in sorted(OmegaConf.missing_keys(config), key=list(types).index):
        choices = f", one of {', '.join(KINDS)}" if name == "kind" else ""
        raise UserError(f"{name}: missing; give {name}=VALUE{choices}")
    command = OmegaConf.to_object(config)
    assert isinstance(command, PrototypesCommand)
    return command, given


def _number_if_it_is(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value
