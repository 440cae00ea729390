"""Which device and which arithmetic a run gets, on machines that this one is not."""

import pytest
import torch

from dl2pa import device
from dl2pa.device import cpu_flags, device_of, hardware, native_bf16, resolve_device, resolve_precision
from dl2pa.errors import UserError

CPU = torch.device("cpu")
ZEN3 = {"avx", "avx2", "fma"}
AVX512 = {*ZEN3, "avx512f", "avx512bw", "avx512vl", "avx512dq"}  # computes bf16 in software, however oneDNN answers


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """One of AMD's."""
    facts = {"flags": " ".join(request.param), "vendor_id": "AuthenticAMD"}
    monkeypatch.setattr(device, "_cpuinfo", lambda field: facts.get(field, ""))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda which=None: capability)


# -- arithmetic


@pytest.mark.parametrize(
    ("processor", "precision"),
    [
        (set(), "fp32"),  # a system that does not tell
        (ZEN3, "fp32"),
        (AVX512, "fp32"),
        ({*AVX512, "avx512_bf16"}, "bf16"),
        ({*AVX512, "amx_bf16"}, "bf16"),
        ({*ZEN3, "avx512_bf16x"}, "fp32"),
    ],
    indirect=["processor"],
)
@pytest.mark.usefixtures("processor")
def test_auto_is_bf16_where_the_processor_has_it(precision: str) -> None:
    assert resolve_precision("auto", CPU) == precision
    assert native_bf16(CPU) == (precision == "bf16")
    assert hardware(CPU).endswith(" bf16)") == (precision == "bf16")


@pytest.mark.parametrize(("amx", "precision"), [("", "fp32"), (" amx_bf16", "bf16")])
def test_auto_is_fp32_where_bf16_is_slower(amx: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel's AVX512, which for results is bf16 hardware all the same."""
    text = f"vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16{amx}\n"
    monkeypatch.setattr(device.Path, "read_text", lambda self: text)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert resolve_precision("auto", CPU) == precision
    assert hardware(CPU).endswith(" bf16)")


@pytest.mark.parametrize("processor", [{*AVX512, "amx_bf16"}], indirect=True)
@pytest.mark.usefixtures("processor")
def test_auto_is_fp32_where_torch_cannot_use_the_processors_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("processor", [set(), {*AVX512, "amx_bf16"}], indirect=True)
@pytest.mark.parametrize("requested", ["fp32", "bf16"])
@pytest.mark.usefixtures("processor")
def test_a_precision_asked_for_is_given(requested: str) -> None:
    assert resolve_precision(requested, CPU) == requested


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu_follows_its_generation(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turing runs bf16 in software; the processor beside the GPU has no say."""
    gpus(monkeypatch, 1, capability)
    monkeypatch.setattr(device, "cpu_flags", lambda: {"amx_bf16"} if precision == "fp32" else set())
    assert resolve_precision("auto", torch.device("cuda", 0)) == precision


def test_flags_are_words_of_proc_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nvmx flags\t: amx_bf16\nmodel name\t: Fast: One\nflags\t\t: fpu avx512_bf16 sse\n\n"
    monkeypatch.setattr(device.Path, "read_text", lambda self: text)
    assert cpu_flags() == {"fpu", "avx512_bf16", "sse"}
    assert hardware(CPU).startswith("Fast: One (")


def test_systems_without_proc_cpuinfo_have_no_flags_but_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(device.Path, "read_text", absent)
    assert cpu_flags() == set()
    assert resolve_precision("auto", CPU) == "fp32"
    assert len(hardware(CPU)) > len(" (DEFAULT)")


# -- devices


def test_processes_of_a_run_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert [device_of(local, "auto") for local in range(2)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(UserError, match=r"over 2 processes and 2 CUDA devices here"):
        device_of(2, "cuda")
    gpus(monkeypatch, 1)
    assert device_of(1, "cuda") == torch.device("cuda", 0), "the one that srun has given to this process"
    assert device_of(1, "cpu") == CPU


def test_auto_takes_the_first_gpu_or_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert resolve_device("auto") == CPU
    gpus(monkeypatch, 2)
    assert resolve_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("requested", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(UserError, match=rf"device={requested}: this machine has 0 CUDA devices.*device=cpu"):
        resolve_device(requested)


def test_gpus_are_counted_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="device=cuda:2: this machine has 2 CUDA devices"):
        resolve_device("cuda:2")
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("requested", ["", "gpu", "cuda:x", "cuda:-1", "cuda 0", "tpu", "meta", "mps", "0", "CPU"])
def test_nonsense_is_refused_with_what_is_legal(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8)
    with pytest.raises(UserError, match=r"use auto, cpu, cuda or cuda:N"):
        resolve_device(requested)
