"""The fixed first layer whitens, and stays as it was computed."""

import pytest
import torch
import torch.nn.functional as F

from dl2pa.backbones.build import build_backbone
from dl2pa.backbones.whitened import Whitened, whitening_filters


def correlated_images(count: int, channels: int, size: int) -> torch.Tensor:
    """Neighbouring pixels and channels alike, as in photographs."""
    torch.manual_seed(0)
    grey = F.avg_pool2d(torch.randn(count, 1, size + 4, size + 4), 5, stride=1)
    return (grey + 0.3 * torch.randn(count, channels, size, size)).contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_responses_to_the_images_are_uncorrelated_with_variance_one(channels: int) -> None:
    images = correlated_images(300, channels, 12).double()
    filters = whitening_filters(images, patch=2, epsilon=0.0)
    count = 4 * channels
    assert filters.shape == (2 * count, channels, 2, 2)
    torch.testing.assert_close(filters[count:], -filters[:count])
    responses = F.conv2d(images, filters[:count]).transpose(0, 1).flatten(1)
    moments = responses @ responses.T / responses.shape[1]
    torch.testing.assert_close(moments, torch.eye(count, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_direction_without_variance_does_not_blow_up() -> None:
    flat = torch.ones(10, 3, 8, 8)
    filters = whitening_filters(flat, patch=2, epsilon=5e-4)
    assert filters.isfinite().all()
    assert filters.flatten(1).norm(dim=1).max() <= 5e-4**-0.5 + 1e-3


def test_fitted_from_images_stored_and_never_trained() -> None:
    torch.manual_seed(0)
    net = build_backbone("whitened", in_channels=3, width=16)
    assert isinstance(net, Whitened)
    before = net.whiten.weight.clone()
    net.fit(lambda: correlated_images(50, 3, 12))
    assert not torch.equal(net.whiten.weight, before)
    assert not net.whiten.weight.requires_grad
    other = build_backbone("whitened", in_channels=3, width=16)
    other.load_state_dict(net.state_dict())
    images = correlated_images(4, 3, 32)
    torch.testing.assert_close(other.eval()(images), net.eval()(images))
