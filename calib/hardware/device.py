"""The card found: which one of ``conf/hw`` it is, or what follows from what its driver reports.

A card without a file gets its peaks by arithmetic:

    peak      = FLOP per clock and SM (by compute capability) x SMs x rated boost clock
    bandwidth = 2 transfers per memory clock x memory clock x bus width / 8

Nothing here imports torch: a card is asked through the CUDA driver's library and NVML.
"""

from __future__ import annotations

import ctypes
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from calib.hardware.datasheet import Hardware, HardwareError, hardware_names, load_hardware

_ADA = {"bfloat16": 1024, "float16": 1024, "tf32": 512, "float8_e4m3fn": 2048, "int8": 2048}
FLOP_PER_CLOCK_AND_SM: dict[str, dict[str, int]] = {
    "6.0": {"float32": 128, "bfloat16": 128, "float16": 128},
    "6.1": {"float32": 256, "bfloat16": 256, "float16": 256, "int8": 1024},
    "7.0": {"float32": 128, "bfloat16": 128, "float16": 1024, "int8": 512},
    "7.5": {"float32": 128, "bfloat16": 128, "float16": 1024, "int8": 2048},
    "8.0": {"float32": 128, "bfloat16": 2048, "float16": 2048, "tf32": 1024, "int8": 4096},
    "8.6": {"float32": 256, "bfloat16": 1024, "float16": 1024, "tf32": 512, "int8": 2048},
    "8.9": {"float32": 256, **_ADA},
    "9.0": {
        "float32": 256,
        "bfloat16": 4096,
        "float16": 4096,
        "tf32": 2048,
        "float8_e4m3fn": 8192,
        "int8": 8192,
    },
    "10.0": {
        "float32": 256,
        "bfloat16": 8192,
        "float16": 8192,
        "tf32": 4096,
        "float8_e4m3fn": 16384,
        "int8": 16384,
        "float4_e2m1fn": 32768,
    },
    "10.3": {
        "float32": 256,
        "bfloat16": 8192,
        "float16": 8192,
        "tf32": 4096,
        "float8_e4m3fn": 16384,
        "int8": 512,
        "float4_e2m1fn": 49152,
    },
    "12.0": {"float32": 256, **_ADA, "float4_e2m1fn": 4096},
}
"""Dense FLOP per clock and SM, float32 accumulation at full rate: NVIDIA's architecture whitepapers
(Pascal, Volta, Turing, A100, GA102, Ada, H100, Blackwell, RTX Blackwell) and the datasheets of
Blackwell Ultra, peak / (SMs x boost clock). Where there is no matrix unit for a dtype, cuBLAS
multiplies it in float32 on the CUDA cores: its rate is theirs."""

GEFORCE = ("7.5", "8.6", "8.9", "12.0")
"""Compute capabilities that GeForce and professional cards share."""

HALVED_ON_GEFORCE = ("bfloat16", "float16", "tf32", "float8_e4m3fn")
"""Products that GeForce cards accumulate in float32 at half the rate of professional cards."""


@dataclass(frozen=True)
class DeviceProperties:
    """What the driver reports of a card, in SI units. ``clock_hz`` is the rated boost clock."""

    name: str
    compute_capability: str
    sm_count: int
    clock_hz: float
    memory_clock_hz: float
    bus_width_bits: int
    memory_bytes: int
    l2_bytes: int
    shared_memory_per_block: int
    threads_per_sm: int
    power_w: float | None = None


def match_device(device_name: str) -> str | None:
    """The card of ``conf/hw`` whose ``device_names`` hold ``device_name`` exactly, or None.

    Exactly, since "NVIDIA H200 NVL" is another card than "NVIDIA H200".
    """
    for name in hardware_names():
        if device_name in load_hardware(name).device_names:
            return name
    return None


def device_hardware(properties: DeviceProperties) -> Hardware:
    """The ``Hardware`` of a card that was found: its file in ``conf/hw``, else derived."""
    name = match_device(properties.name)
    return load_hardware(name) if name else derive_hardware(properties)


def derive_hardware(properties: DeviceProperties) -> Hardware:
    """Peaks and bandwidth of an NVIDIA card from its properties; ``provenance`` says ``derived``.

    Raises ``HardwareError`` for a compute capability that the table does not hold.
    """
    peaks = _derived_peaks(properties)
    return Hardware(
        name=_short_name(properties.name),
        device_names=(properties.name,),
        compute_capability=properties.compute_capability,
        sm_count=properties.sm_count,
        clock_hz=properties.clock_hz,
        peak_flops=peaks,
        cuda_core_flops=peaks["float32"],
        bandwidth=2 * properties.memory_clock_hz * properties.bus_width_bits / 8,
        memory_bytes=properties.memory_bytes,
        l2_bytes=properties.l2_bytes,
        shared_memory_per_block=properties.shared_memory_per_block,
        threads_per_sm=properties.threads_per_sm,
        power_w=properties.power_w,
        sources=dict(_DERIVED_SOURCES),
        provenance="derived",
    )


