"""A finished run as a model: the same predictions as its evaluation made, without its data."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import compose_config
from PIL import Image

import dl2pa
from dl2pa import __main__ as command_line
from dl2pa.data import datasets
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.predict import Preparation, main
from dl2pa.run import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Five epochs on the digits, in which classes move to other prototypes; then the prototypes' cache is removed."""
    root = tmp_path_factory.mktemp("trained")
    words = ["epochs=5", "assignment.freeze_after=1", "prototypes=random", "seed=3", "precision=fp32"]
    words += ["optimizer=sgd_balanced", "schedule=step", "recipe.reduction=sum"]
    cfg = compose_config(*words, f"data_root={root / 'data'}", f"runs_dir={root / 'runs'}")
    run(cfg)
    shutil.rmtree(root / "data")
    return RunFolder.of(cfg)


@pytest.fixture(scope="module")
def digits() -> datasets.Data:
    return datasets.load("digits", num_classes=10, imbalance=None, holdout=0, data_root=Path("none"), download=False)


def result_of(folder: RunFolder) -> dict[str, Any]:
    result = folder.result()
    assert result is not None
    return result


@pytest.mark.parametrize(("which", "logged"), [("last", "top1"), ("best", "top1_best")])
def test_accuracy_is_the_logged_one(which: str, logged: str, trained: RunFolder, digits: datasets.Data) -> None:
    assert sum(result_of(trained)["moved"]) > 0
    history = trained.lines("assignments")
    assert history[0]["assignment"] != history[-1]["assignment"]
    model = dl2pa.load(trained.path, which)
    assert isinstance(digits.test.images, torch.Tensor)
    images = [Image.fromarray(image[:, :, 0].numpy()) for image in digits.test.images]
    with torch.inference_mode():
        scores = model.module(torch.stack([model.transform(image) for image in images]))
    right = int((scores.argmax(1) == digits.test.labels).sum())
    assert 100 * right / len(images) == result_of(trained)[logged]
    assert (model.classes, model.dataset, model.score) == (digits.class_names, "digits", "cosine")
    assert float(scores.abs().max()) <= 1 + 1e-6


def test_loading_leaves_the_random_numbers_alone(trained: RunFolder) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = dl2pa.load(str(trained.path))
    assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in model.module.modules())


def test_an_image_in_colour_or_of_another_size(trained: RunFolder, tmp_path: Path) -> None:
    """A gray data set takes colour images, and scales what is not 8x8; a file is as good as the image."""
    transform = dl2pa.load(trained.path).transform
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    small = Image.fromarray(pixels)
    expected = (torch.from_numpy(pixels).float()[None] / 255 - 0.2874) / 0.3540
    torch.testing.assert_close(transform(small), expected)
    assert torch.equal(transform(small.convert("RGB")), transform(small))
    small.save(tmp_path / "digit.png")
    assert torch.equal(transform(tmp_path / "digit.png"), transform(small))
    large = small.resize((32, 16), Image.Resampling.NEAREST)
    assert transform(large).shape == (1, 8, 8)
    flat = Image.new("RGB", (50, 20), (90, 90, 90))
    torch.testing.assert_close(transform(flat), torch.full((1, 8, 8), (90 / 255 - 0.2874) / 0.3540))


def test_files_are_prepared_as_evaluation_prepares_them(tmp_path: Path) -> None:
    from dl2pa.assemble import image_transform
    from dl2pa.data.loader import evaluation_batches
    from dl2pa.data.split import Split

    cfg = compose_config(
        "dataset.size=24",
        "dataset.resize=32",
        "dataset.channels=3",
        "dataset.mean=[0.5,0.4,0.3]",
        "dataset.std=[0.2,0.2,0.1]",
    )
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    [(expected, _)] = evaluation_batches(
        Split([str(path)], torch.tensor([0])),
        image_transform(cfg),
        batch_size=1,
        device=torch.device("cpu"),
        mean=cfg.dataset.mean,
        std=cfg.dataset.std,
    )
    assert torch.equal(Preparation(cfg)(path), expected[0])


