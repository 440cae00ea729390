"""Weights & Biases as a mirror of run folders. The folder is the truth; nothing here is needed to train or to report.

A run only starts a process of its own, which reads metrics.jsonl and sends what is new: W&B that is slow, unreachable
or without a key costs the run one line on the console. What was not sent, ``python -m dl2pa sync RUN`` sends later.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig

from dl2pa import identity
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

POLL_SECONDS = 2.0
INIT_SECONDS = 30.0  # W&B itself would try for 90
DRAIN_SECONDS = 600  # after a run's end; W&B itself would retry for days

# -- the trainer's side


def in_search() -> bool:
    """Whether an agent of a W&B search started this process: its run there has an id already, and takes no other."""
    return "WANDB_SWEEP_ID" in os.environ


@contextlib.contextmanager
def mirrored(cfg: DictConfig, folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Mirror ``folder`` during the block, if the config's logger is wandb; no trouble of W&B's comes out of here.

    A block that ends in good order is followed by waiting for W&B, logger.finish_seconds at most.

    Args:
        say: takes the one line that is said if W&B does not get everything.
    """
    mirror = Mirror.start(cfg, folder, say) if cfg.logger.name == "wandb" else None
    try:
        yield
    except BaseException:
        if mirror is not None:
            mirror.abandon()
        raise
    if mirror is not None:
        mirror.finish(cfg.logger.finish_seconds)


class Mirror:
    """The process that mirrors a run while it trains.

    It reads from a pipe: a byte in it, or its end with the trainer's death, says that no line will follow.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", folder: RunFolder, say: Callable[[str], None]) -> None:
        self._process, self._folder, self._say = process, folder, say
        self._said = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @classmethod
    def start(cls, cfg: DictConfig, folder: RunFolder, say: Callable[[str], None]) -> "Mirror | None":
        """Start mirroring; None, and the reason said, if the system does not let it."""
        words = [f"{key}={value}" for key, value in _keys(cfg).items()]
        try:
            with open(folder.mirror_log, "wb") as log:
                process = subprocess.Popen(
                    _command(folder, words),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C on the run's terminal is not for the mirror
                )
        except OSError as error:
            say(_later(folder, str(error)))
            return None
        return cls(process, folder, say)

    def finish(self, seconds: float) -> None:
        """After the result was written: wait for the mirror, ``seconds`` at most; it goes on by itself after that."""
        self._no_more_lines()
        self._watcher.join(seconds)
        self._warn(f"after {seconds:g} s it is still being sent, which goes on")

    def abandon(self) -> None:
        """The run has stopped: nothing is waited for and nothing more is said; what was written is still sent."""
        self._silence()
        self._no_more_lines()

    def _watch(self) -> None:
        if self._process.wait() == 0:
            self._silence()
        else:
            log = self._folder.mirror_log.read_text(errors="replace")
            self._warn(_last_line(log) or f"exit status {self._process.returncode}")

    def _no_more_lines(self) -> None:
        # A byte, since loader processes, forked from here, hold the pipe open beyond its closing here.
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the mirror has ended already
            self._process.stdin.write(b".")
            self._process.stdin.close()

    def _warn(self, reason: str) -> None:
        if self._silence():
            self._say(_later(self._folder, reason))

    def _silence(self) -> bool:
        """Whether the one warning may still be said: true for the first who asks."""
        return self._said.acquire(blocking=False)


def _command(folder: RunFolder, words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dl2pa", "mirror", str(folder.path), *words]


def _later(folder: RunFolder, reason: str) -> str:
    return f"warning: W&B lacks part of this run ({reason}); python -m dl2pa sync {folder.path} sends what is missing"


def _last_line(text: str) -> str:
    """The last line that is not W&B's own chatter; empty if there is none."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("wandb:")), "")


# -- the commands


