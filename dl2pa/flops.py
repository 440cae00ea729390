"""What training costs, counted rather than timed."""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_flops(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> int:
    """Floating-point operations to train ``model`` on one image [c, H, W], two for each multiply-add.

    Three forward passes: the backward pass computes the gradients of activations and of weights, each at the cost of a
    forward pass. Convolutions and matrix products are counted (torch's FlopCounterMode), the rest is small.
    """
    was_training = model.training
    model.eval()  # a lone image has no batch statistics
    # In inference mode a matrix product would be taken apart in Python, which imports sympy: 0.7 s of each run.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        mode: Any = counter.mode
        # Without the decorator that imports torch._dynamo, as in optimizer.py.
        mode.__torch_dispatch__ = MethodType(inspect.unwrap(type(mode).__torch_dispatch__), mode)
        model(torch.zeros(1, *shape, device=device))
    model.train(was_training)
    return 3 * int(counter.get_total_flops())