def test_command(trained: RunFolder, tmp_path: Path, digits: datasets.Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(digits.test.images, torch.Tensor)
    paths = [str(tmp_path / f"{name}.png") for name in ("a", "longer")]
    for path, image in zip(paths, digits.test.images, strict=False):
        Image.fromarray(image[:, :, 0].numpy()).save(path)
    main([str(trained.path), *paths, "top=3"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["image", "class", "cosine"]
    assert len(lines) == 6
    assert {len(line) for line in [header, *lines]} == {len(header)}
    model = dl2pa.load(trained.path)
    with torch.inference_mode():
        scores = model.module(torch.stack([model.transform(path) for path in paths]))
    for row, path in enumerate(paths):
        best = scores[row].argsort(descending=True)[:3].tolist()
        shown = [line.split() for line in lines[3 * row : 3 * row + 3]]
        assert shown[0][0] == path
        assert [words[-2:] for words in shown] == [[model.classes[c], f"{scores[row, c]:.4f}"] for c in best]


def test_what_the_user_can_put_right(trained: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        dl2pa.load(tmp_path)
    with pytest.raises(UserError, match="which=worst: use last or best"):
        dl2pa.load(trained.path, "worst")
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(UserError, match=r"text\.png: cannot be read as an image"):
        main([str(trained.path), str(text)])
    with pytest.raises(UserError, match="top=0: use a number from 1 on"):
        main([str(trained.path), str(text), "top=0"])
    with pytest.raises(UserError, match=r"usage: python -m dl2pa predict RUN IMAGE"):
        main([str(trained.path)])
    copy = RunFolder(tmp_path / trained.run_id)
    shutil.copytree(trained.path, copy.path)
    (copy.path / "best.pt").unlink()
    with pytest.raises(UserError, match=r"this run has no best\.pt"):
        dl2pa.load(copy.path, "best")
    (copy.path / "result.json").unlink()
    with pytest.raises(UserError, match="not finished; python -m dl2pa run"):
        dl2pa.load(copy.path)


def test_a_prepared_folder_is_worked_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["epochs=1", "max_steps=2", "prototypes=orthoplex", "dimension=8", f"runs_dir={tmp_path / 'runs'}"]
    cfg = compose_config(*words, f"data_root={tmp_path / 'data'}")
    folder = RunFolder.of(cfg)
    folder.path.mkdir(parents=True)
    folder.write_config(cfg)
    folder.write_local({"data_root": cfg.data_root})
    assert command_line.main(["run", str(folder.path)]) == 0
    assert result_of(folder)["run_id"] == folder.run_id
    renamed = folder.path.rename(folder.path.with_name("mine"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        command_line.main(["run", str(renamed)])
    assert f"its config.yaml is that of digits/{folder.run_id}" in capsys.readouterr().err


def test_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert command_line.main([]) == 0
    usage = capsys.readouterr().out
    assert [verb for verb in command_line.VERBS if f"\n  {verb} " not in usage] == ["fetch", "probe", "mirror"]
    assert max(len(line) for line in usage.splitlines()) < 120
    assert len(usage.splitlines()) < 28
    assert command_line.main(["plan", "--help"]) == command_line.main(["status", "-h"]) == 0
    assert capsys.readouterr().out == 2 * usage
    assert command_line.main(["trian"]) == 2
    assert "trian: no such verb" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        command_line.main(["predict", "nowhere", "image.png"])
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match="nowhere: not a run folder"):
        command_line.main(["predict", "nowhere", "image.png"])


def test_every_verb_exists_and_the_process_says_its_status() -> None:
    from importlib import import_module

    for target in command_line.VERBS.values():
        module, name = target.split(":")
        assert callable(getattr(import_module(module), name))
    code = "import sys, dl2pa; assert callable(dl2pa.load); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    assert subprocess.run([sys.executable, "-m", "dl2pa", "unknown"], capture_output=True).returncode == 2


def test_best_is_never_of_a_warm_up(tmp_path: Path) -> None:
    """The best epoch is one whose classes own prototypes, also where learned vectors were more accurate before."""
    words = (
        "method=dl2pa_plus",
        "dimension=2",
        "prototypes=random",
        "epochs=8",
        "assignment.learn=0.6",
        "optimizer.lr=0.05",
        "max_steps=206",
    )
    cfg = compose_config(*words, f"data_root={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}")
    run(cfg)
    folder = RunFolder.of(cfg)
    top1 = {line["epoch"]: line["top1"] for line in folder.lines("metrics") if "top1" in line}
    owned = [line["epoch"] for line in folder.lines("assignments")]
    assert max(top1.values()) > max(top1[epoch] for epoch in owned)
    assert result_of(folder)["top1_best"] == max(top1[epoch] for epoch in owned)
