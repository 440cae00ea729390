from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_files import write_image_folder
from torch import Tensor

from dl2pa.data.loader import FolderLoader, Loader, TensorLoader, evaluation_batches, training_loader
from dl2pa.data.split import Split
from dl2pa.data.transforms import ImageTransform
from dl2pa.errors import UserError
from dl2pa.part import Part

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SIZE = 64
PAD_FLIP = ImageTransform(SIZE, padding=4, flip=True)


def in_memory(count: int = 21, size: int = SIZE) -> Split:
    """The label of each image is its own index, and all its pixels say so."""
    labels = torch.arange(count)
    return Split(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(count, size, size, 3).contiguous(), labels)


@pytest.fixture
def in_files(tmp_path: Path) -> Split:
    write_image_folder(tmp_path, num_classes=3, per_class=7, size=SIZE)
    return Split(sorted(str(path) for path in tmp_path.rglob("*.JPEG")), torch.arange(21))


@pytest.fixture(params=["memory", "files"])
def split(request: pytest.FixtureRequest) -> Split:
    return in_memory() if request.param == "memory" else request.getfixturevalue("in_files")


def loader(split: Split, seed: int = 0, batch_size: int = 4, workers: int = 0, **changes: object) -> Loader:
    transform = ImageTransform(**{**vars(PAD_FLIP), **changes})  # type: ignore[arg-type]
    return training_loader(
        split, transform, batch_size=batch_size, device=CPU, seed=seed, mean=MEAN, std=STD, workers=workers
    )


def evaluation(split: Split, batch_size: int = 8, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    return evaluation_batches(split, PAD_FLIP, batch_size=batch_size, device=CPU, mean=MEAN, std=STD, workers=workers)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def test_the_factory_picks_by_the_kind_of_split(in_files: Split) -> None:
    assert isinstance(loader(in_memory()), TensorLoader)
    assert isinstance(loader(in_files), FolderLoader)


def test_an_epoch_shows_every_image_once_in_nearly_equal_batches(split: Split) -> None:
    batches = list(loader(split).epoch(0))
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 3, 3, 3]
    assert len(batches) == loader(split).steps
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(21))


def test_no_batch_of_one() -> None:
    assert [len(labels) for _, labels in loader(in_memory(21), batch_size=20).epoch(0)] == [11, 10]
    assert [len(labels) for _, labels in loader(in_memory(21), batch_size=100).epoch(0)] == [21]


