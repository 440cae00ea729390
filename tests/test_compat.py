"""compat=paper sets every switch at once, and the documentation's table says what the files do."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from composing import CONF, compose_config
from omegaconf import DictConfig, OmegaConf

from dl2pa.config import CompatConfig
from dl2pa.validate import validate

DOCUMENT = Path(__file__).parents[1] / "docs" / "compat.md"
# switch: (the key it is copied into, the words of a run that it changes)
SWITCHES = {
    "prototypes": ("prototypes.kind", ["dataset=cifar100"]),
    "statistic": ("assignment.statistic", ["dataset=cifar100"]),
    "mixed": ("assignment.mixed", ["dataset=cifar100_lt"]),
    "freeze_after": ("assignment.freeze_after", ["dataset=cifar100"]),
    "label_alignment": ("dataset.label_alignment", ["dataset=svhn_lt"]),
    "psc_variant": ("method.variant", ["dataset=cifar100", "method=psc"]),
    "dnc_bank_batches": ("method.bank_batches", ["dataset=cifar100", "method=dnc"]),
    "dnc_momentum": ("method.momentum", ["dataset=cifar100", "method=dnc"]),
    "target": ("augment.target", ["dataset=imagenet"]),
}


def file(name: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "compat" / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def differences(one: DictConfig, other: DictConfig) -> set[str]:
    """Keys outside compat whose resolved values differ."""

    def flat(cfg: DictConfig) -> dict[str, Any]:
        nested = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(nested, dict)
        found: dict[str, Any] = {}
        for key, value in nested.items():
            found |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {str(key): value}
        return {key: value for key, value in found.items() if not key.startswith("compat.")}

    first, second = flat(one), flat(other)
    assert first.keys() == second.keys()
    return {key for key in first if first[key] != second[key]}


def test_the_files_have_the_same_lines_and_no_switch_at_the_same_value() -> None:
    none, paper = file("none"), file("paper")
    assert list(none) == list(paper) == [f.name for f in fields(CompatConfig)] == ["name", *SWITCHES]
    assert [key for key in none if none[key] == paper[key]] == []
    assert (none["name"], paper["name"]) == ("none", "paper")


@pytest.mark.parametrize("name", ["none", "paper"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_reaches_its_key(switch: str, name: str) -> None:
    key, words = SWITCHES[switch]
    cfg = compose_config(*words, f"compat={name}")
    assert OmegaConf.select(cfg, key) == file(name)[switch]
    assert cfg.compat.name == name


@pytest.mark.parametrize(
    ("words", "switches"),
    [
        (["dataset=cifar100"], ["prototypes", "statistic", "mixed", "freeze_after"]),
        (["dataset=svhn_lt"], ["prototypes", "statistic", "mixed", "freeze_after", "label_alignment"]),
        (["dataset=cifar100", "method=psc"], ["psc_variant"]),
        (["dataset=svhn_lt", "method=psc"], ["label_alignment", "psc_variant"]),
        (["dataset=cifar100", "method=dnc"], ["dnc_bank_batches", "dnc_momentum"]),
        (["dataset=cifar100", "method=tsc"], ["prototypes"]),
        (["dataset=imagenet"], ["prototypes", "statistic", "mixed", "freeze_after", "target"]),
    ],
)
def test_paper_changes_its_switches_and_nothing_else(words: list[str], switches: list[str]) -> None:
    faithful = compose_config(*words, "compat=paper")
    assert differences(compose_config(*words), faithful) == {SWITCHES[switch][0] for switch in switches}
    validate(faithful)


def test_none_is_the_default() -> None:
    assert differences(compose_config(), compose_config("compat=none")) == set()
    assert compose_config().compat.name == "none"


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["assignment.statistic=ema"], "assignment.statistic", "ema"),
        (["compat.statistic=ema"], "assignment.statistic", "ema"),
        (["assignment.freeze_after=0.7"], "assignment.freeze_after", 0.7),
        (["assignment.mixed=both"], "assignment.mixed", "both"),
        (["prototypes=exact"], "prototypes.kind", "exact"),
        (["prototypes.kind=uniform"], "prototypes.kind", "uniform"),
        (["dataset=svhn_lt", "dataset.label_alignment=fixed"], "dataset.label_alignment", "fixed"),
        (["method=psc", "method.variant=linear"], "method.variant", "linear"),
        (["assignment=static"], "assignment.statistic", "epoch_mean"),
    ],
)
def test_the_command_line_beats_compat(words: list[str], key: str, value: object) -> None:
    assert OmegaConf.select(compose_config(*words, "compat=paper"), key) == value


def test_the_command_line_beats_compat_before_it_too() -> None:
    assert compose_config("compat=paper", "assignment.statistic=ema").assignment.statistic == "ema"


def test_the_documentations_table_says_what_the_files_do() -> None:
    """A row for each switch: the key it is copied into, and its two values."""
    rows = [line.split("|")[1:-1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    table = {row[0].strip(" `"): [cell.split("`")[1] for cell in row[1:4]] for row in rows}
    none, paper = file("none"), file("paper")
    assert table == {switch: [key, str(none[switch]), str(paper[switch])] for switch, (key, _) in SWITCHES.items()}
    assert all(len(row[4].split()) > 5 for row in rows)  # and why
