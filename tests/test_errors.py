"""What goes wrong is told in one line that names key, value and what is legal; nothing is lost by it."""

import json
import math
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import compose_config
from data_files import write_cifar10, write_tiny_imagenet
from omegaconf import DictConfig, OmegaConf
from processes import Ended, command, few_digits, launch, limit_files, signal_after, train, with_few_digits

from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.predict import load
from dl2pa.run import run
from dl2pa.validate import validate
from dl2pa.validate.values import CHOICES, RANGES

HINT = "Set the environment variable HYDRA_FULL_ERROR=1"


def told(ended: Ended) -> str:
    """The message of a command that failed as it should."""
    assert ended.code == 1, ended.said
    assert "Traceback" not in ended.said, ended.said
    said: str = ended.said.partition(HINT)[0].strip()
    return said


def last_line(ended: Ended) -> str:
    return told(ended).splitlines()[-1]


# -- values: every one is refused by validate(), and a few as real command lines


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return compose_config("dataset=cifar10_lt")


def test_config_that_the_ranges_start_from_is_legal(composed: DictConfig) -> None:
    validate(composed)


@pytest.mark.parametrize("key", RANGES)
def test_range(composed: DictConfig, key: str) -> None:
    interval = RANGES[key]
    low, high = (float(end) for end in interval[1:-1].split(","))
    whole = not isinstance(OmegaConf.select(composed, key), float)  # keys that are null are whole numbers, too
    outside = [low - 1, *([low] if interval[0] == "(" else [])]
    if high < math.inf:
        outside += [high + 1, *([high] if interval[-1] == ")" else [])]
    outside = [int(value) for value in outside] if whole else [*outside, math.nan, math.inf]
    for value in outside:
        cfg = composed.copy()
        OmegaConf.update(cfg, key, value)
        with pytest.raises(UserError) as caught:
            validate(cfg)
        message = str(caught.value)
        assert re.fullmatch(rf"{re.escape(key)}=\S+ is not legal: use a number (from|over) .*", message), message
        assert interval[1:].split(",")[0] in message
        assert "\n" not in message


