"""Counted FLOPs against a layer that can be counted by hand."""

import torch
from torch import nn

from dl2pa.flops import training_flops


def test_three_passes_of_two_operations_a_multiply_add() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 4 * 4, 7)).train()
    macs = 4 * 4 * 5 * 3 * 9 + 5 * 4 * 4 * 7
    assert training_flops(net, (3, 6, 6), torch.device("cpu")) == 3 * 2 * macs
    assert net.training