def sync(folder: RunFolder, words: Sequence[str]) -> str:
    """Mirror a finished or stopped run, whatever its logger; what was sent, in a line.

    Args:
        words: project=NAME, entity=NAME or id_suffix=TEXT, in place of where the run was mirrored last, or if it never
            was, of what its config says.

    Raises:
        UserError: another process mirrors the run, or W&B refuses.
    """
    # A process for each run: W&B reads its environment once, and standard input at its end keeps it from prompting.
    # The run's lease stays as it is: it tells a lost run from others, and one that begins meanwhile may have it.
    done = subprocess.run(_command(folder, words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{folder.path}: {_last_line(done.stderr) or f'exit status {done.returncode}'}")
    return _last_line(done.stdout)


def mirror(arguments: Sequence[str]) -> None:
    """python -m dl2pa mirror RUN [KEY=VALUE...]: send a run's lines until standard input speaks or ends.

    What ``Mirror`` and ``sync`` start. No epoch is sent twice, however often a run is mirrored, stopped and resumed.

    Raises:
        UserError: W&B refuses, cannot be reached, or another process mirrors this run.
    """
    folder, words = RunFolder.existing(arguments[0]), arguments[1:]
    live = not _ended(0)
    if live:
        os.nice(10)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # SLURM tells all processes of a job; the trainer's end counts
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ.setdefault(name, str(folder.wandb_dir))
    # The mirror of a killed run may still be sending when the run goes on.
    with folder.mirroring(DRAIN_SECONDS if live else 0):
        try:
            said = _send(folder, dict(word.split("=", 1) for word in words), live)
        except UserError:
            raise
        except Exception as error:  # whatever W&B raises is one line in the trainer's log
            _limit_waiting()  # for W&B's exit handlers
            raise UserError(f"W&B: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
    print(said, flush=True)


def _ended(seconds: float) -> bool:
    """Whether, within ``seconds``, no further line is to come."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


# -- what is sent


def _send(folder: RunFolder, words: dict[str, str], live: bool) -> str:
    """Send what W&B lacks, and while ``live`` what is being written; returns in words what was done."""
    cfg, kept = folder.config(), folder.mirrored()
    asked, target = _target(folder, cfg, words, kept)
    if kept.get("target") != target:  # another run of W&B, to which all is sent
        kept = {"epochs": 0, "media": False, "folders": kept.get("folders", []), "searched": _searched()}
    kept |= {"asked": asked, "target": target}
    folder.write_mirrored(kept)  # before W&B is called, which may be away: a later sync goes there, too
    run = _init(folder, cfg, kept, live)
    if run.offline:
        _drop_pieces(folder, run, kept["folders"])
    has = kept if run.offline else _sent_online(run)
    epochs = _send_lines(folder, run, has["epochs"], live)
    _limit_waiting()
    result = folder.result()
    if result is not None:
        _send_result(folder, run, result, media=not has["media"])
    run.finish(exit_code=0 if result is not None else 1)
    signal.alarm(0)
    place = Path(run.dir).parent if run.offline else run.url
    if run.offline:
        sent = {"epochs": epochs, "media": has["media"] or result is not None}
        folder.write_mirrored({**kept, **sent, "folders": [*kept["folders"], place.name]})
    new = f"epochs {has['epochs'] + 1} to {epochs}" if epochs > has["epochs"] else f"no epoch after {epochs}"
    return f"{new}, {'finished' if result is not None else 'not finished yet'}: {place}"


def _target(
    folder: RunFolder, cfg: DictConfig, words: dict[str, str], kept: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str | None]]:
    """What is asked for, and the run of W&B that it comes to: its project, entity and id.

    It is the run that mirrored the folder last if nothing else is asked for since, and in a search the search's own.
    """
    asked = {**_keys(cfg), **kept.get("asked", {}), **words}
    if in_search():
        target = {name: os.environ.get(f"WANDB_{name.upper()}") for name in ("project", "entity", "run_id")}
        return asked, {"project": target["project"], "entity": target["entity"], "id": target["run_id"]}
    if asked == kept.get("asked"):
        return asked, kept["target"]
    again = folder.reruns()  # what was set aside keeps its run
    run_id = folder.run_id + (f"-rerun{again}" if again else "") + asked["id_suffix"]
    return asked, {"project": asked["project"], "entity": asked["entity"] or None, "id": run_id}


def _keys(cfg: DictConfig) -> dict[str, str]:
    """The keys of the config that say where a run is mirrored."""
    return {"project": cfg.logger.project, "entity": cfg.logger.entity or "", "id_suffix": cfg.logger.id_suffix}


def _searched() -> list[str]:
    """The parameters of the search, which W&B itself puts into its run's config."""
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH") if in_search() else None
    return [] if path is None else list(yaml.safe_load(Path(path).read_text()))


def _config(folder: RunFolder, searched: Sequence[str]) -> dict[str, Any]:
    """The config as nested keys; where a parameter of a search has a group's name (method), the keys of the group stand
    beside it, as method.variant: the value of the parameter would take their place."""
    config = folder.frozen()
    for name in searched:
        if isinstance(config.get(name), dict):
            config |= {f"{name}.{key}": value for key, value in config.pop(name).items()}
    return config


def _init(folder: RunFolder, cfg: DictConfig, kept: dict[str, Any], live: bool) -> Any:
    import wandb

    folder.wandb_dir.mkdir(exist_ok=True)
    return wandb.init(
        **kept["target"],
        name=folder.run_id,
        group=identity.group_name(cfg),
        job_type="train",
        tags=[cfg.dataset.name, identity.method_label(cfg)],
        config=_config(folder, kept["searched"]),
        resume="allow",
        dir=folder.path,
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_SECONDS,
            disable_git=True,
            disable_code=True,
            # This machine is the run's only while the run is there.
            x_disable_stats=not live,
            x_disable_meta=not live,
        ),
    )


def _sent_online(run: Any) -> dict[str, Any]:
    """What the server has: a resumed run comes with the summary that it was left with."""
    return {"epochs": run.summary.get("epoch", 0), "media": "per_class" in dict(run.summary)}


def _drop_pieces(folder: RunFolder, run: Any, whole: Sequence[str]) -> None:
    """Remove the offline runs that a kill left in pieces: all but ``run``'s own folder and those that are ``whole``.

    Only what is written at an offline run's end counts: W&B flushes now and then, and a kill takes the rest.
    """
    for path in folder.wandb_dir.glob("offline-run-*"):
        if path != Path(run.dir).parent and path.name not in whole:
            shutil.rmtree(path)


def _send_lines(folder: RunFolder, run: Any, epochs: int, live: bool) -> int:
    """Log the lines of metrics.jsonl after epoch ``epochs``, until no more come; returns the last epoch."""
    run.define_metric("epoch")
    known = {"epoch"}
    ended = False
    while not ended:
        ended = _ended(POLL_SECONDS if live else 0)  # before the lines are read, so that none is missed
        for record in folder.lines("metrics"):
            if record["epoch"] > epochs:  # a resumed run writes some lines again
                for name in sorted(set(record) - known):
                    run.define_metric(name, step_metric="epoch")
                known |= set(record)
                run.log({name: value for name, value in record.items() if value is not None})
                epochs = record["epoch"]
    return epochs


def _send_result(folder: RunFolder, run: Any, result: dict[str, Any], media: bool) -> None:
    """The numbers of result.json as summary; ``media``: the accuracy of each class, and how the assignment went."""
    import wandb

    run.summary.update({name: value for name, value in result.items() if isinstance(value, int | float | str)})
    if media:
        classes = folder.classes() or [str(label) for label in range(len(result["per_class"]))]
        rows = [list(row) for row in zip(classes, result["per_class"], strict=True)]
        logged: dict[str, Any] = {"per_class": wandb.Table(columns=["class", "top1"], data=rows)}
        if history := [line["assignment"] for line in folder.lines("assignments")]:
            logged["assignment"] = wandb.Image(assignment_image(history, classes))
        run.log(logged)


def assignment_image(history: Sequence[Sequence[int]], classes: Sequence[str]) -> "npt.NDArray[np.uint8]":
    """How classes settle: epochs [E] across, classes [C] down, as an RGB picture [H, W, 3].

    ``history``: E lists of C prototype indices. An index says nothing by its size, so a cell does not show it: pale is
    a class that trains with its final prototype, medium one that trains with another, dark one that has just changed.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    sigma = np.asarray(history)
    state = (sigma != sigma[-1]).astype(int)
    state[1:][sigma[1:] != sigma[:-1]] = 2
    epochs, num_classes = sigma.shape
    colours = {"final prototype": "#e8eef4", "another prototype": "#7fb0d3", "just changed": "#123a5e"}
    figure = Figure(figsize=(8, min(2 + 0.22 * num_classes, 12)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(
        state.T,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(list(colours.values())),
        vmin=0,
        vmax=2,
        extent=(0.5, epochs + 0.5, num_classes - 0.5, -0.5),
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("class")
    if num_classes <= 50:
        axes.set_yticks(range(num_classes), classes)
    patches = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False)
    canvas.draw()
    picture: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def _limit_waiting() -> None:
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(DRAIN_SECONDS)


def _give_up(number: int, frame: object) -> None:
    print(f"W&B did not take the rest within {DRAIN_SECONDS} s of the run's end", file=sys.stderr, flush=True)
    os._exit(1)  # W&B's own exit handlers would wait on
