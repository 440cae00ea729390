"""Shortcuts and initialisations of the CIFAR ResNet."""

import math

import pytest
import torch
from torch import nn

from dl2pa.backbones.cifar_resnet import CifarResNet, PadShortcut


def test_pad_shortcut_by_hand() -> None:
    images = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    out = PadShortcut(2, 4)(images)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 0].eq(0).all()
    assert out[0, 3].eq(0).all()
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[12, 14], [20, 22]]


def test_has_31_layers_besides_shortcuts() -> None:
    net = CifarResNet(3, (16, 32, 64), "pad")
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) == 31


def test_convolution_shortcut_is_3x3() -> None:
    net = CifarResNet(3, (16, 32, 64), "conv3x3")
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 33
    assert all(convolution.kernel_size == (3, 3) for convolution in convolutions)


@pytest.mark.parametrize(("shortcut", "fan"), [("conv3x3", "out_channels"), ("pad", "in_channels")])
def test_initial_standard_deviation(shortcut: str, fan: str) -> None:
    torch.manual_seed(0)
    net = CifarResNet(3, (16, 32, 64), shortcut)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (9 * getattr(module, fan)))
            # standard error of a standard deviation: 1 / sqrt(2n)
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


@pytest.mark.parametrize("shortcut", ["conv3x3", "pad"])
def test_features_are_non_negative_averages(shortcut: str) -> None:
    torch.manual_seed(0)
    net = CifarResNet(1, (16, 32, 64), shortcut).eval()
    images = torch.randn(2, 1, 16, 16)
    features = net(images)
    assert features.min() >= 0
    torch.testing.assert_close(features, net.stages(net.stem(images)).flatten(2).mean(2))


@pytest.mark.parametrize("shortcut", ["conv3x3", "pad"])
def test_every_parameter_gets_a_gradient(shortcut: str) -> None:
    net = CifarResNet(3, (4, 8, 16), shortcut)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())
