"""torch.compile where it pays, and plain Python again where it fails."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

# Training has two shapes of a batch at most (data/loader.py), and mixes it in one of two ways, or not.
MOST_KINDS = 6

# Steps of a kind that are watched: a CUDA graph is captured after the first step or two, which are run as they are.
WATCHED = 3


def pays(requested: bool | None, device: torch.device, processes: int = 1) -> bool:
    """Whether to compile: ``requested``, or with None on a GPU alone, and in a run of one process.

    Two CPU cores gained 1.0 to 1.13 times the images a second for 26 to 48 s of compiling a ResNet-32.
    """
    return device.type == "cuda" and processes == 1 if requested is None else requested


class Compiler:
    """Compiles the functions of a step for every kind of batch, one graph each; on a GPU they are CUDA graphs.

    Random numbers are torch's own, so that a compiled step draws what an eager one does. Where anything fails (no C++
    compiler, an operator that is not supported, more kinds of batches than foreseen), all functions are plain ones from
    then on, and ``say`` gets one line with the reason.
    """

    def __init__(self, on: bool, device: torch.device, say: Callable[[str], None] = print) -> None:
        self.on = on
        self._cuda = device.type == "cuda"
        self._say = say
        self._went_well: Counter[Hashable] = Counter()

    def wrap(self, function: Callable[P, T]) -> Callable[P, T]:
        """``function``, compiled as long as that works; called within ``attempt``."""
        if not self.on:
            return function
        # "reduce-overhead" by its content: a mode and an option cannot be given together.
        options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": self._cuda}
        compiled = torch.compile(function, dynamic=False, options=options)
        return lambda *args, **kwargs: (compiled if self.on else function)(*args, **kwargs)

    def attempt(self, work: Callable[[], T], kind: Hashable, state: Callable[[], Iterable[Tensor]]) -> T:
        """``work()``, again and without compiled functions where they fail.

        Args:
            work: calls wrapped functions, and gives the same result when called again with ``state`` as it was.
            kind: what the functions are compiled for anew; one that went well ``WATCHED`` times is left alone.
            state: the tensors that ``work`` changes in place.
        """
        if not self.on:
            return work()
        if self._cuda:
            torch.compiler.cudagraph_mark_step_begin()
        if self._went_well[kind] == WATCHED:
            return work()
        before = [(tensor, tensor.clone()) for tensor in state()]
        try:
            if kind not in self._went_well and len(self._went_well) == MOST_KINDS:
                raise RuntimeError(f"batches of more than {MOST_KINDS} kinds, the last of which is {kind}")
            result = work()
        except Exception as error:  # whatever a compiler raises: an error of the work itself comes again below
            self.on = False
            for tensor, value in before:
                tensor.copy_(value)
            self._say(f"warning: training goes on without torch.compile, which failed: {_reason(error)}")
            return work()
        self._went_well[kind] += 1
        return result


def _reason(error: Exception) -> str:
    """One line: torch's messages have tracebacks and advice after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
