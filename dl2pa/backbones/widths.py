"""Feature widths by backbone name, without torch: a wrong dimension is reported before anything slow is imported."""

from dl2pa.errors import UserError

FEATURE_WIDTH: dict[str, int] = {
    "resnet32": 64,
    "resnet32_lt": 64,
    "resnet32_lt_wide": 128,
    "small": 64,
    "whitened": 128,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
    "resnet50_wide": 4096,
    "swin_t": 768,
    "densenet121": 1024,
}
"""Width of the feature vector; for the names in CONFIGURABLE, the width when none is asked for."""

CONFIGURABLE = frozenset({"small", "whitened"})
"""Backbones whose width can be chosen."""

_COLOUR = frozenset({"resnet50", "resnet101", "resnet152", "resnet50_wide", "swin_t", "densenet121"})


def check_channels(name: str, channels: int) -> None:
    """Raises UserError where backbone ``name`` takes images of 3 channels and these have another number."""
    if name in _COLOUR and channels != 3:
        raise UserError(
            f"backbone={name} takes images of 3 channels and the data set has {channels}: "
            "use backbone=resnet32 or backbone=small"
        )


def feature_width(name: str, width: int | None = None) -> int:
    """The width of the features of backbone ``name`` when ``width`` is asked for (None: its own).

    Raises UserError for an unknown name, a width below 1, and a width that the backbone cannot have.
    """
    if name not in FEATURE_WIDTH:
        raise UserError(f"backbone={name} is unknown: use one of {', '.join(FEATURE_WIDTH)}")
    own = FEATURE_WIDTH[name]
    if width is None or width == own:
        return own
    if name not in CONFIGURABLE:
        raise UserError(
            f"backbone.width={width} does not fit backbone={name} whose features have {own}: use backbone.width=null"
        )
    if width < 1:
        raise UserError(f"backbone.width={width} is not a width: use 1 or more")
    return width
