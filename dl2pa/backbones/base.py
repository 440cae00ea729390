"""What every backbone is to the rest of the program."""

from collections.abc import Callable

from torch import Tensor, nn


class Backbone(nn.Module):
    """Maps images [B,c,H,W] to features [B,width]. Nothing inside normalises the features to unit length."""

    width: int

    def fit(self, sample: Callable[[], Tensor]) -> None:
        """Set what is computed from training images before training; most backbones have nothing of the kind.

        ``sample()`` gives some as evaluation sees them, [N,c,H,W]. What is set is part of the state dict.
        """
