"""Where runs stand, as a table."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dl2pa import lease
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder, State
from dl2pa.sweep import slurm

if TYPE_CHECKING:
    from rich.live import Live

COLOURS = {
    State.planned: "dim",
    State.queued: "cyan",
    State.running: "blue",
    State.finished: "green",
    State.failed: "red",
    State.lost: "red",
}
SHOWN = 30  # rows of a live table


@dataclass(frozen=True)
class Look:
    """A run at one moment. ``top1``: percent, of the last evaluation. ``left``: seconds."""

    run: str
    state: State
    epoch: int
    epochs: int
    top1: float | None
    left: float | None
    note: str

    def line(self) -> str:
        accuracy = "" if self.top1 is None else f"  {self.top1:.2f} %"
        note = f"  {self.note}" if self.note else ""
        return f"{self.state.value}  {self.run}  epoch {self.epoch}/{self.epochs}{accuracy}{note}"


def look(folder: RunFolder, queue: Mapping[str, str] | None, now: float | None = None) -> Look:
    """Where a run stands; ``queue`` and ``now`` as for RunFolder.state."""
    state = folder.state(queue, now)
    try:
        config = folder.frozen()
    except UserError as error:  # of one run, which is to hide no other
        return Look(folder.key, state, 0, 0, None, None, str(error))
    epochs = config["epochs"]
    lines = folder.lines("metrics")
    epoch = lines[-1]["epoch"] if lines else 0
    top1 = next((line["top1"] for line in reversed(lines) if "top1" in line), None)
    left = None
    if state is State.finished:
        epoch = epochs if epoch == 0 else epoch
    elif state is State.running and lines and config["max_steps"] is None:
        left = max(0.0, (epochs - epoch) * lines[-1]["seconds"] / epoch)
    return Look(folder.key, state, epoch, epochs, top1, left, note(folder, state))


def look_all(folders: Sequence[RunFolder], queue: Mapping[str, str] | None) -> list[Look]:
    now = lease.file_clock(folders[0].runs_dir)
    return [look(folder, queue, now) for folder in folders]


def note(folder: RunFolder, state: State) -> str:
    """What there is to say of a run beside its state, in a line; mostly nothing."""
    if state is State.failed:
        message = str((folder.error() or {}).get("message", ""))
        return (message.splitlines() or [""])[-1]
    if state is State.lost:
        holder, printed = folder.holder(), job_output(folder)
        gone = f"job {folder.job()}"
        if holder is not None and not holder.released:
            gone = f"pid {holder.pid} on {holder.host_name}"
        return f"{gone} is gone" + (f"; its output: {printed}" if printed is not None else "")
    if state is State.queued:
        return f"job {folder.job()}"
    if state is State.running and (holder := folder.holder()) is not None:
        return f"on {holder.host_name}"
    return ""


def job_output(folder: RunFolder) -> Path | None:
    """What the run's job printed; None where it has no job, or that printed nothing yet."""
    job = folder.job()
    if job is None:
        return None
    path = slurm.output(folder.runs_dir, job)
    return path if path.exists() else None


def counts(looks: Sequence[Look]) -> str:
    """How many runs are in which state, in words."""
    found = Counter(look.state for look in looks)
    return f"{len(looks)} runs: " + ", ".join(f"{found[state]} {state.value}" for state in State if found[state])


def table(looks: Sequence[Look], most: int | None = None) -> Table:
    """All runs, or the ``most`` of them that matter: what runs, what went wrong, what ended last."""
    shown = list(looks)
    if most is not None and len(looks) > most:
        order = [State.running, State.failed, State.lost, State.queued, State.finished, State.planned]
        shown = sorted(looks, key=lambda look: order.index(look.state))[:most]
    caption = counts(looks) + (f" ({len(looks) - len(shown)} not shown)" if len(shown) < len(looks) else "")
    made = Table(caption=caption, box=None, pad_edge=False, caption_justify="left")
    for name in ("run", "state", "epoch", "top-1 %", "time left"):
        made.add_column(name, no_wrap=True, justify="left" if name in ("run", "state") else "right")
    made.add_column("")
    for look in shown:
        accuracy = "" if look.top1 is None else f"{look.top1:.2f}"
        left = "" if look.left is None else duration(look.left)
        state = f"[{COLOURS[look.state]}]{look.state.value}[/]"
        made.add_row(look.run, state, f"{look.epoch}/{look.epochs}", accuracy, left, look.note.replace("[", r"\["))
    return made


def duration(seconds: float) -> str:
    """1:02:03, 2:03, or 3 s."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


class Display:
    """What is shown while runs are worked off: a live table on a terminal, elsewhere a line for each change."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._states: dict[str, State] = {}
        self._drawn = 0.0

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def due(self) -> bool:
        """Whether it is worth looking again."""
        return time.monotonic() - self._drawn > 0.5

    def show(self, looks: Sequence[Look]) -> None:
        self._drawn = time.monotonic()
        if self._live is not None:
            self._live.update(table(looks, min(SHOWN, max(5, self._console.height - 6))))
            return
        for look in looks:
            if self._states.get(look.run, State.planned) != look.state:
                done = sum(other.state is State.finished for other in looks)
                print(f"[{done}/{len(looks)}] {look.line()}", flush=True)
            self._states[look.run] = look.state


def print_table(looks: Sequence[Look]) -> None:
    """All of it, also into a pipe, where a terminal's width is no limit."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table(looks))