@pytest.mark.parametrize("key", CHOICES)
def test_choice(composed: DictConfig, key: str) -> None:
    cfg = composed.copy()
    OmegaConf.update(cfg, key, "nope")
    with pytest.raises(UserError) as caught:
        validate(cfg)
    assert str(caught.value).startswith(f"{key}=nope is not legal: use one of ")
    for legal in CHOICES[key]:
        assert str(legal) in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prototypes=etf dimension=9", r"dimension=9: kind=etf with num_classes=10 needs dimension >= 10"),
        ("prototypes=simplex dimension=8", r"dimension=8: kind=simplex with num_classes=10 needs dimension >= 9"),
        ("prototypes=orthoplex dimension=4", r"dimension=4: kind=orthoplex .* needs dimension >= 5"),
        ("prototypes=uniform dimension=1", r"dimension=1: must be at least 2"),
        ("prototypes=file", r"prototypes\.file=null does not fit prototypes=file: use prototypes\.file=PATH"),
        ("prototypes=none", r"prototypes=none does not fit method=dl2pa: use one of uniform_readme, .*"),
        ("prototypes=etf dimension=10 prototypes.steps=5", r"prototypes\.steps=5 does nothing with prototypes=etf, .*"),
        (
            "prototypes=separation prototypes.tau=0.5",
            r"prototypes\.tau=0\.5 does nothing with prototypes=separation, .*",
        ),
        ("prototypes=equiangular prototypes.tau=low", r"prototypes\.tau=low: must be auto, or above 0 and below 1"),
        (
            "prototypes=equiangular prototypes.tau=0.3",
            r"tau=0\.3: num_classes=10 and dimension=4 allow no less than 0.*",
        ),
        (
            "method=word2vec dimension=11",
            r"dimension=11: the word vectors of 10 classes have rank 10 with reduce=pca; .*",
        ),
        ("method=word2vec prototypes.reduce=tsne", r"prototypes\.reduce=tsne: must be one of pca, .*"),
        ("method=word2vec prototypes.seed=1", r"seed=1: does nothing with reduce=pca, .*"),
        ("method=word2vec dataset=imagenet", r"words=imagenet: no class names are known for it, only for digits, .*"),
        (
            "method=hpn prototypes.words=cifar10",
            r"prototypes\.words=cifar10 does nothing with prototypes=separation, .*",
        ),
        ("prototypes=label_tree dimension=20", r"words=digits: no superclasses are known for it, only for cifar100"),
        ("method=psc prototypes.seed=5", r"prototypes\.seed=5 does nothing with method=psc"),
        (
            "method=goto dimension=8 backbone.neck=linear",
            r"method\.vectors=8 does not fit method\.variant=norm at dimension=8: .*; use fewer vectors",
        ),
        (
            "dataset=cifar10 assignment=related assignment.similarity=tree",
            r"assignment\.similarity=tree does not fit dataset=cifar10: it is known for cifar100; use .*",
        ),
        (
            "augment.target=dominant",
            r"augment\.target=dominant does nothing with augment\.mixup=0 and .*=0: use augment\.target=soft",
        ),
        ("augment.policy=rand", r"augment\.policy=rand is not legal: use one of none, trivial, auto"),
        ("augment.mix_until=0.5", r"augment\.mix_until=0\.5 does nothing with augment\.mixup=0 and .*=0: use .*=1\.0"),
        ("augment.views=6", r"augment\.views=6 does not fit augment\.flip=false: .*use augment\.views=1"),
        ("augment.views=4", r"augment\.views=4 is not legal: use one of 1, 2, 6"),
        ("augment.cutout=9", r"augment\.cutout=9 is not legal: use at most dataset\.size=8 pixels"),
        (
            "optimizer.decay=weights optimizer.weight_decay=0",
            r"optimizer\.decay=weights does nothing with optimizer\.weight_decay=0: use .*=all",
        ),
        (
            "schedule=step schedule.warmup_start=0.1",
            r"schedule\.warmup_start=0\.1 does nothing with schedule\.warmup=0: use .*=0\.0",
        ),
        (
            "schedule=step schedule.floor=0.1",
            r"schedule\.floor=0\.1 does nothing with schedule\.name=step: it is read with cosine, linear",
        ),
        ("dataset=cifar10_lt imbalance=0", r"imbalance=0(\.0)? is not legal: use a number over 0 up to 1"),
        ("dataset=cifar10_lt imbalance=100", r"imbalance=100(\.0)? is not legal: use a number over 0 up to 1"),
        (
            "dataset=cifar10_lt imbalance=null",
            r"imbalance=null does not fit dataset=cifar10_lt: use a number over 0 .*",
        ),
        ("dataset=cifar10 imbalance=0.01", r"imbalance=0\.01 does not fit dataset=cifar10, .* imbalance=null or a .*"),
        (
            "dataset=cifar10_lt dimension=10",
            r"dimension=10 does not fit backbone=resnet32_lt, .* 64: .*backbone\.neck=.*",
        ),
        ("backbone.name=nope", r"backbone=nope is unknown: use one of .*resnet32.*"),
        ("backbone=resnet32 backbone.width=3", r"backbone\.width=3 does not fit backbone=resnet32 .*"),
        ("method=psc prototypes=exact", r"prototypes=exact does not fit method=psc, .*: use prototypes=none"),
        ("method=psc assignment=hungarian", r"assignment=hungarian does not fit method=psc, .*: use assignment=static"),
        ("method=psc loss=squared_cosine", r"loss=squared_cosine does not fit method=psc, .*: use loss=softmax"),
        ("method=psc method.variant=null", r"method\.variant=null is not legal: use one of linear, .*"),
        (
            "dataset=digits method=kasarla dimension=8",
            r"dimension=8: kind=simplex with num_classes=10 needs dimension >= 9",
        ),
        (
            "method=dnc dimension=16",
            r"dimension=16 does not fit backbone=small, .* 64: use dimension=64, or backbone.neck",
        ),
        ("method=dnc loss=squared_cosine", r"loss=squared_cosine does not fit method=dnc, .*: use loss=softmax"),
        ("method=dnc method.variant=linear", r"method\.variant=linear does nothing with method\.head=dnc: .*"),
        ("method=dl2pa method.vectors=4", r"method\.vectors=4 does nothing with method\.head=prototypes: .*"),
        ("method=psc method.normalise=false", r"method\.normalise=False does nothing with method\.head=softmax: .*"),
        ("method=kasarla loss=squared_cosine", r"method\.normalise=false does not fit loss=squared_cosine, .*"),
        (
            "method=goto method.variant=linear",
            r"method\.variant=linear is not legal: use one of norm, soft_columns, .*",
        ),
        ("method=goto method.vectors=65", r"method\.vectors=65 does not fit dimension=64, .*"),
        (
            "method=goto method.variant=signed",
            r"method\.vectors=8 does not fit method\.variant=signed, .*: use method\.vectors=1",
        ),
        ("method=goto method.column_temperature=1", r"method\.column_temperature=1.0 does nothing with .*soft_columns"),
        ("loss.adjust=1", r"loss\.adjust=1\.0 does nothing with loss\.name=squared_cosine: .*"),
        (
            "loss=balanced_cross_entropy assignment.statistic=loss_matrix",
            r"assignment\.statistic=loss_matrix does not fit loss\.adjust=1\.0, .*: use epoch_mean, ema or queue",
        ),
        ("method=etf backbone.name=nope", r"backbone=nope is unknown: use one of .*resnet32.*"),
        ("assignment.every=0", r"assignment\.every=0 is not legal: use a number of epochs from 1 on, or step"),
        ("assignment.every=often", r"assignment\.every=often is not legal: .*"),
        (
            "assignment.rotate=true assignment.statistic=loss_matrix",
            r".*=loss_matrix does not fit assignment\.rotate=true, .*",
        ),
        (
            "assignment=sinkhorn assignment.statistic=loss_matrix",
            r".*=loss_matrix does not fit assignment=sinkhorn, .*",
        ),
        (
            "assignment.statistic=loss_matrix dataset.num_classes=40000 prototypes=random",
            r"assignment\.statistic=loss_matrix does not fit dataset\.num_classes=40000: .* 8 bytes .* 13 GB, .* at "
            r"most 31622 classes \(8 GB\): use .*",
        ),
        (
            "assignment=sinkhorn dataset.num_classes=21841 prototypes=random",
            r"assignment\.name=sinkhorn does not fit dataset\.num_classes=21841: .* at most 14907 classes .*",
        ),
        ("assignment=sinkhorn assignment.every=step", r"assignment\.every=step does not fit assignment=sinkhorn: .*"),
        ("assignment=sinkhorn assignment.tau=0", r"assignment\.tau=0\.0 is not legal: use a number over 0 on"),
        (
            "assignment=sinkhorn assignment.hysteresis=1",
            r"assignment\.hysteresis=1\.0 does nothing with .*=sinkhorn: .*",
        ),
        ("assignment.tau=1", r"assignment\.tau=1\.0 does nothing with assignment\.name=hungarian: .*"),
        ("assignment=static assignment.rotate=true", r"assignment\.rotate=True does nothing with .*=static: .*"),
        ("assignment.similarity=tree", r"assignment\.similarity=tree does nothing with .*=hungarian: .*quadratic"),
        ("assignment=quadratic assignment.similarity=near", r"assignment\.similarity=near is not legal: use one of .*"),
        (
            "assignment=quadratic assignment.statistic=ema",
            r"assignment\.statistic=ema does nothing with .*=quadratic: .*",
        ),
        (
            "assignment=related assignment.similarity=words assignment.every=2",
            r"assignment\.every=2 does nothing with assignment\.similarity=words, .*, or leave it out",
        ),
        (
            "dataset=cifar100 assignment=quadratic assignment.similarity=tree",
            r"assignment\.freeze_after=0\.35 does nothing with .*=tree, .* use assignment=related, .*",
        ),
        (
            "assignment=learned_warmup",
            r"loss=squared_cosine does not fit assignment\.learn=0\.25: .* use loss=cross_entropy",
        ),
        (
            "assignment=learned_warmup loss=dot_regression",
            r"loss=dot_regression does not fit assignment\.learn=0\.25: .* use loss=cross_entropy",
        ),
        (
            "assignment=learned_warmup loss=cross_entropy assignment.statistic=loss_matrix",
            r"assignment\.statistic=loss_matrix does not fit assignment\.learn=0\.25, .* use .*epoch_mean, .*",
        ),
        (
            "assignment=learned_warmup loss=cross_entropy assignment.warmup=0.1",
            r"assignment\.warmup=0\.1 does nothing with assignment\.learn=0\.25, .*: use assignment\.warmup=0",
        ),
        (
            "assignment=learned_warmup loss=cross_entropy assignment.freeze_after=0.2",
            r"assignment\.learn=0\.25 ends after assignment\.freeze_after=0\.2: use assignment\.freeze_after=0\.25 .*",
        ),
        ("assignment=learned_warmup loss=cross_entropy epochs=1", r"epochs=1 does not fit assignment\.learn=0\.25: .*"),
        (
            "assignment.warmup=0.9 assignment.freeze_after=0.4",
            r"assignment\.warmup=0\.9 ends after assignment\.freeze_after=0\.4: .*",
        ),
        ("schedule.milestones=[0.8,0.4]", r"schedule\.milestones=\[0\.8, 0\.4\] is not legal: use rising shares .*"),
        ("dataset.mean=[0.5,0.5]", r"dataset\.mean=\[0\.5, 0\.5\] is not legal: use 1 numbers, one a channel"),
        ("dataset.std=[0]", r"dataset\.std=\[0\.0\] is not legal: use 1 numbers over 0, one a channel"),
        ("dataset=imagenet dataset.resize=100", r"dataset\.resize=100 is not legal: use dataset\.size=224 or more"),
        ("dimension=???", r"dimension has no value: give one"),
        ("augment.jitter=0.4", r"augment\.jitter=0\.4 does nothing with dataset=digits, which is no .* of image files"),
        ("augment.crop=resized", r"augment\.crop=resized does nothing with dataset=digits, .*"),
        ("dataset.resize=16", r"dataset\.resize=16 does nothing with dataset=digits, .*"),
        (
            "dataset=digits_lt dataset.label_alignment=shifted",
            r"dataset\.label_alignment=shifted does not fit dataset=digits_lt: it is SVHN-LT alone .*",
        ),
        ("backbone=resnet50", r"backbone=resnet50 takes images of 3 channels and the data set has 1: .*"),
        (
            "loss=balanced_cross_entropy assignment=quadratic assignment.similarity=confusion",
            r"assignment\.similarity=confusion does not fit loss\.adjust=1\.0, .*: use means",
        ),
        (
            "method=dl2pa_plus assignment.hysteresis=0.1",
            r"assignment\.hysteresis=0\.1 does nothing with assignment\.freeze_after=0\.5 and assignment\.learn=0\.5",
        ),
        ("optimizer.momentum=1", r"optimizer\.momentum=1\.0 is not legal: use a number from 0 on, below 1"),
    ],
)
def test_combination(words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(compose_config(*words.split()))
    assert re.fullmatch(f"{message}.*", str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("dataset=nope", ["Could not find 'dataset/nope'", "cifar10_lt", "digits"]),
        ("--help dataset=nope", ["Could not find 'dataset/nope'", "cifar10_lt", "digits"]),
        ("optimizer.learning_rate=1", ["optimizer.learning_rate", "Key 'learning_rate' not in 'OptimizerConfig'"]),
        (
            "+optimizer.weigth_decay=0.5",
            ["optimizer.weigth_decay=0.5: no such key; python launch.py --help lists them"],
        ),
        ("epochs=many", ["epochs=many", "'many' of type 'str' could not be converted to Integer"]),
        ("precision=fp8", ["precision=fp8", "expected one of [auto, fp32, bf16]"]),
        ("dataset=cifar10_lt imbalance=2", ["imbalance=2.0 is not legal: use a number over 0 up to 1"]),
        ("-m seed=0,1 epochs=1,many", ["epochs=many", "could not be converted to Integer"]),
        ("-m dataset=digits,nope", ["Could not find 'dataset/nope'", "digits_lt"]),
    ],
)
def test_wrong_word_on_the_command_line(tmp_path: Path, words: str, parts: list[str]) -> None:
    said = told(command(*words.split(), cwd=tmp_path))
    for part in parts:
        assert part in said
    assert not list(tmp_path.glob("runs/*/*/config.yaml")), "a run was begun"


