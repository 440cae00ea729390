"""Batch normalisation over the images of all ranks of a run (ranks.py)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_norms(model: nn.Module) -> None:
    """Replace the BatchNorm layers within ``model``, keeping their parameters, by ones over the whole batch.

    On a GPU they are torch's SyncBatchNorm, which refuses to work on a processor (up to torch 2.15 at least).
    """
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncedBatchNorm


class SyncedBatchNorm(_BatchNorm):
    """A BatchNorm layer's formula over all-reduced sums, in fp32, on a processor."""

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        x = input.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        count = torch.full((1,), x.numel() / x.shape[1])
        sums = _AllReduce.apply(torch.cat([x.sum(dim=axes), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean.view(shape)
        variance = _AllReduce.apply(centred.square().sum(dim=axes)) / total  # of centred values: no cancellation
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over the ranks. Its gradient is the sum of theirs: each rank's loss depends on every rank's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
