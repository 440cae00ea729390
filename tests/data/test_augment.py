import numpy as np
import pytest
import torch
from torch import Tensor

from dl2pa.data.augment import Normalise, cutmix, mixup, random_crop_flip

CPU = torch.device("cpu")


def images(count: int, size: tuple[int, int] = (9, 7), channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, *size, channels), dtype=torch.uint8, generator=generator)


def positions(result: Tensor, source: Tensor, padding: int) -> set[tuple[int, int, bool]]:
    """Every (row, column, mirrored) whose crop of the zero-padded ``source`` [H, W, c] is ``result``, one by one."""
    height, width, channels = source.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), dtype=np.uint8)
    padded[padding : padding + height, padding : padding + width] = source.numpy()
    found = set()
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            window = padded[row : row + height, column : column + width]
            for mirrored in (False, True):
                if np.array_equal(window[:, ::-1] if mirrored else window, result.numpy()):
                    found.add((row, column, mirrored))
    return found


@pytest.mark.parametrize(("padding", "channels"), [(2, 3), (4, 1)])
def test_every_image_gets_its_own_crop_and_flip(padding: int, channels: int) -> None:
    source = images(5, channels=channels)
    indices = torch.tensor([4, 0, 0, 2, 3, 1] * 200)
    generator = torch.Generator().manual_seed(1)
    result = random_crop_flip(source[indices], padding, True, generator)
    assert result.dtype == torch.uint8
    drawn = []
    for image, index in zip(result, indices.tolist(), strict=True):
        found = positions(image, source[index], padding)
        assert len(found) == 1
        drawn += found
    rows, columns, mirrored = (np.array(part) for part in zip(*drawn, strict=True))
    side = 2 * padding + 1
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(r, c) for r in range(side) for c in range(side)}
    # 1,200 draws: seven standard deviations on either side.
    assert abs(mirrored.mean() - 0.5) < 0.1
    for offsets in (rows, columns):
        assert np.abs(np.bincount(offsets) / len(drawn) - 1 / side).max() < 0.1
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
    assert abs(np.corrcoef(rows, mirrored)[0, 1]) < 0.2


def test_no_flip_unless_asked() -> None:
    source = images(3)
    indices = torch.arange(3).repeat(20)
    result = random_crop_flip(source[indices], 1, False, torch.Generator().manual_seed(0))
    for image, index in zip(result, indices.tolist(), strict=True):
        assert [mirrored for _, _, mirrored in positions(image, source[index], 1)] == [False]


def test_without_padding_and_flip_images_stay_as_they_are() -> None:
    source = images(6)
    indices = torch.tensor([5, 0, 3])
    result = random_crop_flip(source[indices], 0, False, torch.Generator())
    assert torch.equal(result, source[indices])


def test_the_generator_decides() -> None:
    source = images(8)
    crops = [random_crop_flip(source, 3, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


def test_normalise_is_to_tensor_then_normalize() -> None:
    from torchvision.transforms.v2 import functional

    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    source = images(4)
    result = Normalise(mean, std, CPU)(source)
    expected = functional.normalize(source.permute(0, 3, 1, 2).to(torch.float32) / 255, list(mean), list(std))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert source.dtype == torch.uint8


def test_padding_is_zero_before_normalisation() -> None:
    white = torch.full((64, 4, 4, 1), 255, dtype=torch.uint8)
    cropped = random_crop_flip(white, 1, False, torch.Generator().manual_seed(0))
    assert set(Normalise([0.5], [0.25], CPU)(cropped).unique().tolist()) == {-2.0, 2.0}


@pytest.mark.parametrize("padding", [1, 4])
def test_a_reflecting_border_is_the_images_own(padding: int) -> None:
    source = torch.randint(0, 256, (40, 7, 9, 3), dtype=torch.uint8)
    crops = random_crop_flip(source, padding, False, torch.Generator().manual_seed(0), "reflect")
    size = 2 * [padding]
    seen = set()
    for image, crop in zip(source, crops, strict=True):
        padded = np.pad(image.numpy(), (size, size, (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, crop.shape)[:, :, 0]
        (place,) = np.argwhere((windows == crop.numpy()).all(axis=(2, 3, 4)))
        seen.add(tuple(place))
    assert len(seen) > 2 * padding


def test_mixup_blends_with_the_image_before() -> None:
    batch = torch.randn(5, 3, 6, 6).to(memory_format=torch.channels_last)
    mixed = mixup(batch, torch.tensor(0.7))
    labels = torch.arange(5)
    for i, partner in enumerate(labels.roll(1).tolist()):
        torch.testing.assert_close(mixed[i], 0.7 * batch[i] + 0.3 * batch[partner])
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mixup(batch, torch.tensor(1.0)), batch)


@pytest.mark.parametrize("box", [(0, 0, 6, 5), (1, 2, 4, 3), (2, 2, 2, 4)])
def test_cutmix_pastes_the_image_before(box: tuple[int, int, int, int]) -> None:
    batch = torch.randn(4, 3, 6, 5).to(memory_format=torch.channels_last)
    mixed = cutmix(batch, torch.tensor(box))
    top, left, bottom, right = box
    expected = batch.clone()
    expected[:, :, top:bottom, left:right] = batch.roll(1, 0)[:, :, top:bottom, left:right]
    assert torch.equal(mixed, expected)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
