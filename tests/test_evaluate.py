"""Evaluation as a run does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from composing import compose_config
from data_files import write_image_folder

from dl2pa.assemble import load_data, make_evaluation
from dl2pa.data import datasets
from dl2pa.data.augment import Normalise
from dl2pa.evaluate import Batches, Evaluation
from dl2pa.folder import RunFolder
from dl2pa.metrics import Reliability
from dl2pa.predict import load
from dl2pa.run import run

IMAGE_FILES = ["dataset=imagenet", "dataset.num_classes=3", "runtime.workers=0"]


def test_calibration_is_of_the_assignment_that_was_trained_with(tmp_path: Path) -> None:
    """A run cut short by max_steps, whose classes still move after its last evaluation."""
    cfg = compose_config(
        "max_steps=2",
        "holdout=0.1",
        "loss=cross_entropy",
        "loss.temperature=0.2",
        f"runs_dir={tmp_path}",
        "precision=fp32",
    )
    result = run(cfg)
    assert result["moved"][-1] > 0
    assert result["temperature"] is not None
    data = datasets.load("digits", num_classes=10, imbalance=None, holdout=0.0, data_root=tmp_path, download=False)
    assert isinstance(data.test.images, torch.Tensor)
    images = Normalise(cfg.dataset.mean, cfg.dataset.std, torch.device("cpu"))(data.test.images)
    model = load(RunFolder.of(cfg).path)
    with torch.inference_mode():
        scores = model.module(images)
    for name, temperature in (("ece_as_trained", 0.2), ("ece", result["temperature"])):
        reliability = Reliability(temperature)
        reliability.update(scores, data.test.labels)
        assert result[name] == pytest.approx(reliability.ece(), abs=1e-4)


def test_a_run_too_short_to_match_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose_config("epochs=2", "max_steps=1", f"runs_dir={tmp_path}"))
    assert "note: no class will change its prototype" in capsys.readouterr().out
    run(compose_config("epochs=30", "max_steps=1", f"runs_dir={tmp_path}"))
    assert "note:" not in capsys.readouterr().out


def test_accuracy_by_class_means_and_by_superclass_beside_that_of_the_head() -> None:
    """Features of two classes whose head calls everything class 0, and whose means tell most of them apart."""

    class Stuck(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    features = torch.tensor([[1.0, 0.1], [1.0, -0.2], [0.3, 1.0], [1.0, 0.9]])
    labels, groups = torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7])
    evaluation = Evaluation(
        lambda: iter([(features, labels)]), None, None, [1, 1], groups, 1.0, None, torch.device("cpu"), lambda: None
    )
    found = evaluation(Stuck(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert (found["top1"], found["means_top1"], found["super_top1"]) == (50, 75, 100)


def test_the_prior_that_a_softmax_learned_is_taken_off_its_scores(tmp_path: Path) -> None:
    """By hand from the trained model's scores; nothing is left to take off where the loss had all of it."""
    made = {}
    for adjust in (0.0, 0.25, 1.0):
        cfg = compose_config(
            "dataset=digits_lt",
            "imbalance=0.1",
            "loss=cross_entropy",
            f"loss.adjust={adjust}",
            "epochs=2",
            "max_steps=30",
            f"runs_dir={tmp_path}",
            "precision=fp32",
        )
        made[adjust] = result = run(cfg)
        data = load_data(cfg)
        assert isinstance(data.test.images, torch.Tensor)
        images = Normalise(cfg.dataset.mean, cfg.dataset.std, torch.device("cpu"))(data.test.images)
        with torch.inference_mode():
            scores = load(RunFolder.of(cfg).path).module(images)
        counts = torch.bincount(data.train.labels)
        weights = torch.softmax(scores / 0.1, dim=1) / (counts / counts.sum()) ** (1 - adjust)
        right = (weights.argmax(dim=1) == data.test.labels).double()
        rarest = counts.argsort()[:3]
        assert result["adjusted_top1"] == pytest.approx(100 * float(right.mean()))
        tail = [float(right[data.test.labels == label].mean()) for label in rarest]
        assert result["adjusted_tail"] == pytest.approx(100 * sum(tail) / 3)
    assert made[0]["adjusted_tail"] > made[0]["tail"]
    assert made[1]["adjusted_top1"] == made[1]["top1"]


def test_only_a_softmax_on_a_long_tail_has_a_prior_to_take_off(tmp_path: Path) -> None:
    for words in (["loss=cross_entropy"], ["dataset=digits_lt", "imbalance=0.1", "loss=dot_regression"]):
        result = run(compose_config(*words, "max_steps=1", f"runs_dir={tmp_path}"))
        assert "adjusted_top1" not in result


