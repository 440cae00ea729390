"""Which hardware a run gets, and in which arithmetic."""

import platform
from pathlib import Path

import torch

from dl2pa.errors import UserError

DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process asks for another number
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(requested: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU; anything else is taken at its word.

    Raises:
        UserError: not a device, or one that this machine does not have.
    """
    if requested == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise UserError(f"device={requested} is not a device: use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={requested} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={requested}: this machine has {torch.cuda.device_count()} CUDA devices; device=cpu works"
        )
    return device


def device_of(local: int, requested: str) -> torch.device:
    """The device of process ``local`` of those that train one run on this machine: a CUDA device of its own each.

    A process that sees a single one was given it (srun --gpus-per-task).

    Raises:
        UserError: as ``resolve_device``, or there are fewer devices than processes.
    """
    device = resolve_device(requested)
    if device.type != "cuda":
        return device
    seen = torch.cuda.device_count()
    if seen > 1 and local >= seen:
        raise UserError(f"runtime.ddp=true: over {local} processes and {seen} CUDA devices here: use one for each")
    return torch.device("cuda", local if seen > 1 else 0)


def prepare(threads: int | None) -> int:
    """Set how this process computes: fp32 in full, and ``threads`` (None: as many as it began with), which it gives."""
    threads = threads or DEFAULT_THREADS
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, on a GPU too
    return threads


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 in hardware. A processor without it is ten times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # oneDNN answers yes on any AVX-512 processor, also one that emulates bf16: the processor's own flags decide.
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags()) and bool(torch.backends.mkldnn.is_available())


def resolve_precision(requested: str, device: torch.device) -> str:
    """``auto`` is bf16 where that is native and faster, else fp32."""
    if requested != "auto":
        return requested
    return "bf16" if native_bf16(device) and not _slow_bf16(device) else "fp32"


def _slow_bf16(device: torch.device) -> bool:
    """Whether the device's bf16 is slower than its fp32: an Intel processor's without AMX, where a step takes 1.5 times
    as long (docs/performance.md). AMD's AVX512 is faster in bf16."""
    return device.type == "cpu" and _cpuinfo("vendor_id") == "GenuineIntel" and "amx_bf16" not in cpu_flags()


def cpu_flags() -> set[str]:
    """The processor's capabilities as Linux names them; empty elsewhere."""
    return set(_cpuinfo("flags").split())


def hardware(device: torch.device, count: int = 1) -> str:
    """The device, or ``count`` of them, in words, for results: what was measured is worth little without it."""
    several = f"{count} x " if count > 1 else ""
    if device.type == "cuda":
        return several + torch.cuda.get_device_name(device)
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability() + (" bf16" if native_bf16(device) else "")
    return f"{several}{name} ({capability})"


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == field), "")
