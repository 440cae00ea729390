"""One run in several processes (runtime.ddp=true): ranks, which torchrun or srun start; in one process, no-ops.

Every rank takes the same steps through the same program. It computes the network on its part of each batch, and what
comes of the images (features, costs, scores) is all-reduced into the whole batch's on every rank; the gradients are by
DistributedDataParallel. So all that follows, statistics, diagnostics, evaluation, a loss that is not finite, is on
every rank what it is in one process; a checkpoint of the first rank is complete, and a run may go on with another
number of ranks. Batch normalisation is over the whole batch, too (synced.py): the differences to one process are
rounding, and what dropout and stochastic depth draw.

Numbers of the host go by gloo, tensors on a GPU by NCCL.
"""

import atexit
import contextlib
import datetime
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from dl2pa.device import device_of, resolve_device
from dl2pa.errors import RankError, UserError, in_words
from dl2pa.part import WHOLE, Part
from dl2pa.synced import synchronise_norms

T = TypeVar("T")

# Ranks wait for each other at every step, and never longer than the first one takes to match classes or to write a
# checkpoint, minutes at worst. A rank that has ended is noticed at once, by its closed connections.
TIMEOUT = datetime.timedelta(minutes=30)
LISTEN = 0.2  # seconds between two looks at whether a rank has failed
WORDS = 3.0  # seconds that a rank has to say why it failed, or to hear why another did
GRACE = 20.0  # seconds after which a rank that hangs in a GPU's collective is ended on account of another's error


@dataclass(frozen=True)
class Place:
    """This process among those of a run; ``url`` is where they meet, as torch.distributed names it."""

    rank: int = 0
    world: int = 1
    local: int = 0  # among those of its node
    url: str = ""


def count() -> int:
    """How many ranks the run has."""
    return 1 if _team is None else _team.place.world


def first() -> bool:
    """Whether this is the rank that writes, and that talks to the user."""
    return _team is None or _team.place.rank == 0


def part(partner: bool = False) -> Part:
    return WHOLE if _team is None else Part(_team.place.rank, _team.place.world, partner)


def seeds() -> tuple[int, ...]:
    """What this rank adds to the position that dropout is seeded with: the first nothing, as in one process."""
    return () if first() else (part().rank,)


def whole(values: Tensor, size: int) -> Tensor:
    """[size, ...] of a whole batch, from the rows of each rank; without gradients, and the same on every rank."""
    if _team is None or size < count():
        return values
    table = values.new_zeros(size, *values.shape[1:])
    table[part().rows(size)] = values
    dist.all_reduce(table)
    return table


def largest(number: int) -> int:
    """The largest number that any rank has."""
    if _team is None:
        return number
    found = torch.tensor(int(number))
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def from_first(function: Callable[[], T], tensors: Sequence[Tensor] = ()) -> T:
    """What ``function`` returns on the first rank, which alone calls it; ``tensors`` are all that it may change."""
    if _team is None:
        return function()
    said: list[Any] = [function() if first() else None]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    for tensor in tensors:
        dist.broadcast(tensor, src=0)
    found: T = said[0]
    return found


def joint(model: nn.Module) -> nn.Module:
    """What to call in place of ``model`` in a training step: its gradients are the means over the ranks."""
    if _team is None:
        return model
    # Buffers are equal already, and with a loss matrix or dnc's bank they are larger than the network.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.14
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, **options)


def synchronise(model: nn.Module) -> None:
    """Have ``model`` normalise over all ranks' images."""
    if _team is not None:
        synchronise_norms(model)


# -- beginning and end


def place(environment: Mapping[str, str]) -> Place:
    """Where torchrun or srun has put this process.

    Raises:
        UserError: neither has started it.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(environment):
        rank, world, local = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Place(rank, world, local, "env://")
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))  # of srun: a batch script itself has none
    if tasks > 1:
        rank, local = (int(environment[name]) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        return Place(rank, tasks, local, f"tcp://{_meeting_point(environment)}")
    raise UserError(
        "runtime.ddp=true: this process is not one of several ranks; start them with torchrun --nproc_per_node N "
        "launch.py ..., with srun, or as a sweep with hydra/launcher=slurm hydra.launcher.tasks_per_node=N"
    )


def _meeting_point(environment: Mapping[str, str]) -> str:
    """host:port, the same in all tasks of a step: its first node, and a port that another job there hardly has."""
    address = environment.get("MASTER_ADDR")
    if address is None:
        nodes = environment["SLURM_STEP_NODELIST"]
        try:
            shown = subprocess.run(
                ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=120
            )
            address = shown.stdout.split()[0]
        except (OSError, subprocess.TimeoutExpired, IndexError):
            raise UserError(
                f"runtime.ddp=true: scontrol does not say which nodes {nodes} are: set MASTER_ADDR"
            ) from None
    # 101 has no divisor in common with 15000: jobs share a port if their numbers lie that far apart.
    step = 101 * int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", 0))
    return f"{address}:{environment.get('MASTER_PORT', 15000 + step % 15000)}"


@contextlib.contextmanager
def joined(ddp: bool, device: str) -> Iterator[torch.device]:
    """Be one of the ranks of a run during the block, if ``ddp`` and there are several; gives this process's device.

    An error of any rank ends them all. It comes out of here where it happened, and on the others SystemExit(1): it is
    told once, and not beside a "Connection closed by peer" of each of them.
    """
    global _team
    found = place(os.environ) if ddp else Place()
    if found.world == 1:
        yield resolve_device(device)
        return
    _team = team = _Team(found)
    try:
        chosen = device_of(found.local, device)
        team.connect(chosen)
        yield chosen
    except Exception as error:
        reason = team.cause(error)
        if reason is error or first():
            team.be_heard()
        if isinstance(reason, RankError):
            raise SystemExit(1) from None
        if reason is error:
            raise
        raise reason from error
    except SystemExit:  # stopped, at the same step as the others
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()
    finally:
        team.leave()
        _team = None


def cause(error: Exception) -> Exception:
    """Why the run ends, to be kept: ``error``, or the RankError of another rank that this one fails for."""
    return error if _team is None else _team.cause(error)


def if_stuck(tell: Callable[[Exception], None]) -> None:
    """What to do before this process is ended on account of another rank's error, if it hangs."""
    if _team is not None:
        _team.tell = tell


