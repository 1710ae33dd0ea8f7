"""The CPU as a device: what the system says of it, and its peaks from probes.

No datasheet states what a CPU reaches with the cores and the memory channels that a process gets,
so ``conf/hw/cpu.yaml`` marks those figures ``probed`` and :func:`with_probes` fills them in.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib.hardware.datasheet import Hardware, HardwareError


@dataclass(frozen=True)
class Host:
    """What the operating system reports of a CPU; None for what it does not say.

    ``cores``: those that this process may run on; ``cache_bytes``: the last level.
    """

    device: str
    cores: int
    clock_hz: float | None
    memory_bytes: int
    cache_bytes: int | None


def detect_host() -> Host:
    """The CPU that this process runs on."""
    import psutil

    frequency = psutil.cpu_freq()
    return Host(
        device=_cpu_name(),
        cores=_usable_cores(),
        clock_hz=(frequency.max or frequency.current) * 1e6 if frequency else None,
        memory_bytes=psutil.virtual_memory().total,
        cache_bytes=_last_cache_bytes(),
    )


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        named = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE
        )
    except OSError:
        named = None
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def _last_cache_bytes() -> int | None:
    """Size of the highest cache level, as Linux lists them."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes: dict[int, int | None] = {0: None}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        text = (index / "size").read_text("utf-8").strip()
        sizes[int((index / "level").read_text("utf-8"))] = int(text[:-1]) * units[text[-1]]
    return sizes[max(sizes)]


def with_probes(
    hardware: Hardware, host: Host, peak_flops: Mapping[str, float], bandwidth: float
) -> Hardware:
    """``hardware`` with every figure that its file marks ``probed`` taken from ``host`` and probes.

    ``peak_flops``: products by dtype [FLOP/s], float32 among them, which stands for pointwise
    arithmetic too; ``bandwidth`` [bytes/s]. Figures that were given stay as they are.

    Raises ``HardwareError`` for a figure that neither the file nor the system states.
    """
    if "float32" not in peak_flops:
        raise HardwareError(f"peak_flops = {dict(peak_flops)}: expected float32 among the probes")
    probed: dict[str, Any] = {
        "sm_count": host.cores,
        "clock_hz": host.clock_hz,
        "peak_flops": dict(peak_flops),
        "cuda_core_flops": peak_flops["float32"],
        "bandwidth": bandwidth,
        "memory_bytes": host.memory_bytes,
        "l2_bytes": host.cache_bytes,
    }
    for name in hardware.unprobed:
        if probed[name] is None:
            raise HardwareError(f"hw.{name}: this system does not say: expected hw.{name}=<figure>")
    return replace(
        hardware,
        device_names=hardware.device_names or (host.device,),
        **{name: probed[name] for name in hardware.unprobed},
    )
