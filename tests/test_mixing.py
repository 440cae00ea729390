"""Mixup and cutmix of whole batches: what is drawn, and what a batch is then called."""

import pytest
import torch
from composing import compose_config
from torch import Tensor

from dl2pa.assemble import load_data, make_trainer
from dl2pa.losses import Target
from dl2pa.mixing import Mixing
from dl2pa.part import WHOLE, Part

CPU = torch.device("cpu")
SIZE, STEPS = 16, 400
LABELS = torch.arange(6)
# The pixels of image i are all i: what a mixed image is made of can be read off it.
IMAGES = LABELS.float().view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)


def mixing(mixup: float = 0.0, cutmix: float = 0.0, target: str = "soft", seed: int = 0, epoch: int = 0) -> Mixing:
    made = Mixing(mixup, cutmix, target, SIZE, seed, CPU, epochs=100)
    made.start(epoch, STEPS)
    return made


def epoch_of(made: Mixing) -> list[tuple[Tensor, Target]]:
    return [made(IMAGES, LABELS, made.of(step)) for step in range(STEPS)]


def share(target: Target) -> float:
    assert target.lam is not None
    return float(target.lam)


def is_cut(images: Tensor) -> bool:
    """Whether every pixel is of one image alone; true of some mixup only with a share of exactly 0 or 1."""
    return bool((images == images.round()).all())


def test_neither_leaves_a_batch_alone() -> None:
    images, target = mixing()(IMAGES, LABELS, mixing().of(0))
    assert images is IMAGES
    assert target.labels is LABELS
    assert target.other is target.lam is None


def test_mixup_is_beta_and_says_what_it_did() -> None:
    found = epoch_of(mixing(mixup=0.2))
    lams = torch.tensor([share(target) for _, target in found])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert abs(float(lams.mean()) - 0.5) < 0.07
    assert abs(float(lams.var()) - 1 / (4 * 1.4)) < 0.03
    for images, target in found[:20]:
        assert target.labels.tolist() == LABELS.tolist()
        assert target.other is not None
        assert target.other.tolist() == LABELS.roll(1).tolist()
        expected = share(target) * LABELS + (1 - share(target)) * LABELS.roll(1)
        torch.testing.assert_close(images[:, 0, 0, 0], expected)


def test_cutmix_says_the_true_share_of_the_clipped_box() -> None:
    clipped = 0
    sides = []
    for images, target in epoch_of(mixing(cutmix=1.0)):
        assert is_cut(images)
        own = images == LABELS.view(-1, 1, 1, 1)
        assert own.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([share(target)] * len(LABELS))
        assert ((images == LABELS.roll(1).view(-1, 1, 1, 1)) != own).all()
        pasted = (~own[1, 0]).nonzero()
        if len(pasted):
            (top, left), (bottom, right) = pasted.amin(dim=0).tolist(), pasted.amax(dim=0).tolist()
            height, width = bottom - top + 1, right - left + 1
            assert height * width == len(pasted)  # a rectangle without holes
            clipped += height != width
            sides.append(max(height, width))
    assert clipped > STEPS / 10
    assert min(sides) <= 2
    assert max(sides) >= SIZE - 2


def test_the_boxs_area_before_clipping_is_uniform_with_alpha_one() -> None:
    made = mixing(cutmix=1.0)
    boxes = made._boxes
    whole = ((boxes > 0) & (boxes < SIZE)).all(dim=1)  # touching no border: not clipped
    lams = torch.stack([made._lam[step] for step in range(STEPS)])
    sides = boxes[whole, 2] - boxes[whole, 0]
    assert torch.equal(sides, boxes[whole, 3] - boxes[whole, 1])
    torch.testing.assert_close(lams[whole], 1 - sides.float() ** 2 / SIZE**2)
    # Large boxes are clipped more often, so of all steps' shares only the side where none is lost is compared.
    assert abs(float((lams > 0.9).float().mean()) - 0.1) < 0.09


def test_with_both_each_step_takes_one_of_the_two() -> None:
    found = epoch_of(mixing(mixup=1.0, cutmix=1.0))
    cut = sum(is_cut(images) for images, _ in found)
    assert abs(cut / STEPS - 0.5) < 0.12  # nearly five standard deviations
    assert all(target.other is not None for _, target in found)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_dominant_is_the_label_with_the_larger_share(mixup: float, cutmix: float) -> None:
    soft, dominant = (epoch_of(mixing(mixup, cutmix, target)) for target in ("soft", "dominant"))
    firsts = 0
    for (images, both), (same, one) in zip(soft, dominant, strict=True):
        assert torch.equal(images, same)
        assert one.other is one.lam is None
        own = share(both) >= 0.5
        assert torch.equal(one.labels, LABELS if own else LABELS.roll(1))
        firsts += own
    assert 0 < firsts < STEPS


def test_seed_and_epoch_decide_and_nothing_else() -> None:
    def first(**changes: int) -> list[float]:
        return [share(target) for _, target in epoch_of(mixing(1.0, 1.0, **changes))]

    torch.manual_seed(5)
    assert first(seed=3, epoch=2) == first(seed=3, epoch=2)
    assert first(seed=3, epoch=2) != first(seed=3, epoch=1)
    assert first(seed=3, epoch=2) != first(seed=4, epoch=2)
    resumed = mixing(1.0, 1.0, epoch=2)
    used = mixing(1.0, 1.0, epoch=1)
    used(IMAGES, LABELS, used.of(0))
    used.start(2, STEPS)
    assert torch.equal(used(IMAGES, LABELS, used.of(7))[0], resumed(IMAGES, LABELS, resumed.of(7))[0])


def test_a_share_of_a_runs_epochs_is_mixed() -> None:
    for share_mixed, expected in ((1.0, 5), (0.5, 2), (0.7, 4), (0.01, 1)):
        cfg = compose_config("epochs=5", "augment.mixup=1", f"augment.mix_until={share_mixed}")
        made = make_trainer(cfg, load_data(cfg), CPU, "fp32").mixing
        mixed = []
        for epoch in range(5):
            made.start(epoch, 1)
            mixed.append(made.of(0) is not None)
        assert mixed == [True] * expected + [False] * (5 - expected)


@pytest.mark.parametrize("part", [WHOLE, Part(1, 2, partner=True)], ids=["whole", "a rank's"])
def test_images_are_mixed_in_the_first_epochs_alone(part: Part) -> None:
    """A rank has loaded the image that its first one would have been mixed with, too."""
    made = Mixing(1.0, 0.0, "soft", SIZE, 0, CPU, epochs=2, part=part)
    mixed = []
    for epoch in range(4):
        made.start(epoch, STEPS)
        images, target = made(part.of(IMAGES), LABELS, made.of(0))
        mixed.append(target.lam is not None)
        assert len(images) == len(IMAGES[part.rows(len(IMAGES))])
        assert torch.equal(images, IMAGES[part.rows(len(IMAGES))]) != mixed[-1]
        assert torch.equal(target.labels, LABELS)
    assert mixed == [True, True, False, False]
