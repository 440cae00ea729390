"""``method=NAME`` alone has a dimension and a neck that fit the data set; what the command line says wins."""

import pytest
from composing import compose_config

from dl2pa.validate import validate


@pytest.mark.parametrize(
    ("words", "dimension", "neck"),
    [
        ("dataset=cifar100 method=dl2pa", 50, "linear"),
        ("dataset=cifar100 method=kasarla", 99, "linear"),
        ("dataset=cifar100_lt method=kasarla", 99, "linear"),
        ("dataset=imagenet method=kasarla", 999, "linear"),
        ("dataset=cifar100 method=etf", 100, "linear"),  # ResNet-32 has 64 features, too few for 100 classes
        ("dataset=cifar100_lt method=etf", 128, "none"),
        ("dataset=imagenet method=etf", 2048, "none"),
        ("dataset=cifar100 method=etf backbone=resnet32_lt", 100, "linear"),
        ("dataset=cifar100_lt method=etf dimension=110", 110, "linear"),
        ("dataset=cifar100 method=word2vec dimension=64", 64, "linear"),  # as hpn: its features are not negative
        ("dataset=cifar100 method=dnc", 64, "none"),
        ("dataset=imagenet method=goto", 2048, "none"),
        ("dataset=imagenet method=goto backbone=swin_t", 768, "none"),
        ("dataset=digits method=dnc backbone.width=32", 32, "none"),
        ("dataset=digits method=dnc dimension=5 backbone.neck=linear", 5, "linear"),
        ("dataset=digits method=kasarla dimension=12", 12, "linear"),
        ("dataset=digits dataset.default_dimension=6", 6, "linear"),
    ],
)
def test_dimension_and_neck(words: str, dimension: int, neck: str) -> None:
    cfg = compose_config(*words.split())
    validate(cfg)
    assert (cfg.dimension, cfg.backbone.neck) == (dimension, neck)


def test_a_dimension_set_after_composing_is_followed() -> None:
    """As a sweep may do it: what depends on the dimension is worked out when it is read."""
    cfg = compose_config("dataset=cifar100_lt", "method=etf")
    cfg.dimension = 110
    assert cfg.backbone.neck == "linear"
