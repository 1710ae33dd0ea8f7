"""Quantities as people read them: SI inside, a sensible unit outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from calib.report.record import known

UNKNOWN = "-"
TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
FLOPS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
Scale = tuple[tuple[float, str], ...]


def pick(value: float, scale: Scale) -> tuple[float, str]:
    """The largest unit of ``scale`` that leaves ``value`` at 1 or more, else the smallest."""
    for factor, unit in scale:
        if abs(value) >= factor * 0.9995:
            return factor, unit
    return scale[-1]


def digits(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 12.3, 1230."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    places = max(0, 2 - math.floor(math.log10(abs(rounded)) + 1e-12))
    return f"{value:.{places}f}"


def grouped(value: float) -> str:
    """Three digits, or all of them before the point, thousands apart: 1.23, 15,822."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else digits(value)


def scaled(value: Any, scale: Scale) -> str:
    if not known(value):
        return UNKNOWN
    if value == 0:
        return "0"
    factor, unit = pick(value, scale)
    return f"{digits(value / factor)} {unit}"


def counted(count: int, thing: str) -> str:
    """ "1 operator", "2,000 operators", "2 launches"."""
    ending = "es" if thing.endswith("ch") else "s"
    return f"{count:,} {thing}{ending * (count != 1)}"


def seconds(value: Any) -> str:
    return scaled(value, TIMES)


def flops(value: Any) -> str:
    return scaled(value, FLOPS)


def nbytes(value: Any) -> str:
    return scaled(value, BYTES)


def least(text: str, is_least: Any) -> str:
    """A quantity of which some part is not known."""
    return f"\u2265 {text}" if known(is_least) and is_least else text


def interval(low: Any, high: Any, unit: str = "s") -> str:
    """Both ends in the unit of the upper one, "0.71-0.93 s"; unknown where they are the same."""
    if not (known(low) and known(high)) or low == high:
        return UNKNOWN
    factor, name = pick(high, TIMES) if unit == "s" else (1.0, unit)
    return f"{grouped(low / factor)}-{grouped(high / factor)} {name}"


def percent(value: Any, signed: bool = False) -> str:
    """A fraction as a percentage; one decimal place below 10%."""
    if not known(value):
        return UNKNOWN
    places = 1 if abs(value) < 0.1 else 0
    return f"{100 * value:{'+' if signed else ''}.{places}f}%"


def efficiency(row: Mapping[Any, Any]) -> float | None:
    """Floor over kernels; None where there is no time, and where nothing but the floor is known."""
    floor, taken = row["roofline_s"], row["estimate_s"]
    if not (known(floor) and known(taken) and taken) or math.isclose(floor, taken, rel_tol=1e-9):
        return None
    return float(floor / taken)


def figure(value: Any, unit: str) -> str:
    """A figure of the user in its own unit; seconds are scaled."""
    if not known(value):
        return UNKNOWN
    return seconds(value) if unit == "s" else f"{grouped(value)} {unit}"
