"""Every backbone and neck by name. Built on the meta device, which computes shapes and counts without arithmetic."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dl2pa.backbones.base import Backbone
from dl2pa.backbones.build import build_backbone, build_neck
from dl2pa.backbones.widths import FEATURE_WIDTH
from dl2pa.errors import UserError

CIFAR = ["resnet32", "resnet32_lt", "resnet32_lt_wide"]
IMAGENET = ["resnet50", "resnet101", "resnet152", "resnet50_wide", "swin_t", "densenet121"]


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def macs(net: nn.Module, size: int) -> float:
    """Multiply-adds in millions for one image of size x size."""
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2 / 1e6


@pytest.fixture(scope="module")
def nets() -> dict[str, Backbone]:
    with torch.device("meta"):
        return {name: build_backbone(name, in_channels=3) for name in FEATURE_WIDTH}


def test_the_lists_here_are_complete() -> None:
    assert {*CIFAR, *IMAGENET, "small", "whitened"} == set(FEATURE_WIDTH)


@pytest.mark.parametrize("name", FEATURE_WIDTH)
def test_table_of_widths_agrees_with_modules(nets: dict[str, Backbone], name: str) -> None:
    features = nets[name](torch.empty(2, 3, 64, 64, device="meta"))
    assert features.shape == (2, FEATURE_WIDTH[name])
    assert nets[name].width == FEATURE_WIDTH[name]


@pytest.mark.parametrize("name", [*CIFAR, "small", "whitened"])
@pytest.mark.parametrize("size", [8, 31, 32, 64, 96])
def test_any_image_size(nets: dict[str, Backbone], name: str, size: int) -> None:
    assert nets[name](torch.empty(2, 3, size, size, device="meta")).shape == (2, FEATURE_WIDTH[name])


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_size(nets: dict[str, Backbone], name: str) -> None:
    assert nets[name](torch.empty(2, 3, 224, 224, device="meta")).shape == (2, FEATURE_WIDTH[name])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet32", 486_736),
        ("resnet32_lt", 463_504),
        ("resnet32_lt_wide", 1_848_608),
        # torchvision's published totals less its classifier's (width + 1) * 1000
        ("resnet50", 25_557_032 - 2049 * 1000),
        ("resnet101", 44_549_160 - 2049 * 1000),
        ("resnet152", 60_192_808 - 2049 * 1000),
        ("swin_t", 28_288_354 - 769 * 1000),
        ("densenet121", 7_978_856 - 1025 * 1000),
        # stem and stages 1 to 3 of ResNet-50, then three bottlenecks of 1024 between 4096 channels
        (
            "resnet50_wide",
            8_543_296
            + (1024 * 1024 + 9 * 1024**2 + 1024 * 4096 + 2 * 6144 + 1024 * 4096 + 2 * 4096)
            + 2 * (2 * 4096 * 1024 + 9 * 1024**2 + 2 * 6144),
        ),
    ],
)
def test_parameter_counts(nets: dict[str, Backbone], name: str, count: int) -> None:
    assert parameters(nets[name]) == count


@pytest.mark.parametrize("dimension", [10, 100])
def test_resnet32_with_linear_neck(nets: dict[str, Backbone], dimension: int) -> None:
    neck = build_neck("linear", nets["resnet32"].width, dimension)
    assert parameters(nets["resnet32"], neck) == 486_736 + 65 * dimension


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("resnet32", 32, 71.2),
        ("resnet32", 64, 284.9),
        ("resnet32_lt", 32, 68.9),
        ("resnet32_lt", 96, 620),
        ("resnet32_lt_wide", 32, 274.6),
        ("whitened", 32, 33.06),
    ],
)
def test_multiply_adds(nets: dict[str, Backbone], name: str, size: int, millions: float) -> None:
    assert macs(nets[name], size) == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize("name", [*CIFAR, "small", "densenet121"])
def test_weights_follow_the_global_generator(name: str) -> None:
    images = torch.rand(2, 3, 32, 32)

    def features(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone(name, in_channels=3).eval()(images)

    assert torch.equal(features(0), features(0))
    assert not torch.equal(features(0), features(1))


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_networks_take_colour_alone(name: str) -> None:
    with pytest.raises(UserError, match=f"backbone={name} takes images of 3 channels and the data set has 1"):
        build_backbone(name, in_channels=1)


@pytest.mark.parametrize("name", [*CIFAR, "small", "whitened"])
def test_small_networks_take_grey_images(name: str) -> None:
    assert build_backbone(name, in_channels=1)(torch.rand(2, 1, 8, 8)).shape == (2, FEATURE_WIDTH[name])


def test_chosen_width() -> None:
    net = build_backbone("small", in_channels=1, width=12)
    assert net.width == 12
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 12)


def test_width_of_a_fixed_backbone_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.width=32"):
        build_backbone("resnet32", in_channels=3, width=32)


def test_neck_none() -> None:
    features = torch.rand(2, 64)
    assert torch.equal(build_neck("none", 64, 64)(features), features)


@pytest.mark.parametrize("dimension", [10, 200])
def test_neck_mlp_has_no_bottleneck(dimension: int) -> None:
    neck = build_neck("mlp", 64, dimension)
    hidden = max(64, dimension)
    assert neck(torch.rand(3, 64)).shape == (3, dimension)
    assert parameters(neck) == 64 * hidden + 2 * hidden + (hidden + 1) * dimension


def test_mlp_reaches_all_axes_that_linear_cannot() -> None:
    torch.manual_seed(0)
    features = torch.randn(400, 16)
    ranks = [torch.linalg.matrix_rank(build_neck(kind, 16, 40)(features)).item() for kind in ("linear", "mlp")]
    assert ranks == [17, 40]