def test_full_error_shows_the_traceback(tmp_path: Path) -> None:
    for words in (["seed=-1"], ["--help", "dataset=nope"]):
        ended = command(*words, cwd=tmp_path, env={"HYDRA_FULL_ERROR": "1"})
        assert ended.code == 1
        assert "Traceback (most recent call last)" in ended.said


# -- sweeps


def test_an_illegal_job_stops_a_sweep_before_it_begins(tmp_path: Path) -> None:
    ended = launch("-m", "dimension=4,0", "epochs=1", f"runs_dir={tmp_path / 'runs'}", cwd=tmp_path).end()
    assert last_line(ended) == "dimension=0 epochs=1 " + (
        f"runs_dir={tmp_path / 'runs'}: dimension=0 is not legal: use a number from 1 on"
    )
    assert not (tmp_path / "runs").exists()


# -- data


@pytest.mark.parametrize("download", [False, True])
def test_absent_data(tmp_path: Path, download: bool) -> None:
    root = tmp_path / "nothing"
    words = ["dataset=cifar10_lt", f"data_root={root}", f"download={download}", f"runs_dir={tmp_path / 'runs'}"]
    said = last_line(launch(*words, cwd=tmp_path, before=unplug).end())
    assert f"files not found in {root}" in said
    assert f"python launch.py dataset=cifar10_lt download=true data_root={root}" in said
    assert ("tried here: " in said) == download