def test_the_last_evaluation_sees_each_image_once() -> None:
    passes = []

    def batches(name: str) -> Batches:
        def start() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            passes.append(name)
            yield torch.eye(2), torch.tensor([0, 1])

        return start

    class Identity(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    evaluation = Evaluation(
        batches("test"), batches("held"), None, [1, 1], None, 1.0, None, torch.device("cpu"), lambda: None
    )
    found = evaluation(Identity(), torch.eye(2), last=True)
    assert passes == ["held", "test"]
    assert found["ece"] < 1 < found["ece_as_trained"]


class BySide(torch.nn.Module):
    """Calls images class 0 where they have ``side`` pixels a side, else class 1."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.eye(3)[0 if images.shape[-2:] == (self.side, self.side) else 1].expand(len(images), 3)
        return scores, scores


def test_the_accuracy_on_uncropped_images_is_of_those_alone() -> None:
    """Three of four are right at 6 pixels, one of five at 4."""

    def batches(side: int, *labels: list[int]) -> Batches:
        return lambda: ((torch.zeros(len(part), 3, side, side), torch.tensor(part)) for part in labels)

    evaluation = Evaluation(
        batches(4, [0, 1, 0], [2, 0]),
        None,
        batches(6, [0, 1], [0, 0]),
        [1, 1, 1],
        None,
        1.0,
        None,
        torch.device("cpu"),
        lambda: None,
    )
    found = evaluation(BySide(6), torch.eye(3), last=True)
    assert (found["top1"], found["top1_uncropped"]) == (20, 75)
    assert "top1_uncropped" not in evaluation(BySide(6), torch.eye(3))


def test_uncropped_images_are_those_of_the_test_with_all_of_their_sides(tmp_path: Path) -> None:
    """ImageNet's: 256 pixels, of which the test cuts out 224. Class 0 has four of six images, class 1 has one."""
    for split in ("train", "val"):
        write_image_folder(tmp_path / "imagenet" / split, per_class=1)
    write_image_folder(tmp_path / "imagenet" / "val", num_classes=1, per_class=4)
    cfg = compose_config(*IMAGE_FILES, f"data_root={tmp_path}")
    evaluation = make_evaluation(cfg, load_data(cfg), torch.device("cpu"), lambda: None)
    assert evaluation.uncropped is not None
    ((cropped, labels),), ((whole, whole_labels),) = evaluation.test(), evaluation.uncropped()
    assert (cropped.shape, whole.shape) == ((6, 3, 224, 224), (6, 3, 256, 256))
    assert torch.equal(whole[:, :, 16:240, 16:240], cropped)
    assert whole_labels.tolist() == labels.tolist() == [0, 0, 0, 0, 1, 2]
    found = evaluation(BySide(256), torch.eye(3), last=True)
    assert (found["top1"], found["top1_uncropped"]) == pytest.approx((100 / 6, 400 / 6))


@pytest.mark.parametrize("resize", ["64", "null"])
def test_nothing_is_uncropped_where_nothing_is_cut_out(tmp_path: Path, resize: str) -> None:
    for split in ("train", "val"):
        write_image_folder(tmp_path / "imagenet" / split)
    sizes = ["dataset.size=64", f"dataset.resize={resize}"]
    cfg = compose_config(*IMAGE_FILES, *sizes, f"data_root={tmp_path}")
    evaluation = make_evaluation(cfg, load_data(cfg), torch.device("cpu"), lambda: None)
    assert evaluation.uncropped is None
    assert "top1_uncropped" not in evaluation(BySide(64), torch.eye(3), last=True)


def test_accuracies_over_views_and_of_the_image_alone(tmp_path: Path) -> None:
    """By hand from the network that is inside; what is loaded averages, too."""
    cfg = compose_config(
        "augment.flip=true",
        "augment.views=2",
        "epochs=2",
        "max_steps=30",
        f"runs_dir={tmp_path}",
        "precision=fp32",
    )
    result = run(cfg)
    data = load_data(cfg)
    assert isinstance(data.test.images, torch.Tensor)
    images = Normalise(cfg.dataset.mean, cfg.dataset.std, torch.device("cpu"))(data.test.images)
    scorer = load(RunFolder.of(cfg).path).module
    with torch.inference_mode():
        averaged = scorer(images)
        alone, mirrored = (scorer.get_submodule("classifier")(views)[1] for views in (images, images.flip(3)))
    torch.testing.assert_close(averaged, (alone + mirrored) / 2)

    def top1(scores: torch.Tensor) -> float:
        return 100 * float((scores.argmax(dim=1) == data.test.labels).double().mean())

    assert result["top1"] == pytest.approx(top1(averaged))
    assert result["top1_one_view"] == pytest.approx(top1(alone))
    assert result["top1"] != result["top1_one_view"]
    assert "top1_one_view" not in run(compose_config("max_steps=1", f"runs_dir={tmp_path}"))
