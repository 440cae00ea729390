"""Batch normalisation over all ranks; that two ranks' is that of one process's batch is tested with whole steps."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dl2pa.synced import SyncedBatchNorm, synchronise_norms


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_formula_is_that_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    expected = nn.Sequential(nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5))
    nn.init.uniform_(expected[0].weight)
    found = copy.deepcopy(expected)
    synchronise_norms(found)
    assert isinstance(found[0], SyncedBatchNorm)
    assert list(found.state_dict()) == list(expected.state_dict())
    gradients = []
    for model in (expected, found):
        generator.manual_seed(0)
        images = (100 + torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
        output = model(images)
        assert output.dtype == dtype
        output.backward(torch.randn(shape, generator=generator).to(dtype))
        gradients.append([output, images.grad, model[0].weight.grad, model[0].bias.grad])
        model.eval()
        gradients[-1].append(model(images))
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(gradients[1], gradients[0], **close)
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
