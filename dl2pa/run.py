"""One run from its config to its result: claims its folder, trains, judges, and writes what came of it."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from dl2pa import identity, ranks
from dl2pa.assemble import load_data, make_evaluation, make_trainer
from dl2pa.console import Console
from dl2pa.device import hardware, prepare, resolve_precision
from dl2pa.diagnostics import closeness, collapse
from dl2pa.errors import Stopped, UserError
from dl2pa.flops import training_flops
from dl2pa.folder import Onlooker, RunFolder
from dl2pa.lease import Lease
from dl2pa.relations import word_similarity
from dl2pa.revision import revision
from dl2pa.signals import StopRequest, listening
from dl2pa.tracking import in_search, mirrored
from dl2pa.validate import validate

# Of the last epoch, in the result of a run that has them.
_READINGS = ("adjusted_top1", "adjusted_tail", "top1_uncropped", "top1_one_view")
_DIAGNOSES = ("super_top1", "nc1", "nc3", "cosine_mean", "words_closeness")


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
        with listening() as stop, folder.claimed() as lease:
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
        threads = prepare(fixed.get("threads") or cfg.runtime.threads)
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
        shape = (cfg.dataset.channels, cfg.dataset.size, cfg.dataset.size)
        self.flops = training_flops(self.model, shape, self.device)  # of an image
        self.word_similarity = word_similarity(cfg.dataset.source, cfg.dataset.num_classes)
        if (state := folder.load("last")) is not None:
            with folder.taking("last"):
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
        self._stop_if_asked()
        self.console.step()
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
            found = self.evaluate(self.model, self.trainer.moments.means(), last)
            self.per_class = found.pop("per_class")
            metrics |= found | self._diagnose()
            self._keep_best(found)
        self._save()  # the weights with the assignment they were trained with
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
            **{key: last[key] for key in _READINGS + _DIAGNOSES if key in last},
            "top1_best": at.best_top1,
            "per_class": self.per_class,
            **{key: last[key] for key in ("ece", "ece_as_trained", "temperature")},
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
            "flops": at.images * self.flops,
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
