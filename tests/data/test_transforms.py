from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dl2pa.data.transforms import ImageTransform, read_for_evaluation, read_for_training
from dl2pa.errors import UserError


def write(path: Path, pixels: Tensor) -> str:
    Image.fromarray(pixels.numpy()).save(path)
    return str(path)


@pytest.fixture
def noise(tmp_path: Path) -> str:
    """A 16x16 image whose every pixel differs, stored without loss."""
    pixels = torch.randint(1, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return write(tmp_path / "noise.png", pixels)


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    pixels = torch.zeros(8, 8, 3, dtype=torch.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = 200, 30
    path = write(tmp_path / "a.png", pixels)
    assert torch.equal(read_for_evaluation(path, ImageTransform(8)), pixels)
    assert torch.equal(read_for_training(path, ImageTransform(8), 0, 0, 0), pixels)


def test_gray_images_get_three_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "gray.png", torch.full((8, 8), 77, dtype=torch.uint8))
    assert read_for_evaluation(path, ImageTransform(8)).unique().tolist() == [77]
    assert read_for_evaluation(path, ImageTransform(8)).shape == (8, 8, 3)


@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_pad_crop_is_a_window_of_the_padded_image(noise: str, border: str, mode: str) -> None:
    transform = ImageTransform(16, padding=2, border=border)
    around = ((2, 2), (2, 2), (0, 0))
    padded = torch.from_numpy(np.pad(read_for_evaluation(noise, transform).numpy(), around, mode))
    seen = set()
    for index in range(100):
        crop = read_for_training(noise, transform, 0, 0, index)
        places = [(r, c) for r in range(5) for c in range(5) if torch.equal(padded[r : r + 16, c : c + 16], crop)]
        assert len(places) == 1
        seen.update(places)
    assert {row for row, _ in seen} == {column for _, column in seen} == set(range(5))


def test_flip_mirrors_about_half(noise: str) -> None:
    original = read_for_evaluation(noise, ImageTransform(16))
    crops = [read_for_training(noise, ImageTransform(16, flip=True), 0, 0, index) for index in range(100)]
    mirrored = sum(torch.equal(crop, original.flip(1)) for crop in crops)
    assert mirrored + sum(torch.equal(crop, original) for crop in crops) == 100
    assert 25 < mirrored < 75


def test_randomness_is_that_of_seed_epoch_and_index(noise: str) -> None:
    transform = ImageTransform(12, train_crop="resized", flip=True, jitter=0.4)
    first = read_for_training(noise, transform, 1, 2, 3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(read_for_training(noise, transform, 1, 2, 3), first)
    assert torch.equal(torch.get_rng_state(), before)
    for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]:
        assert not torch.equal(read_for_training(noise, transform, *other), first)


def test_jitter_changes_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "flat.png", torch.full((8, 8, 3), 100, dtype=torch.uint8))
    values = {int(read_for_training(path, ImageTransform(8, jitter=0.4), 0, 0, i)[0, 0, 0]) for i in range(20)}
    assert len(values) > 5
    # Brightness alone moves a flat grey; its contrast and saturation have nothing to change.
    assert 59 <= min(values) < max(values) <= 141


def test_evaluation_scales_the_shorter_side_and_cuts_the_centre(tmp_path: Path) -> None:
    pixels = torch.zeros(40, 80, 3, dtype=torch.uint8)
    pixels[:, 30:50] = 255
    path = write(tmp_path / "wide.png", pixels)
    image = read_for_evaluation(path, ImageTransform(10, resize=20))
    assert image.shape == (10, 10, 3)
    assert image.min() > 200
    assert read_for_training(path, ImageTransform(10, resize=20), 0, 0, 0).shape == (10, 10, 3)


def test_an_image_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "small.png", torch.zeros(4, 6, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"small\.png: is 6x4, expected 8x8"):
        read_for_evaluation(path, ImageTransform(8))
    with pytest.raises(UserError, match=r"small\.png: is 6x4, expected 8x8"):
        read_for_training(path, ImageTransform(8, padding=4), 0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_damaged_file_is_named(tmp_path: Path, noise: str, content: bytes | None) -> None:
    whole = Path(noise).read_bytes()
    path = tmp_path / "bad.png"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"bad\.png: cannot be read as an image") as caught:
        read_for_evaluation(str(path), ImageTransform(16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", ["trivial", "auto"])
def test_a_policy_changes_most_images_each_in_its_own_way(noise: str, policy: str) -> None:
    plain = read_for_training(noise, ImageTransform(16), 0, 0, 0)
    drawn = [read_for_training(noise, ImageTransform(16, policy=policy), 0, 0, index) for index in range(60)]
    assert all(image.shape == plain.shape for image in drawn)
    assert sum(not torch.equal(image, plain) for image in drawn) > 30
    # AutoAugment's pairs have fixed strengths, and many leave noise of full contrast as it is.
    assert len({image.numpy().tobytes() for image in drawn}) > 15
    assert torch.equal(read_for_training(noise, ImageTransform(16, policy=policy), 0, 0, 7), drawn[7])


def test_the_policies_are_torchvisions(noise: str) -> None:
    """Drawn right after the crop and the flip, from the same stream of numbers."""
    from torchvision.transforms import v2

    from dl2pa.data.transforms import drawing_from, under_policy

    image = Image.open(noise)
    smooth = v2.InterpolationMode.BILINEAR
    published = {
        ("trivial", "IMAGENET"): v2.TrivialAugmentWide(interpolation=smooth),
        ("auto", "IMAGENET"): v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, smooth),
        ("auto", "CIFAR10"): v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, smooth),
    }
    for (policy, found_on), transform in published.items():
        found = set()
        for seed in range(20):
            with drawing_from(seed):
                own = under_policy(image, policy, found_on).tobytes()
            with drawing_from(seed):
                assert transform(image).tobytes() == own
            found.add(own)
        assert len(found) > 8
