"""The table of widths: complete, without torch, and in the user's words when a width does not fit."""

import subprocess
import sys

import pytest

from dl2pa.backbones.widths import FEATURE_WIDTH, feature_width
from dl2pa.errors import UserError


def test_needs_no_torch() -> None:
    code = "import sys, dl2pa.backbones.widths; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", FEATURE_WIDTH)
def test_own_width(name: str) -> None:
    assert feature_width(name) == feature_width(name, FEATURE_WIDTH[name]) == FEATURE_WIDTH[name]


def test_chosen_width() -> None:
    assert feature_width("small", 12) == 12


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet18", None, "backbone=resnet18 is unknown: use one of resnet32, "),
        ("resnet32_lt", 32, "backbone.width=32 does not fit backbone=resnet32_lt whose features have 64"),
        ("small", 0, "backbone.width=0 is not a width"),
    ],
)
def test_refuses(name: str, width: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        feature_width(name, width)
