"""What every backbone is to the rest of the program."""

from torch import nn


class Backbone(nn.Module):
    """Maps images [B,c,H,W] to features [B,width]. Nothing inside normalises the features to unit length."""

    width: int
