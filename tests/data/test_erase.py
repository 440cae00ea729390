import math

import torch

from dl2pa.data.erase import cutout_boxes, erase, erasing_boxes, inside

SIZE, COUNT = 32, 4000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_inside_a_box() -> None:
    boxes = torch.tensor([[1, 2, 3, 5], [-2, 3, 1, 9], [2, 2, 2, 4]])
    masks = inside(boxes, 4, 6)
    for mask, (top, left, bottom, right) in zip(masks, boxes.tolist(), strict=True):
        expected = torch.zeros(4, 6, dtype=torch.bool)
        expected[max(top, 0) : bottom, max(left, 0) : right] = True
        assert torch.equal(mask, expected)
    assert torch.equal(inside(boxes[0], 4, 6), masks[0])


def test_cutout_squares_are_centred_on_any_pixel() -> None:
    boxes = cutout_boxes(COUNT, 8, SIZE, generator())
    assert (boxes[:, 2:] - boxes[:, :2] == 8).all()
    centres = boxes[:, :2] + 4
    assert sorted(centres[:, 0].unique().tolist()) == list(range(SIZE))
    assert sorted(centres[:, 1].unique().tolist()) == list(range(SIZE))
    assert abs(float(torch.corrcoef(centres.T.float())[0, 1])) < 0.1


def test_erased_rectangles_are_torchvisions() -> None:
    """Within the image, 2 to 33 % of it, height over width from .3 to 3.3, to the rounding of a side to a pixel."""
    from torchvision.transforms.v2 import RandomErasing

    boxes = erasing_boxes(COUNT, 1.0, SIZE, generator())
    assert (boxes >= 0).all()
    assert (boxes <= SIZE).all()
    heights, widths = (boxes[:, 2] - boxes[:, 0]).double(), (boxes[:, 3] - boxes[:, 1]).double()
    assert (((heights + 0.5) * (widths + 0.5)) >= 0.02 * SIZE**2).all()
    assert (((heights - 0.5) * (widths - 0.5)) <= 0.33 * SIZE**2).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all()
    assert ((heights - 0.5) / (widths + 0.5) <= 3.3).all()
    torch.manual_seed(0)
    theirs = RandomErasing(p=1.0)
    gone = torch.stack([theirs(torch.ones(1, SIZE, SIZE))[0] == 0 for _ in range(COUNT)]).double()
    own = inside(boxes, SIZE, SIZE).double()
    assert abs(own.mean() - gone.mean()) < 0.01
    assert (own.mean(dim=0) - gone.mean(dim=0)).abs().max() < 6 * math.sqrt(2 * 0.25 / COUNT)
    assert abs(own.mean(dim=(1, 2)).std() - gone.mean(dim=(1, 2)).std()) < 0.01


def test_a_share_of_the_images_is_erased_to_zero() -> None:
    images = torch.ones(COUNT, 3, 8, 8).to(memory_format=torch.channels_last)
    erased = erase(images, 0.1, 0, generator(), len(images))
    assert erased.is_contiguous(memory_format=torch.channels_last)
    assert set(erased.unique().tolist()) == {0.0, 1.0}
    assert (erased[:, :1] == erased).all()  # all channels of a pixel together
    touched = (erased == 0).any(dim=(1, 2, 3)).float().mean()
    assert abs(float(touched) - 0.1) < 0.03  # six standard deviations
    assert (erase(torch.ones(20, 3, 8, 8), 0.0, 4, generator(), 20) == 0).any(dim=(1, 2, 3)).all()


def test_the_generator_decides() -> None:
    first, again, other = (erase(torch.ones(9, 1, SIZE, SIZE), 0.5, 8, generator(seed), 9) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
