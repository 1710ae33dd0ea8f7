"""What the card says of itself around a sample, and which samples are thrown away for it.

Clocks, limits and modes are read and never set. The SM clock that counts is the one that the timer
measured (cycles of a spin over its seconds); the driver's figure stands in where there is none.

A sample carries no watts: the driver's power is a mean over more than a sample lasts, and read once
it follows whatever ran before (on an H200 124 to 243 W, correlation with the rate 0.02). Energy is
read off the card's counter, over a second and more of repeated work (``benchmarks.card.energy``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from calib.measure.instrument import Telemetry

LEAST_CLOCK = 0.75
"""Of the rated clock. NVIDIA's nvbench throws samples below it away."""
POWER_CAP = "software power cap"
IDLE = "idle"
SLOWDOWNS = (
    "hardware slowdown",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "hardware power brake",
)
"""Under one of these a card is not itself: too hot, or its power supply asked for less."""
_NVML_REASONS = {
    IDLE: "GpuIdle",
    "application clocks": "ApplicationsClocksSetting",
    POWER_CAP: "SwPowerCap",
    "hardware slowdown": "HwSlowdown",
    "sync boost": "SyncBoost",
    "software thermal slowdown": "SwThermalSlowdown",
    "hardware thermal slowdown": "HwThermalSlowdown",
    "hardware power brake": "HwPowerBrakeSlowdown",
    "display clocks": "DisplayClockSetting",
}
"""Our name -> the end of NVML's ``nvmlClocksEventReason<...>``, a bit each."""


class Sensor(Protocol):
    """Reads a card's telemetry now."""

    def read(self) -> Telemetry: ...

    def joules(self) -> float | None:
        """Energy [J] that the card has taken since its driver was loaded; None: it has no counter,
        or does not tell. It moves in steps, some tens a second."""


class NoSensor:
    """Where NVML is not there: nothing is known, and nothing is thrown away for it."""

    def read(self) -> Telemetry:
        return Telemetry()

    def joules(self) -> float | None:
        return None


class Nvml:
    """The card at ``bus_id`` as NVML reports it; None for what this card does not report."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    def read(self) -> Telemetry:
        nvml = self.nvml
        sm = self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
        memory = self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        return Telemetry(
            sm_clock_hz=sm * 1e6 if sm else None,
            memory_clock_hz=memory * 1e6 if memory else None,
            temperature_c=self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            throttle=", ".join(reasons(nvml, bits or 0)),
        )

    def joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def _ask(self, name: str, *arguments: Any) -> int | None:
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except self.nvml.NVMLError:
            return None


def reasons(nvml: Any, bits: int) -> list[str]:
    """Names of the throttle reasons set in ``bits``; idle is none."""
    named = {n: getattr(nvml, f"nvmlClocksEventReason{end}") for n, end in _NVML_REASONS.items()}
    return [name for name, bit in named.items() if bits & bit and name != IDLE]


def open_sensor(bus_id: str) -> Sensor:
    """The card at the PCI address ``bus_id``; a :class:`NoSensor` where NVML cannot be had."""
    try:
        import pynvml
    except ImportError:
        return NoSensor()
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode()))
    except pynvml.NVMLError:
        return NoSensor()


def around(before: Telemetry, after: Telemetry, sm_clock_hz: float | None = None) -> Telemetry:
    """One record of a sample: the reading after it, the reasons of both, the clock measured.
    Without watts, whatever the sensor says."""
    both = dict.fromkeys(r for t in (before, after) for r in t.throttle.split(", ") if r)
    clock = sm_clock_hz or after.sm_clock_hz
    return replace(after, sm_clock_hz=clock, power_w=None, throttle=", ".join(both))


def unfit(telemetry: Telemetry, rated_hz: float) -> str:
    """Why a sample is to be thrown away; empty where it is kept.

    Kept under a software power cap, however low the clock: that is how a large card runs a large
    product. Thrown away under a thermal or hardware slowdown, or below ``LEAST_CLOCK`` otherwise.
    """
    found = telemetry.throttle.split(", ")
    if slow := [name for name in SLOWDOWNS if name in found]:
        return ", ".join(slow)
    clock = telemetry.sm_clock_hz
    if clock is not None and clock < LEAST_CLOCK * rated_hz and POWER_CAP not in found:
        return f"the clock at {clock / 1e6:.0f} MHz, below {LEAST_CLOCK:.0%} of the rated one"
    return ""


def settled(clocks: Sequence[float], last: int = 4, within: float = 0.02) -> bool:
    """Whether the last clocks differ by no more than ``within`` of their mean."""
    recent = clocks[-last:]
    return len(recent) == last and max(recent) - min(recent) <= within * sum(recent) / last