def test_batches_are_float_channels_last_nchw(split: Split) -> None:
    for images, labels in [next(loader(split).epoch(0)), next(evaluation(split))]:
        assert images.dtype == torch.float32
        assert images.shape[1:] == (3, SIZE, SIZE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_images_keep_their_labels() -> None:
    for images, labels in [*loader(in_memory()).epoch(3), *evaluation(in_memory())]:
        centre = images[:, :, SIZE // 2, SIZE // 2]
        pixels = (centre * torch.tensor(STD) + torch.tensor(MEAN)) * 255
        torch.testing.assert_close(pixels, labels[:, None].expand(-1, 3).to(torch.float32), rtol=0, atol=1e-3)


@pytest.mark.parametrize("start", [1, 5, 6])
def test_a_resumed_epoch_goes_on_with_the_same_batches(split: Split, start: int) -> None:
    whole = list(loader(split, seed=3).epoch(2))
    fresh = loader(split, seed=3)
    assert same(list(fresh.epoch(2, start=start)), whole[start:])


@pytest.mark.parametrize("partner", [False, True])
def test_processes_that_share_batches_have_the_very_same_ones(split: Split, partner: bool) -> None:
    """Cropped, mirrored and erased as in one process; with ``partner`` also the image before the first."""
    transform = ImageTransform(SIZE, padding=4, flip=True, erase=0.5, cutout=9)

    def batches(part: Part) -> list[tuple[Tensor, Tensor]]:
        made = training_loader(split, transform, batch_size=5, device=CPU, seed=3, mean=MEAN, std=STD, part=part)
        return list(made.epoch(2))

    parts = [batches(Part(rank, 2, partner)) for rank in range(2)]
    for (images, labels), *shared in zip(batches(Part()), *parts, strict=True):
        assert all(torch.equal(own, labels) for _, own in shared)
        assert torch.equal(torch.cat([own[int(partner) :] for own, _ in shared]), images)
        if partner:
            middle = len(shared[0][0]) - 1
            assert torch.equal(torch.stack([own[0] for own, _ in shared]), images[[-1, middle - 1]])


def test_evaluation_shared_by_processes(split: Split) -> None:
    whole = list(evaluation(split))
    parts = [
        list(evaluation_batches(split, PAD_FLIP, batch_size=8, device=CPU, mean=MEAN, std=STD, part=Part(rank, 2)))
        for rank in range(2)
    ]
    shared = [(torch.cat([first[0], second[0]]), first[1]) for first, second in zip(*parts, strict=True)]
    assert same(shared, whole)


def test_batches_do_not_depend_on_history(split: Split) -> None:
    used = loader(split, seed=3)
    list(used.epoch(0))
    next(used.epoch(1))
    torch.manual_seed(17)
    assert same(list(used.epoch(2)), list(loader(split, seed=3).epoch(2)))


def test_seed_and_epoch_change_order_and_augmentation(split: Split) -> None:
    base = list(loader(split).epoch(0))
    for other in (list(loader(split).epoch(1)), list(loader(split, seed=1).epoch(0))):
        assert torch.cat([labels for _, labels in other]).tolist() != torch.cat([labels for _, labels in base]).tolist()


def test_augmentation_differs_between_images_steps_and_epochs() -> None:
    noise = torch.randint(1, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    copies = Split(noise.expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.int64))
    (first, _), (second, _) = loader(copies, batch_size=8).epoch(0)
    (third, _), _ = loader(copies, batch_size=8).epoch(1)
    assert len(first.unique(dim=0)) > 4
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_global_generator_is_left_alone(split: Split) -> None:
    before = torch.get_rng_state()
    list(loader(split).epoch(0))
    list(evaluation(split))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_change_nothing(in_files: Split) -> None:
    alone, helped = loader(in_files), loader(in_files, workers=2)
    for epoch in range(2):
        assert same(list(alone.epoch(epoch)), list(helped.epoch(epoch)))
    next(helped.epoch(2))
    assert same(list(alone.epoch(3, start=2)), list(helped.epoch(3, start=2)))
    assert same(list(evaluation(in_files)), list(evaluation(in_files, workers=1)))


def test_evaluation_is_in_order_and_plain(split: Split) -> None:
    batches = list(evaluation(split))
    assert [len(labels) for _, labels in batches] == [8, 8, 5]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(21))
    assert same(batches, list(evaluation(split)))
    plain = next(loader(split, batch_size=21, padding=0, flip=False).epoch(0))
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(images[plain[1]], plain[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line(in_files: Split, workers: int) -> None:
    bad = Path(in_files.paths[10])
    bad.write_bytes(bad.read_bytes()[:300])
    for batches in (loader(in_files, workers=workers).epoch(0), evaluation(in_files, workers=workers)):
        with pytest.raises(UserError) as caught:
            list(batches)
        assert str(caught.value).startswith(f"{bad}: cannot be read as an image")
        assert "\n" not in str(caught.value)


def test_images_in_memory_are_not_scaled() -> None:
    with pytest.raises(UserError, match=r"dataset\.size=64: the images of this data set are 32x32"):
        loader(in_memory(size=32))
    with pytest.raises(UserError, match=r"dataset\.size=64: the images of this data set are 32x32"):
        next(evaluation(in_memory(size=32)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("memory", [True, False])
def test_on_a_gpu_batches_are_there_and_the_host_never_waits(memory: bool, in_files: Split) -> None:
    device = torch.device("cuda", 0)
    source = in_memory() if memory else in_files
    on_gpu = training_loader(source, PAD_FLIP, batch_size=4, device=device, seed=0, mean=MEAN, std=STD)
    assert same(
        [(i.cpu(), t.cpu()) for i, t in on_gpu.epoch(0, 1)], [(i.cpu(), t.cpu()) for i, t in on_gpu.epoch(0)][1:]
    )
    batches = on_gpu.epoch(1)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels = next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.device == labels.device == device
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "changes", [{"policy": "auto"}, {"policy": "trivial"}, {"erase": 0.5}, {"cutout": 16}], ids=str
)
def test_what_is_drawn_for_a_step_does_not_depend_on_history(split: Split, changes: dict[str, object]) -> None:
    whole = list(loader(split, seed=3, **changes).epoch(2))
    used = loader(split, seed=3, **changes)
    next(used.epoch(1))
    assert same(list(used.epoch(2, start=4)), whole[4:])
    changed, plain = (torch.cat([images for images, _ in b]) for b in (whole, loader(split, seed=3).epoch(2)))
    assert (changed != plain).any(dim=(1, 2, 3)).sum() > len(plain) / 4


def test_cutout_is_the_mean_colour(split: Split) -> None:
    for images, _ in loader(split, padding=0, flip=False, cutout=16).epoch(0):
        holes = (images == 0).all(dim=1).sum(dim=(1, 2))
        assert (holes >= 64).all()  # a corner square is a quarter of 16 x 16


def test_each_image_in_memory_draws_its_own_policy() -> None:
    noise = torch.randint(1, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    copies = Split(noise.expand(32, -1, -1, -1).contiguous(), torch.zeros(32, dtype=torch.int64))
    ((images, _),) = loader(copies, batch_size=32, padding=0, flip=False, policy="auto").epoch(0)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert len(images.unique(dim=0)) > 12
