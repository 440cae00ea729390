"""The network for digits learns digits."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from dl2pa.backbones.build import build_neck
from dl2pa.backbones.small import SmallNet


def test_learns_digits_towards_a_simplex() -> None:
    """Squared cosine loss to a fixed simplex in 10 dimensions, linear neck; 12 epochs, about two seconds."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    train, test = torch.arange(0, 1347), torch.arange(1347, 1797)
    prototypes = F.normalize(torch.eye(10) - 0.1, dim=1)
    backbone = SmallNet(in_channels=1, width=64)
    net = nn.Sequential(backbone, build_neck("linear", backbone.width, 10))
    epochs, batch = 12, 64
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * -(-len(train) // batch))
    for _ in range(epochs):
        for chosen in train[torch.randperm(len(train))].split(batch):
            cosines = (F.normalize(net(images[chosen])) * prototypes[labels[chosen]]).sum(dim=1)
            optimizer.zero_grad()
            (1 - cosines).square().mean().backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        predicted = (net(images[test]) @ prototypes.T).argmax(dim=1)
    assert (predicted == labels[test]).float().mean() > 0.95