def _derived_peaks(properties: DeviceProperties) -> dict[str, float]:
    """FLOP/s by dtype."""
    capability = properties.compute_capability
    if capability not in FLOP_PER_CLOCK_AND_SM:
        raise HardwareError(
            f"compute_capability = {capability!r} of {properties.name!r}: expected one of "
            f"{', '.join(FLOP_PER_CLOCK_AND_SM)} to derive peaks from, or a file in conf/hw"
        )
    halved = HALVED_ON_GEFORCE if "GeForce" in properties.name and capability in GEFORCE else ()
    return {
        dtype: flop * properties.sm_count * properties.clock_hz / (2 if dtype in halved else 1)
        for dtype, flop in FLOP_PER_CLOCK_AND_SM[capability].items()
    }


def clocked(hardware: Hardware, ratio: float) -> Hardware:
    """``hardware`` at ``ratio`` times its rated clock: arithmetic follows, main memory does not."""
    return replace(
        hardware,
        clock_hz=hardware.clock_hz * ratio,
        peak_flops={dtype: rate * ratio for dtype, rate in hardware.peak_flops.items()},
        cuda_core_flops=hardware.cuda_core_flops * ratio,
    )


def published_clock_ratio(hardware: Hardware) -> float:
    """How far above the rated clock a card runs, by the published ceiling of its bfloat16 rate.

    The middle of the ceiling's range over the datasheet's rate; 1 where no file states one, or
    where it is lower: then what was measured was no ceiling.
    """
    ceiling = hardware.published("peak_flops.bfloat16")
    return 1.0 if ceiling is None else max(1.0, ceiling / hardware.peak_flops["bfloat16"])


def clock_true_peak(hardware: Hardware, dtype: str, clock_hz: float) -> float | None:
    """FLOP/s of products of ``dtype`` at ``clock_hz``: what the matrix units could do at the clock
    that they really ran at. None where the table above does not hold the card.

    A card states its products at a clock of its own, up to a tenth from its boost clock, and some
    are cut to a half or a quarter of what their multiprocessors could do: the share is a power of
    two.
    """
    table = FLOP_PER_CLOCK_AND_SM.get(hardware.compute_capability or "", {})
    if dtype not in table or dtype not in hardware.peak_flops:
        return None
    full = table[dtype] * hardware.sm_count
    share = hardware.peak_flops[dtype] / (full * hardware.clock_hz)
    return float(full * clock_hz * 2.0 ** round(math.log2(share)))


_SEEN = "seen: reported by the driver"
_DERIVED_SOURCES = {
    "sm_count": _SEEN,
    "clock_hz": _SEEN,
    "peak_flops": "derived: FLOP per clock and SM by compute capability, SMs, boost clock",
    "cuda_core_flops": "derived: as peak_flops",
    "bandwidth": "derived: memory clock and bus width",
    "memory_bytes": _SEEN,
    "l2_bytes": _SEEN,
    "shared_memory_per_block": _SEEN,
    "threads_per_sm": _SEEN,
    "power_w": _SEEN,
}


def _short_name(device_name: str) -> str:
    """The name of a card as files would call it: "NVIDIA GeForce RTX 3090" is rtx_3090."""
    words = re.findall(r"[a-z0-9]+", device_name.lower())
    return "_".join(w for w in words if w not in ("nvidia", "geforce"))


_CUDA_ATTRIBUTES = {
    "sm_count": 16,
    "clock_khz": 13,
    "memory_clock_khz": 36,
    "bus_width_bits": 37,
    "l2_bytes": 38,
    "threads_per_sm": 39,
    "major": 75,
    "minor": 76,
    "shared_memory_per_block": 97,
}
"""``CUdevice_attribute`` of the CUDA driver API."""


def detect_device() -> DeviceProperties | None:
    """The first CUDA card that this process may use, or None where there is no card or driver.

    ``CUDA_VISIBLE_DEVICES`` counts, as it does for torch. Makes no context on the card.
    """
    driver = _cuda_driver()
    count = ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return None
    return _properties(driver) if count.value else None


def _cuda_driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _properties(driver: Any) -> DeviceProperties:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _ask(driver.cuDeviceGet, ctypes.byref(device), 0)
    _ask(driver.cuDeviceGetName, name, len(name), device)
    _ask(driver.cuDeviceTotalMem_v2, ctypes.byref(memory), device)
    values = {}
    for key, attribute in _CUDA_ATTRIBUTES.items():
        value = ctypes.c_int()
        _ask(driver.cuDeviceGetAttribute, ctypes.byref(value), attribute, device)
        values[key] = value.value
    capability = f"{values.pop('major')}.{values.pop('minor')}"
    clock, memory_clock = values.pop("clock_khz"), values.pop("memory_clock_khz")
    return DeviceProperties(
        name=name.value.decode(),
        compute_capability=capability,
        clock_hz=clock * 1e3,
        memory_clock_hz=memory_clock * 1e3,
        memory_bytes=memory.value,
        power_w=_power_limit(driver, device),
        **values,
    )


def _ask(function: Any, *arguments: Any) -> None:
    if status := function(*arguments):
        raise HardwareError(f"CUDA driver: {function.__name__} failed with error {status}")


def _power_limit(driver: Any, device: ctypes.c_int) -> float | None:
    """The card's default power limit [W] from NVML; None where NVML or the figure is not there."""
    bus = ctypes.create_string_buffer(32)
    _ask(driver.cuDeviceGetPCIBusId, bus, len(bus), device)
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus.value)
            return float(pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)) / 1e3
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
