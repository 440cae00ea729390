"""ImageNet networks from torchvision, randomly initialised, without their classifier."""

from torch import Tensor, nn

from dl2pa.backbones.base import Backbone
from dl2pa.backbones.widths import check_channels

# Attribute that holds the last linear layer.
_CLASSIFIER = {
    "resnet50": "fc",
    "resnet101": "fc",
    "resnet152": "fc",
    "swin_t": "head",
    "densenet121": "classifier",
}


class TorchvisionNet(Backbone):
    """A torchvision network without its attribute ``classifier``: images [B,3,H,W] to features [B,width]."""

    def __init__(self, net: nn.Module, classifier: str, width: int) -> None:
        super().__init__()
        setattr(net, classifier, nn.Identity())
        self.net = net
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net(images)
        return features


def torchvision_net(name: str, in_channels: int) -> Backbone:
    """resnet50, resnet101, resnet152, swin_t or densenet121. Raises UserError unless ``in_channels`` is 3."""
    check_channels(name, in_channels)
    from torchvision.models import get_model  # 1.4 s that the small networks need not pay

    net = get_model(name, weights=None)
    classifier = _CLASSIFIER[name]
    return TorchvisionNet(net, classifier, getattr(net, classifier).in_features)


def resnet50_wide(in_channels: int) -> Backbone:
    """ResNet-50 whose last stage is 1024 instead of 512 wide: features [B,4096]. The long-tailed ImageNet's network.

    Raises UserError unless ``in_channels`` is 3.
    """
    check_channels("resnet50_wide", in_channels)
    from torchvision.models.resnet import Bottleneck, ResNet, conv1x1

    channels_in, planes = 1024, 1024
    channels_out = planes * Bottleneck.expansion
    shortcut = nn.Sequential(conv1x1(channels_in, channels_out, stride=2), nn.BatchNorm2d(channels_out))
    last_stage = nn.Sequential(
        Bottleneck(channels_in, planes, stride=2, downsample=shortcut),
        Bottleneck(channels_out, planes),
        Bottleneck(channels_out, planes),
    )
    for module in last_stage.modules():
        if isinstance(module, nn.Conv2d):  # as torchvision's ResNet initialises its other stages
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    net = ResNet(Bottleneck, [3, 4, 6, 3])
    net.layer4 = last_stage
    return TorchvisionNet(net, "fc", channels_out)
