"""Cards found and derived, and the CPU with its probes. A stand-in answers as the driver would."""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calib.hardware import device as module
from calib.hardware.datasheet import Hardware, HardwareError, floor, hardware_names, load_hardware
from calib.hardware.device import (
    FLOP_PER_CLOCK_AND_SM,
    DeviceProperties,
    derive_hardware,
    detect_device,
    device_hardware,
    match_device,
)
from calib.hardware.host import Host, detect_host, with_probes
from model.ops import Copy, Matmul

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "devices.json").read_text("utf-8"))
NAMES = [entry["properties"]["name"] for entry in RECORDED]
CARDS = [name for name in hardware_names() if name != "cpu"]
PROPERTIES = DeviceProperties(**RECORDED[0]["properties"])
CUT = {"a10g": 0.5, "l40": 0.5, "h20": 0.25, "h100_nvl": 0.87}
"""Of what their multiprocessors could multiply at their clock: cards cut without being GeForce, and
one whose products are stated at 1.54 GHz."""


@pytest.mark.parametrize("entry", RECORDED, ids=NAMES)
def test_derived_peaks_agree_with_the_datasheet(entry: dict[str, Any]) -> None:
    hardware = derive_hardware(DeviceProperties(**entry["properties"]))
    assert hardware.provenance == "derived"
    stated = dict(entry["datasheet"])
    assert hardware.bandwidth == pytest.approx(stated.pop("bandwidth"), rel=0.01)
    assert hardware.cuda_core_flops == pytest.approx(stated["float32"], rel=0.02)
    assert hardware.peak_flops == pytest.approx(stated, rel=0.02)  # the same dtypes, no other


@pytest.mark.parametrize("name", CARDS)
def test_the_derivation_reproduces_the_cards_with_a_file(name: str) -> None:
    """Within 10%: data-centre cards state products at a clock below their boost clock.

    ``CUT`` are the cards whose products no rule gives: their files do.
    """
    card = load_hardware(name)
    found = DeviceProperties(
        name=card.device_names[0],
        compute_capability=str(card.compute_capability),
        sm_count=card.sm_count,
        clock_hz=card.clock_hz,
        memory_clock_hz=card.bandwidth / 2 / 32,
        bus_width_bits=256,
        memory_bytes=card.memory_bytes,
        l2_bytes=card.l2_bytes,
        shared_memory_per_block=card.shared_memory_per_block or 0,
        threads_per_sm=card.threads_per_sm or 0,
    )
    derived = derive_hardware(found)
    share = CUT.get(name, 1.0)
    for dtype, rate in card.peak_flops.items():
        cut = 1.0 if dtype == "float32" else share
        assert rate == pytest.approx(derived.peak_flops[dtype] * cut, rel=0.1), dtype
    assert set(card.peak_flops) == set(derived.peak_flops)
    assert derived.bandwidth == pytest.approx(card.bandwidth)


def test_a_derived_card_predicts_and_says_how_it_is_known() -> None:
    hardware = derive_hardware(PROPERTIES)
    assert hardware.name == "rtx_3090"
    assert hardware.sources["peak_flops"].startswith("derived: ")
    assert not hardware.unprobed
    assert floor(Matmul(4096, 4096, 4096), hardware) == 2 * 4096**3 / (512 * 82 * 1.695e9)


def test_a_capability_that_is_not_known_is_named() -> None:
    with pytest.raises(HardwareError, match=r"'13.0' of 'NVIDIA GeForce RTX 3090'.*6.0, .*12.0"):
        derive_hardware(replace(PROPERTIES, compute_capability="13.0"))


def test_a_card_is_matched_by_its_whole_name() -> None:
    assert match_device("NVIDIA H200") == "h200"
    assert match_device("NVIDIA H200 NVL") is None
    assert match_device("NVIDIA GeForce RTX 5090 D") is None
    assert device_hardware(replace(PROPERTIES, name="NVIDIA L4")) == load_hardware("l4")


class Driver:
    """The CUDA driver's library, answering for one card of the recorded properties."""

    def __init__(self, card: DeviceProperties, cards: int = 1, init_status: int = 0) -> None:
        major, minor = card.compute_capability.split(".")
        attributes = {
            16: card.sm_count,
            13: card.clock_hz / 1e3,
            36: card.memory_clock_hz / 1e3,
            37: card.bus_width_bits,
            38: card.l2_bytes,
            39: card.threads_per_sm,
            75: major,
            76: minor,
            97: card.shared_memory_per_block,
        }
        self.cuInit = lambda flags: init_status
        self.cuDeviceGetCount = answer(lambda: cards)
        self.cuDeviceGet = answer(lambda index: 0)
        self.cuDeviceTotalMem_v2 = answer(lambda device: card.memory_bytes)
        self.cuDeviceGetAttribute = answer(lambda attribute, device: int(attributes[attribute]))
        self.cuDeviceGetName = write(card.name)
        self.cuDeviceGetPCIBusId = write("0000:01:00.0")


