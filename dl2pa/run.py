"""One run from its config to its result: builds the parts in the order in which they are used, trains, writes."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from dl2pa import identity, ranks
from dl2pa.compiled import Compiler, pays
from dl2pa.console import Console
from dl2pa.data import datasets, loader
from dl2pa.data.datasets import Data
from dl2pa.data.split import Split
from dl2pa.data.transforms import ImageTransform
from dl2pa.device import DEFAULT_THREADS, DTYPES, hardware, resolve_precision
from dl2pa.diagnostics import closeness, collapse
from dl2pa.errors import Stopped, UserError
from dl2pa.evaluate import Batches, Evaluation
from dl2pa.flops import training_flops
from dl2pa.folder import Onlooker, RunFolder
from dl2pa.lease import Lease
from dl2pa.losses import build_cost
from dl2pa.mixing import Mixing
from dl2pa.model import build_model
from dl2pa.optimizer import make_optimizer
from dl2pa.prototypes import build as prototypes
from dl2pa.prototypes.kinds import KINDS
from dl2pa.relations import superclass_of, word_similarity
from dl2pa.revision import revision
from dl2pa.schedule import Schedule
from dl2pa.signals import StopRequest, listening
from dl2pa.tracking import in_search, mirrored
from dl2pa.trainer import Trainer
from dl2pa.validate import validate

_DIAGNOSES = ("super_top1", "nc1", "nc3", "cosine_mean", "words_closeness")  # of the last epoch, in the result
SAMPLE = 2048  # training images from which a backbone computes what is fixed before training


def run(cfg: DictConfig) -> dict[str, Any]:
    """Train what ``cfg`` describes, or go on with it, or read what it found: the content of result.json.

    With runtime.ddp=true every rank calls this, and the first one writes.

    Raises:
        UserError: a value, file or disk that the user can put right; nothing that was written before is lost.
        Stopped: by a signal, with everything saved.
        SystemExit: the same, or an error, for which another rank of the run speaks.
    """
    validate(cfg)
    with ranks.joined(cfg.runtime.ddp, cfg.device) as device:
        folder = (RunFolder if ranks.first() else Onlooker).of(cfg)
        if cfg.rerun and folder.path.exists():
            with folder.claimed():
                folder.set_aside()
        if (result := ranks.from_first(folder.result)) is not None:
            return _finished(cfg, folder, result)
        with folder.claimed() as lease, listening() as stop:
            # Another process may have just let go.
            if (result := ranks.from_first(folder.result)) is not None:
                return _finished(cfg, folder, result)
            folder.write_error(None)
            ranks.if_stuck(folder.write_error)
            try:
                return _Run(cfg, folder, lease, stop, device).to_the_end()
            except Exception as error:
                lease.check()
                with contextlib.suppress(UserError):  # a full disk, which may well be the first error
                    folder.write_error(ranks.cause(error))
                raise


def _finished(cfg: DictConfig, folder: RunFolder, result: dict[str, Any]) -> dict[str, Any]:
    if not ranks.first():
        return result
    if in_search():  # which waits for the metric of a run of its own
        with mirrored(cfg, folder, print):
            pass
    print(f"already finished: {folder.path} (rerun=true trains anew)\n{_summary(result)}")
    return result


def load_data(cfg: DictConfig) -> Data:
    """The images that ``cfg`` trains on and is judged by, downloaded if need be and allowed."""
    return datasets.load(
        cfg.dataset.source,
        num_classes=cfg.dataset.num_classes,
        imbalance=cfg.imbalance,
        holdout=cfg.holdout,
        data_root=Path(cfg.data_root),
        download=cfg.download,
        label_alignment=cfg.dataset.label_alignment,
    )


def make_prototypes(cfg: DictConfig, keep: bool = True) -> Tensor | None:
    """The prototypes [C, d] of ``cfg``, from the cache under data_root or built; None for methods that learn them.

    ``keep`` what is built there; where the folder cannot be written that is left out, with a warning.
    """
    options = cfg.prototypes
    if options.kind == "none":
        return None
    seed = cfg.seed if options.seed is None else options.seed
    read = {name: options[name] for name in KINDS[options.kind].reads if name != "seed"}
    cache = Path(cfg.data_root) / "prototypes"
    return prototypes.cached(cache, cfg.dataset.num_classes, cfg.dimension, options.kind, seed, keep, **read)


def make_trainer(
    cfg: DictConfig, data: Data, device: torch.device, precision: str, say: Callable[[str], None] = print
) -> Trainer:
    """Everything that ``cfg`` trains with, at the start of its first epoch; ``say`` gets warnings."""
    counts = _train_counts(cfg, data)
    model = build_model(cfg, make_prototypes(cfg), DTYPES[precision])
    model.backbone.fit(lambda: _sample(cfg, data.train))
    # channels_last: convolutions run 1.1 to 1.5 times faster on both kinds of hardware.
    model = model.to(device).to(memory_format=torch.channels_last)
    ranks.synchronise(model)
    schedule = cfg.schedule
    part = ranks.part(partner=cfg.augment.mixup > 0 or cfg.augment.cutmix > 0)
    return Trainer(
        model=model,
        cost=build_cost(
            cfg.loss.name,
            cfg.loss.weights,
            cfg.loss.temperature,
            counts.to(device),
            cfg.loss.smoothing,
            cfg.loss.adjust,
        ),
        reduction=cfg.loss.reduction,
        optimizer=make_optimizer(cfg, model),
        schedule=Schedule(
            schedule.name,
            cfg.epochs,
            schedule.per,
            schedule.warmup,
            list(schedule.milestones),
            schedule.gamma,
            schedule.warmup_start,
            schedule.floor,
        ),
        loader=loader.training_loader(
            data.train,
            image_transform(cfg),
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            part=part,
            **_reading(cfg, device),
        ),
        num_classes=cfg.dataset.num_classes,
        dimension=cfg.dimension,
        mixing=Mixing(
            cfg.augment.mixup, cfg.augment.cutmix, cfg.augment.target, cfg.dataset.size, cfg.seed, device, part
        ),
        lr=cfg.optimizer.lr,
        seed=cfg.seed,
        epochs=cfg.epochs,
        max_steps=cfg.max_steps,
        device=device,
        compiler=Compiler(pays(cfg.runtime.compile, device, ranks.count()), device, say),
        clip=cfg.optimizer.clip,
        part=part,
    )


def make_evaluation(cfg: DictConfig, data: Data, device: torch.device, between: Callable[[], None]) -> Evaluation:
    """How ``cfg`` judges its model: on the test split and, where there is one, the holdout split."""
    transform = image_transform(cfg)
    full = transform.size if transform.resize is None else transform.resize

    def batches(split: Split, transform: ImageTransform) -> Batches:
        split, size = split.to(device), cfg.runtime.eval_batch_size
        reading = {"batch_size": size, "part": ranks.part(), **_reading(cfg, device)}
        return lambda: loader.evaluation_batches(split, transform, **reading)

    groups = superclass_of(cfg.dataset.source, cfg.dataset.num_classes)
    return Evaluation(
        test=batches(data.test, transform),
        holdout=None if data.holdout is None else batches(data.holdout, transform),
        uncropped=batches(data.test, replace(transform, size=full)) if full > transform.size else None,
        train_counts=_train_counts(cfg, data).tolist(),
        superclasses=None if groups is None else groups.to(device),
        temperature=cfg.loss.temperature,
        device=device,
        between=between,
    )


def image_transform(cfg: DictConfig) -> ImageTransform:
    return ImageTransform(
        cfg.dataset.size,
        train_crop=cfg.augment.crop,
        padding=cfg.augment.padding,
        flip=cfg.augment.flip,
        resize=cfg.dataset.resize,
        jitter=cfg.augment.jitter,
        policy=cfg.augment.policy,
        erase=cfg.augment.erase,
        cutout=cfg.augment.cutout,
    )


def _reading(cfg: DictConfig, device: torch.device) -> dict[str, Any]:
    return {"device": device, "mean": cfg.dataset.mean, "std": cfg.dataset.std, "workers": cfg.runtime.workers}


def _sample(cfg: DictConfig, split: Split) -> Tensor:
    """[N, c, H, W]: training images from all over the split, as evaluation sees them, on the CPU."""
    chosen = split.subset(np.linspace(0, len(split) - 1, min(len(split), SAMPLE), dtype=np.int64))
    reading = _reading(cfg, torch.device("cpu"))
    batches = loader.evaluation_batches(chosen, image_transform(cfg), batch_size=SAMPLE, **reading)
    return next(batches)[0]


def _train_counts(cfg: DictConfig, data: Data) -> Tensor:
    return torch.bincount(data.train.labels, minlength=cfg.dataset.num_classes)


class _Run:
    """The parts of a run while it lasts."""

    def __init__(
        self, cfg: DictConfig, folder: RunFolder, lease: Lease, stop: StopRequest, device: torch.device
    ) -> None:
        self.cfg, self.folder, self.lease, self.stop, self.device = cfg, folder, lease, stop, device
        folder.write_config(cfg)
        # Fixed at the first start: a run resumed with another arithmetic would be neither of the two.
        fixed, precision = ranks.from_first(
            lambda: (folder.local(), resolve_precision(cfg.precision.value, self.device))
        )
        self.precision = fixed.get("precision") or precision
        threads = fixed.get("threads") or cfg.runtime.threads or DEFAULT_THREADS
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, on a GPU too
        self.revisions = [*dict.fromkeys([*fixed.get("revisions", []), revision()])]
        older = [name for name in (fixed.get("planned_revision"), *self.revisions) if name not in (None, revision())]
        if older and cfg.strict_revision:
            raise UserError(
                f"strict_revision=true: this run was planned or begun with revision {older[-1]} of the code, and "
                f"{revision()} is here now; check {older[-1]} out, or use strict_revision=false"
            )
        folder.write_local(
            {
                "data_root": str(Path(cfg.data_root).resolve()),
                "precision": self.precision,
                "threads": threads,
                "revisions": self.revisions,
            }
        )
        self.data = data = load_data(cfg)
        folder.write_classes(data.class_names)
        self.trainer = make_trainer(cfg, data, self.device, self.precision, lambda line: self.console.say(line))
        self.evaluate = make_evaluation(cfg, data, self.device, self._stop_if_asked)
        self.model = self.trainer.model
        self.word_similarity = word_similarity(cfg.dataset.source, cfg.dataset.num_classes)
        if (state := folder.load("last")) is not None:
            self.trainer.restore(state)
        at = self.trainer.position
        if at != ranks.from_first(lambda: at):
            raise UserError(
                f"{folder.path}: not the same checkpoint on every node; runs_dir has to be on a shared disk"
            )
        for kind in ("metrics", "assignments"):
            folder.keep_epochs(kind, at.epoch)
        self.last_metrics: dict[str, Any] = {}
        self.started, self.saved = time.monotonic() - at.seconds, time.monotonic()
        steps = self.trainer.loader.steps
        self.console = Console(folder.log, cfg.epochs * steps, at.epoch * steps + at.step, silent=not ranks.first())
        self.console.say(
            f"{identity.method_label(cfg)} on {cfg.dataset.name}: {len(data.train)} training images, "
            f"{len(data.test)} test images, {self.device} {self.precision}, {threads} threads, {folder.path}"
            + (f"; going on at epoch {at.epoch + 1}, step {at.step + 1}" if state is not None else "")
        )
        if older:
            self.console.say(
                f"warning: planned or begun with revision {older[-1]} of the code, going on with {revision()}"
            )
        if self.model.head.never_moves():
            self.console.say(
                f"note: no class will change its prototype: within {cfg.epochs} epochs no matching falls between "
                f"assignment.warmup={cfg.assignment.warmup} and assignment.freeze_after={cfg.assignment.freeze_after} "
                f"with assignment.every={cfg.assignment.every}"
            )

    def to_the_end(self) -> dict[str, Any]:
        watched = mirrored(self.cfg, self.folder, self.console.say) if ranks.first() else contextlib.nullcontext()
        with watched:
            try:
                self.trainer.fit(self._on_step, self._end_epoch)
            finally:
                self.console.close()
            return ranks.from_first(self._finish)

    def _finish(self) -> dict[str, Any]:
        result = self._result()
        self.folder.write_result(result)
        self.console.say(f"{_summary(result)}\nrun folder: {self.folder.path}")
        return result

    def _on_step(self) -> None:
        self.console.step()
        self._stop_if_asked()
        if time.monotonic() - self.saved > 60 * self.cfg.runtime.checkpoint_minutes:
            self._save()

    def _stop_if_asked(self) -> None:
        """At a step boundary, or in an evaluation, which a resumed run begins again."""
        self.lease.check()
        if number := ranks.largest(self.stop.signal or 0):  # SIGTERM, of who cancels, is larger than SLURM's notices
            self._save()
            if not ranks.first():
                raise SystemExit(0)  # with 1 srun would end the first, which is still to queue its job again
            asked = signal.Signals(number)
            command = "the same command without rerun=true" if self.cfg.rerun else "the same command"
            raise Stopped(f"stopped by {asked.name}, nothing lost: {command} goes on with {self.folder.path}", asked)

    def _end_epoch(self, loss: float, last: bool) -> None:
        at, head = self.trainer.position, self.model.head
        metrics: dict[str, Any] = {
            "epoch": at.epoch + 1,
            "loss": loss,
            "lr": self.trainer.optimizer.param_groups[0]["lr"],
        }
        if last or (at.epoch + 1) % self.cfg.eval_every == 0:
            found = self.evaluate(self.model, self.trainer.moments.means())
            self.per_class = found.pop("per_class")
            metrics |= found | self._diagnose()
            self._keep_best(found)
        self._save()  # the weights with the assignment they were trained with
        if last:
            # Before a class can move again.
            self.at_the_end = self.evaluate.calibration(self.model) | self.evaluate.at_full_size(self.model)
        if (sigma := head.assignment()) is not None:
            self.folder.append("assignments", {"epoch": at.epoch + 1, "assignment": sigma.tolist()})
        metrics |= head.end_epoch(at.epoch)
        metrics |= {"seconds": self._seconds(), "images_per_second": at.images / max(at.train_seconds, 1e-9)}
        self.folder.append("metrics", metrics)
        self.last_metrics = metrics
        self.console.say(_epoch_line(metrics, self.cfg.epochs))

    def _diagnose(self) -> dict[str, float | None]:
        vectors = self.model.head.class_vectors()
        found: dict[str, float | None] = dict(collapse(self.trainer.moments, vectors))
        if vectors is not None and self.word_similarity is not None:
            found["words_closeness"] = closeness(vectors, self.word_similarity)
        return found

    def _keep_best(self, found: dict[str, Any]) -> None:
        at = self.trainer.position
        if self.cfg.prototypes.kind != "none" and self.model.head.assignment() is None:
            return  # a warm-up's learned vectors are not yet the classifier
        value = found["val_macro" if "val_macro" in found else "top1"]
        if value > at.best:
            at.best, at.best_top1 = value, found["top1"]
            self.folder.save({"model": self.model.state_dict()}, "best")

    def _save(self) -> None:
        self.lease.check()
        self.trainer.position.seconds = self._seconds()
        self.folder.save(self.trainer.state(), "last")
        self.saved = time.monotonic()

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _result(self) -> dict[str, Any]:
        cfg, at, last = self.cfg, self.trainer.position, self.last_metrics
        data = cfg.dataset
        result = {
            "run_id": self.folder.run_id,
            "group": identity.group_name(cfg),
            "dataset": cfg.dataset.name,
            "method": identity.method_label(cfg),
            "imbalance": cfg.imbalance,
            "dimension": cfg.dimension,
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "max_steps": cfg.max_steps,
            "num_train": len(self.data.train),
            "num_test": len(self.data.test),
            **{key: last[key] for key in ("top1", "top5", "macro", "head", "medium", "tail", "means_top1", "loss")},
            **{key: last[key] for key in _DIAGNOSES if key in last},
            "top1_best": at.best_top1,
            "per_class": self.per_class,
            **self.at_the_end,
        }
        if self.data.holdout is not None:
            result |= {"holdout": len(self.data.holdout), "val_top1": last["val_top1"], "val_macro": last["val_macro"]}
        moved = [line["moved"] for line in self.folder.lines("metrics") if "moved" in line]
        return result | {
            "moved": moved,
            "prototypes": cfg.prototypes.kind,
            "assignment": cfg.assignment.name,
            "loss_name": cfg.loss.name,
            "backbone": cfg.backbone.name,
            "width": cfg.backbone.width,
            "seconds": self._seconds(),
            "flops": at.images * training_flops(self.model, (data.channels, data.size, data.size), self.device),
            "images_per_second": at.images / max(at.train_seconds, 1e-9),
            "device": str(self.device),
            "hardware": hardware(self.device, ranks.count()),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "revision": revision(),
            "revisions": self.revisions,  # of the code, of all attempts
        }


def _epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {metrics['epoch']}/{epochs}", f"loss {metrics['loss']:.4f}"]
    parts += [f"{key} {metrics[key]:.2f} %" for key in ("top1", "val_macro") if key in metrics]
    if "moved" in metrics:
        parts.append(f"moved {metrics['moved']:.0f}")
    return "  ".join([*parts, f"{metrics['images_per_second']:.0f} images/s"])


def _summary(result: dict[str, Any]) -> str:
    best = "no epoch after the warm-up" if result["top1_best"] is None else f"best epoch {result['top1_best']:.2f} %"
    lines = [f"test accuracy {result['top1']:.2f} % ({best}), {result['seconds']:.0f} s"]
    if result["moved"]:
        lines.append("classes moved, by epoch: " + " ".join(f"{moved:.0f}" for moved in result["moved"]))
    return "\n".join(lines)
