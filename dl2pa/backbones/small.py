"""A network for 8x8 digits that a laptop's processor trains in seconds."""

from torch import Tensor, nn

from dl2pa.backbones.base import Backbone


def _conv_bn_relu(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class SmallNet(Backbone):
    """Images [B,c,H,W] of any size to non-negative features [B,width], averaged over the last map [H/2,W/2].

    56 k parameters at one channel and width 64. On scikit-learn's 8x8 digits (squared cosine loss towards a simplex of
    dimension 10, linear neck): 20 epochs take 4 s on one core and reach 96.9 to 97.6 % on the last quarter of the file
    (three seeds); on a random quarter, which is easier, 10 epochs reach 98.7 to 98.9 % (two seeds). The average does
    better than the maximum over the map, and the last ReLU as well as features of both signs.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            _conv_bn_relu(in_channels, 32, stride=1),
            _conv_bn_relu(32, 64, stride=2),
            _conv_bn_relu(64, width, stride=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images).mean(dim=(2, 3))
        return features
