"""From the names in a config to networks."""

from collections.abc import Callable
from functools import partial

from torch import nn

from dl2pa.backbones.base import Backbone
from dl2pa.backbones.cifar_resnet import CifarResNet
from dl2pa.backbones.small import SmallNet
from dl2pa.backbones.torchvision_nets import resnet50_wide, torchvision_net
from dl2pa.backbones.whitened import Whitened
from dl2pa.backbones.widths import CONFIGURABLE, feature_width

# Those in CONFIGURABLE also take ``width``.
_BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet32": partial(CifarResNet, widths=(16, 32, 64), shortcut="conv3x3"),
    "resnet32_lt": partial(CifarResNet, widths=(16, 32, 64), shortcut="pad"),
    "resnet32_lt_wide": partial(CifarResNet, widths=(32, 64, 128), shortcut="pad"),
    "small": SmallNet,
    "whitened": Whitened,
    "resnet50": partial(torchvision_net, "resnet50"),
    "resnet101": partial(torchvision_net, "resnet101"),
    "resnet152": partial(torchvision_net, "resnet152"),
    "resnet50_wide": resnet50_wide,
    "swin_t": partial(torchvision_net, "swin_t"),
    "densenet121": partial(torchvision_net, "densenet121"),
}


def build_backbone(name: str, in_channels: int, width: int | None = None) -> Backbone:
    """The backbone ``name`` for images [B,in_channels,H,W], its weights drawn from torch's global generator.

    ``width`` is for backbones whose width can be chosen; None is the backbone's own. Raises UserError for an unknown
    name, for a width that the backbone cannot have, and for in_channels other than 3 with a torchvision network.
    """
    width = feature_width(name, width)
    options = {"width": width} if name in CONFIGURABLE else {}
    return _BACKBONES[name](in_channels=in_channels, **options)


def _mlp(width: int, dimension: int) -> nn.Module:
    # An affine map of `width` features spans at most width + 1 of the `dimension` axes, which bounds the cosine with
    # spread-out prototypes when dimension is larger. A hidden layer lifts that bound only if it is as wide as the
    # output; one narrower than the input would put a new bottleneck in its place.
    hidden = max(width, dimension)
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),  # the batch normalisation has a bias
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, dimension),
    )


_NECKS: dict[str, Callable[[int, int], nn.Module]] = {"none": nn.Identity, "linear": nn.Linear, "mlp": _mlp}


def build_neck(kind: str, width: int, dimension: int) -> nn.Module:
    """The map from features [B,width] to the metric space [B,dimension]: none (identity), linear (with bias) or mlp.

    The paper's balanced ResNet-32 is backbone resnet32 with neck linear: 486,736 + 65 dimension parameters.
    """
    return _NECKS[kind](width, dimension)