def unplug() -> None:
    """Every download ends at a proxy that nobody runs."""
    os.environ.update({name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")})
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)


def test_damaged_data(tmp_path: Path) -> None:
    """Files that are not the published ones; half a download is one."""
    write_cifar10(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:1000])
    words = ["dataset=cifar10_lt", f"data_root={tmp_path}", "download=false", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(
        UserError, match=r"cifar10: .*data_batch_1 is damaged or incomplete .* to fetch it again: python"
    ):
        run(compose_config(*words))


def test_damaged_image(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, num_classes=3)
    image = next((tmp_path / "tiny-imagenet-200" / "train").rglob("*.JPEG"))
    image.write_bytes(image.read_bytes()[:300])
    words = ["dataset=imagenet200", f"data_root={tmp_path}", "batch_size=4", "max_steps=1", "runtime.threads=1"]
    sizes = ["dataset.num_classes=3", "runtime.workers=1"]
    ended = launch(*words, *sizes, f"runs_dir={tmp_path / 'runs'}", cwd=tmp_path).end()
    assert f"{image}: cannot be read as an image" in last_line(ended)
    with pytest.raises(UserError, match=r"dataset\.num_classes=4: imagenet200 as found on disk has 3 classes"):
        run(compose_config(*words, "dataset.num_classes=4", f"runs_dir={tmp_path / 'runs'}"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "dataset=digits_lt imbalance=0.0001",
            r"imbalance=0\.0001: leaves class \d of digits without a training image",
        ),
        ("dataset.size=16", r"dataset\.size=16: the images of this data set are 8x8"),
        ("dataset.num_classes=9", r"dataset\.num_classes=9: digits as found on disk has 10 classes .*"),
        ("dataset.source=nope", r"dataset\.source=nope: not one of .*digits.*"),
        ("prototypes=file prototypes.file=nope.npy", r"file=nope\.npy: no such file"),
    ],
)
def test_data_do_not_fit(tmp_path: Path, words: str, message: str) -> None:
    places = [f"runs_dir={tmp_path / 'runs'}", "device=cpu", "runtime.threads=1"]
    with pytest.raises(UserError) as caught:
        run(compose_config(*words.split(), *places))
    assert re.fullmatch(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("images", [61, 3])
def test_any_number_of_images_can_be_cut_into_batches_of_two(tmp_path: Path, images: int) -> None:
    """The smallest legal batch_size never leaves a batch of one, which BatchNorm refuses with a traceback."""
    places = [f"runs_dir={tmp_path / 'runs'}", "device=cpu", "runtime.threads=1"]
    with with_few_digits(train=images):
        result = run(compose_config("batch_size=2", "epochs=1", "method.bn=true", "precision=fp32", *places))
    assert result["num_train"] == images


# -- the run folder


def places(root: Path) -> list[str]:
    return ["epochs=2", "batch_size=40", "runtime.threads=1", "device=cpu", f"runs_dir={root / 'runs'}"]


@pytest.fixture
def stopped(tmp_path: Path) -> RunFolder:
    """A run that was stopped in its second epoch, with a checkpoint in its folder."""
    ended = train(compose_config(*places(tmp_path)), tmp_path, partial(stop_after, 4)).end()
    assert "stopped by SIGTERM" in last_line(ended)
    (folder,) = (tmp_path / "runs" / "digits").iterdir()
    return RunFolder(folder)


def stop_after(steps: int) -> None:
    few_digits()
    signal_after(signal.SIGTERM, steps)


def again(root: Path, *words: str) -> Any:
    with with_few_digits():
        return run(compose_config(*places(root), *words))


def test_damaged_checkpoint(tmp_path: Path, stopped: RunFolder) -> None:
    checkpoint = stopped.path / "last.pt"
    whole = checkpoint.read_bytes()
    torch.save([1], tmp_path / "list.pt")
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint", (tmp_path / "list.pt").read_bytes()):
        checkpoint.write_bytes(content)
        with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint \(.*\); rerun=true starts afresh"):
            again(tmp_path)
        assert checkpoint.read_bytes() == content, "it may still be worth something"
    checkpoint.write_bytes(whole)
    assert again(tmp_path)["epochs"] == 2


def test_damaged_checkpoint_as_a_command(tmp_path: Path, stopped: RunFolder) -> None:
    (stopped.path / "last.pt").write_bytes(b"no checkpoint")
    ended = launch(*places(tmp_path), cwd=tmp_path, before=few_digits).end()
    assert "last.pt: not a readable checkpoint" in last_line(ended)
    assert launch(*places(tmp_path), "rerun=true", cwd=tmp_path, before=few_digits).end().code == 0
    assert (tmp_path / "runs" / ".old" / "digits" / f"{stopped.run_id}.0" / "last.pt").read_bytes() == b"no checkpoint"


def test_checkpoint_of_another_config(tmp_path: Path, stopped: RunFolder) -> None:
    cfg = compose_config(*places(tmp_path), "optimizer.lr=0.02")
    other = RunFolder.of(cfg)
    other.path.mkdir(parents=True)
    shutil.copy(stopped.path / "last.pt", other.path)
    with pytest.raises(UserError, match=f"checkpoint of run {stopped.run_id}, not of {other.run_id}; rerun=true"):
        again(tmp_path, "optimizer.lr=0.02")


def test_checkpoint_of_other_code(tmp_path: Path, stopped: RunFolder) -> None:
    """Whose parts have other names."""
    state = stopped.load("last")
    assert state is not None
    state["model"]["head.assigner.older"] = state["model"].pop("head.assigner.began")
    stopped.save(state, "last")
    stopped.write_local({"revisions": ["0123456789ab"]})
    reason = r"last\.pt: does not fit this code \(RuntimeError: .*head\.assigner\.began"
    with pytest.raises(UserError, match=reason) as caught:
        again(tmp_path)
    assert str(caught.value).endswith("check out the revision that wrote it, 0123456789ab, or rerun=true trains anew")
    stopped.write_result({"top1": 50.0, "precision": "fp32"})
    with pytest.raises(UserError, match=reason):
        load(stopped.path)


def test_damaged_result(tmp_path: Path, stopped: RunFolder) -> None:
    for content in ("", '{"top1": 5', "[]", "{}"):
        (stopped.path / "result.json").write_text(content)
        with pytest.raises(UserError, match=r"result\.json: not a readable result \(.*\); rerun=true trains anew"):
            again(tmp_path)
    assert (stopped.path / "last.pt").is_file()
    (stopped.path / "result.json").unlink()
    assert again(tmp_path)["epochs"] == 2


def test_lines_cut_short_are_written_anew(tmp_path: Path, stopped: RunFolder) -> None:
    with open(stopped.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "lo')
    again(tmp_path)
    lines = (stopped.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize("multirun", [[], ["-m"]], ids=["one", "sweep"])
def test_unwritable_runs_dir(tmp_path: Path, multirun: list[str]) -> None:
    file = tmp_path / "file"
    file.write_text("here")
    ended = launch(*multirun, f"runs_dir={file / 'runs'}", cwd=tmp_path, before=few_digits).end()
    said = last_line(ended)
    assert said.startswith(f"runs_dir: cannot write {file / 'runs'}")
    assert "Not a directory" in said
    assert "runs_dir=DIR chooses another folder" in said
    assert file.read_text() == "here"


def test_prototypes_that_cannot_be_kept_are_built(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("here")
    run(compose_config(f"data_root={file / 'data'}", f"runs_dir={tmp_path / 'runs'}", "max_steps=1"))
    assert f"prototypes cannot be kept in {file / 'data' / 'prototypes'} (Not a directory)" in caplog.text


def test_full_disk(tmp_path: Path, stopped: RunFolder) -> None:
    before = (stopped.path / "last.pt").read_bytes()
    limit = len(before) // 2 + 50_000  # best.pt, half as large, still fits
    ended = launch(*places(tmp_path), cwd=tmp_path, before=partial(fill_disk, limit)).end()
    said = last_line(ended)
    assert said.startswith(f"runs_dir: cannot write {stopped.path / 'last.pt'}")
    assert "MiB free there" in said
    assert (stopped.path / "last.pt").read_bytes() == before
    assert not (stopped.path / "result.json").exists()
    assert not list(stopped.path.glob("*.part"))
    ended = launch(*places(tmp_path), cwd=tmp_path, before=few_digits).end()
    assert ended.code == 0, ended.said
    assert "going on at epoch 2, step 2" in ended.said
    assert again(tmp_path, f"runs_dir={tmp_path / 'other'}")["top1"] == again(tmp_path)["top1"]


def fill_disk(size: int) -> None:
    few_digits()
    limit_files(size)


# -- training


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    words = [*places(tmp_path), "schedule=step", "optimizer.lr=1e30", "precision=fp32"]
    said = last_line(launch(*words, cwd=tmp_path, before=few_digits).end())
    assert re.fullmatch(
        r"the loss became non-finite at epoch 1, step [23] \(last finite loss per image \d\S*, "
        r"optimizer\.lr=1e\+30\): a lower optimizer\.lr usually helps",
        said,
    ), said
    assert not list((tmp_path / "runs").glob("*/*/result.json"))


def test_weights_that_are_not_finite_do_not_take_the_place_of_good_ones(tmp_path: Path) -> None:
    """A checkpoint is due after every step."""
    words = (
        *places(tmp_path),
        "schedule=step",
        "optimizer.lr=1e30",
        "precision=fp32",
        "runtime.checkpoint_minutes=1e-9",
    )
    with pytest.raises(UserError, match=r"the loss became non-finite at epoch 1, step [23] "):
        run(compose_config(*words))
    kept = RunFolder.of(compose_config(*words)).load("last")
    assert kept is not None
    assert kept["meter"]["first_bad"] == -1
    assert kept["meter"]["last_finite"].isfinite()


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "mps"])
def test_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"device={device}"):
        run(compose_config(*places(tmp_path), f"device={device}"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(tmp_path: Path) -> None:
    said = last_line(launch(*places(tmp_path), "device=cuda", cwd=tmp_path).end())
    assert said == "device=cuda: this machine has 0 CUDA devices; device=cpu works"