class _Team:
    """The ranks of a run; the first that fails says in the store why, and the others listen for it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._over = threading.Event()
        self.tell: Callable[[Exception], None] = lambda error: None
        self._told: RankError | None = None
        self._heard = threading.Event()
        try:
            # torchrun says all in the environment itself.
            given = {} if place.url == "env://" else {"rank": place.rank, "world_size": place.world}
            store, _, _ = next(rendezvous(place.url, timeout=TIMEOUT, **given))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"runtime.ddp=true: rank {place.rank} of {place.world} cannot meet the others at {place.url} "
                f"({str(error).splitlines()[0]}); MASTER_ADDR and MASTER_PORT choose another place"
            ) from error
        self._groups, self._store = store, dist.PrefixStore("dl2pa", store)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def connect(self, device: torch.device) -> None:
        backend, gpu = "gloo", None
        if device.type == "cuda":
            backend, gpu = "cpu:gloo,cuda:nccl", device
            torch.cuda.set_device(device)
            atexit.register(self._do_not_wait)
        place = self.place
        dist.init_process_group(
            backend, store=self._groups, rank=place.rank, world_size=place.world, timeout=TIMEOUT, device_id=gpu
        )

    def cause(self, error: Exception) -> Exception:
        """As the function ``cause``; of ranks that fail by themselves the first one is the cause."""
        if isinstance(error, RankError):
            return error
        if not _of_connections(error):
            words = {**in_words(error), "rank": self.place.rank, "host": socket.gethostname()}
            with contextlib.suppress(RuntimeError):  # the store is gone with the first rank: this one speaks for itself
                if json.loads(self._store.compare_set("error", "", json.dumps(words)))["rank"] == self.place.rank:
                    return error
        elif not self._heard.wait(WORDS):
            with contextlib.suppress(RuntimeError):
                self._store.set(f"left{self.place.rank}", "")
        self._heard.wait(WORDS)
        if self._told is not None:
            return self._told
        return self._silent() if _of_connections(error) else error

    def _silent(self) -> UserError:
        """A rank has gone, and none has said why."""
        gone = [0]
        with contextlib.suppress(RuntimeError):
            gone = [rank for rank in range(self.place.world) if not self._store.check([f"left{rank}"])]
        return UserError(
            f"rank {', '.join(map(str, gone))} of {self.place.world} has ended without a word: killed, perhaps for the "
            f"memory that it took"
        )

    def be_heard(self) -> None:
        """Stay until the others know why: the store may be this process's."""
        until = time.monotonic() + WORDS
        with contextlib.suppress(RuntimeError):
            while self._store.add("heard", 0) < self.place.world - 1 and time.monotonic() < until:
                time.sleep(LISTEN / 10)

    def leave(self) -> None:
        """Listen no longer: a thread that is inside the store when the interpreter ends aborts the process."""
        self._over.set()
        self._listener.join(WORDS)

    def _listen(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store ends with the first rank
            while not self._store.check(["error"]):
                if self._over.wait(LISTEN):
                    return
            told = json.loads(self._store.get("error"))
            if told["rank"] == self.place.rank:
                return
            self._told = RankError(told)
            self._heard.set()
            self._store.add("heard", 1)
        if self._told is not None and not self._over.wait(GRACE):
            try:
                self.tell(self._told)
            finally:
                os._exit(1)

    def _do_not_wait(self) -> None:
        """At the end of a process that has failed: its GPU may wait for ever for another's."""
        if dist.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


_team: _Team | None = None


def _of_connections(error: Exception) -> bool:
    """Whether ``error`` may come of another rank's end: gloo's are RuntimeErrors that begin with a file of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