def answer(function: Callable[..., int]) -> Callable[..., int]:
    """A driver function that stores a number through its first argument, a pointer."""

    def call(pointer: Any, *arguments: Any) -> int:
        plain = [a.value if isinstance(a, ctypes.c_int) else a for a in arguments]
        pointer._obj.value = function(*plain)
        return 0

    return call


def write(text: str) -> Callable[..., int]:
    """A driver function that stores a text in its first argument, a buffer."""

    def call(buffer: Any, length: int, device: Any) -> int:
        assert len(text) < length
        buffer.value = text.encode()
        return 0

    return call


def test_a_card_is_asked_through_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cuda_driver", lambda: Driver(PROPERTIES))
    found = detect_device()
    assert found is not None
    assert replace(found, power_w=PROPERTIES.power_w) == PROPERTIES


@pytest.mark.parametrize(
    "driver",
    [None, Driver(PROPERTIES, cards=0), Driver(PROPERTIES, init_status=100)],
    ids=["no library", "no card visible", "no device"],
)
def test_without_a_card_nothing_is_found(
    driver: Driver | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_cuda_driver", lambda: driver)
    assert detect_device() is None


def test_a_driver_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def cuDeviceGetName(*arguments: Any) -> int:
        return 999

    driver = Driver(PROPERTIES)
    driver.cuDeviceGetName = cuDeviceGetName
    monkeypatch.setattr(module, "_cuda_driver", lambda: driver)
    with pytest.raises(HardwareError, match="cuDeviceGetName failed with error 999"):
        detect_device()


@pytest.mark.gpu
def test_the_card_of_this_machine() -> None:
    """What the driver says, beside what torch says, and the file it matches."""
    import torch

    found = detect_device()
    assert found is not None
    seen = torch.cuda.get_device_properties(0)
    assert found.name == seen.name
    assert found.compute_capability == f"{seen.major}.{seen.minor}"
    assert found.sm_count == seen.multi_processor_count
    assert found.memory_bytes == seen.total_memory
    assert found.l2_bytes == seen.L2_cache_size
    assert found.power_w is not None
    hardware = device_hardware(found)
    derived = derive_hardware(found)
    assert derived.bandwidth == pytest.approx(hardware.bandwidth, rel=0.1)
    assert derived.sm_count == hardware.sm_count
    assert derived.shared_memory_per_block == hardware.shared_memory_per_block


def test_the_table_covers_every_card() -> None:
    assert {load_hardware(name).compute_capability for name in CARDS} <= set(FLOP_PER_CLOCK_AND_SM)


# The CPU

HOST = Host("A CPU", cores=2, clock_hz=3e9, memory_bytes=10**10, cache_bytes=10**7)
PEAKS = {"float32": 2e11, "bfloat16": 8e11}


def test_probes_complete_the_cpu() -> None:
    hardware = with_probes(load_hardware("cpu"), HOST, PEAKS, 3e10)
    assert hardware == Hardware(
        name="cpu",
        device_names=("A CPU",),
        compute_capability=None,
        sm_count=2,
        clock_hz=3e9,
        peak_flops=PEAKS,
        cuda_core_flops=2e11,
        bandwidth=3e10,
        memory_bytes=10**10,
        l2_bytes=10**7,
        sources=hardware.sources,
        provenance="probed",
    )
    assert floor(Copy(15), hardware) == 60 / 3e10


def test_probes_leave_what_was_given() -> None:
    given = replace(load_hardware("cpu"), bandwidth=5e10, l2_bytes=123)
    hardware = with_probes(given, HOST, PEAKS, 3e10)
    assert (hardware.bandwidth, hardware.l2_bytes, hardware.sm_count) == (5e10, 123, 2)


def test_probes_do_not_leak_into_the_next_cpu() -> None:
    with_probes(load_hardware("cpu"), HOST, PEAKS, 3e10)
    assert load_hardware("cpu").peak_flops == {}
    assert math.isnan(load_hardware("cpu").bandwidth)


def test_probes_without_float32_are_refused() -> None:
    with pytest.raises(HardwareError, match=r"peak_flops = \{'bfloat16'.*expected float32"):
        with_probes(load_hardware("cpu"), HOST, {"bfloat16": 8e11}, 3e10)


def test_this_cpu_is_described() -> None:
    import os

    import psutil

    found = detect_host()
    assert found.device
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.clock_hz is None or 1e8 < found.clock_hz < 1e10
    assert found.cache_bytes is None or 2**18 <= found.cache_bytes < 2**34


def test_what_neither_file_nor_system_says_is_asked_for() -> None:
    silent = replace(HOST, cache_bytes=None)
    with pytest.raises(HardwareError, match=r"hw.l2_bytes: .* expected hw.l2_bytes=<figure>"):
        with_probes(load_hardware("cpu"), silent, PEAKS, 3e10)
    given = replace(load_hardware("cpu"), l2_bytes=123)
    assert with_probes(given, silent, PEAKS, 3e10).l2_bytes == 123
