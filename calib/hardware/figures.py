"""Figures of a device as ``conf/hw`` writes them: what each may be, and the words for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import partial
from typing import Any

from calib.errors import CalibError, wrong
from calib.hardware.links import ACCEPTED, read_links
from calib.hardware.versions import ACCEPTED as CUDA_VERSION
from calib.hardware.versions import cuda_version
from model.ops import ITEM_BYTES

PROVENANCES = ("datasheet", "derived", "probed")
PROBED = "probed"
"""The mark, in ``conf/hw``, of a figure that no file can hold because it is probed at run time."""


class HardwareError(CalibError, ValueError):
    """A device that is not known, a figure that is wrong, or one that the device does not have."""


def wrong_figure(key: str, value: Any, accepted: str) -> HardwareError:
    return HardwareError(wrong(f"hw.{key}", value, accepted))


def read_figure(key: str, value: Any, provenance: Any) -> Any:
    if value == PROBED and provenance == PROBED and key in MAY_BE_PROBED:
        return copy(MAY_BE_PROBED[key])
    if value is None and key in MAY_BE_NULL:
        return None
    read, accepted = KEYS[key]
    try:
        return read(value)
    except HardwareError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise wrong_figure(key, value, accepted) from None


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _text(value: Any) -> str:
    """On one line: it is printed."""
    _require(isinstance(value, str) and bool(value.strip()) and len(value) <= 1000)
    _require(not re.search(r"[\x00-\x1f\x7f]", value))
    return str(value)


def _name(value: Any) -> str:
    """A folder of samples is called so."""
    _require(re.fullmatch(r"[\w.-]*\w[\w.-]*", _text(value)) is not None and len(value) <= 100)
    return str(value)


def _texts(value: Iterable[Any]) -> tuple[str, ...]:
    _require(not isinstance(value, str))
    return tuple(_text(v) for v in value)


def _positive(value: Any, least: float, most: float) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool))
    _require(least <= value <= most)  # and no NaN
    return float(value)


def _whole(value: Any, least: float, most: float) -> int:
    _require(_positive(value, least, most) == int(value))
    return int(value)


def _capability(value: Any) -> str:
    _require(re.fullmatch(r"[0-9]{1,2}\.[0-9]{1,2}", _text(value)) is not None)
    major, minor = value.split(".")
    return f"{int(major)}.{int(minor)}"


def _cuda(value: Any) -> str:
    cuda_version(_text(value))
    return str(value)


def _peaks(value: Any) -> dict[str, float]:
    _require(isinstance(value, Mapping) and bool(value))
    for dtype in value:
        if dtype not in ITEM_BYTES:
            raise wrong_figure("peak_flops", dtype, f"dtypes out of {', '.join(ITEM_BYTES)}")
    return {dtype: _part(f"peak_flops.{dtype}", rate, _RATE) for dtype, rate in value.items()}


def _part(key: str, value: Any, accepted: Accepted) -> Any:
    """An entry of a mapping."""
    try:
        return accepted[0](value)
    except (TypeError, ValueError, OverflowError):
        raise wrong_figure(key, value, accepted[1]) from None


def _sources(value: Any) -> dict[str, str]:
    return {_text(figure): _text(source) for figure, source in value.items()}


def _ceilings(value: Any) -> dict[str, dict[str, Any]]:
    def ceiling(figure: str, entry: Any) -> dict[str, Any]:
        at = f"measured.{figure}"
        if not isinstance(entry, Mapping) or set(entry) != {"low", "high", "source"}:
            raise wrong_figure(at, entry, "low, high and source")
        low, high = (_part(f"{at}.{end}", entry[end], _CEILING) for end in ("low", "high"))
        if low > high:
            raise wrong_figure(f"{at}.low", low, f"low <= high = {high:g}")
        source = _part(f"{at}.source", entry["source"], (_text, "a text"))
        return {"low": low, "high": high, "source": source}

    return {_text(figure): ceiling(figure, entry) for figure, entry in value.items()}


def _provenance(value: Any) -> str:
    _require(_text(value) in PROVENANCES)
    return str(value)


Accepted = tuple[Callable[[Any], Any], str]
"""How a value is read, and what is accepted, in words."""


def _figure(
    unit: str, least: float, most: float, whole: bool = False, null: bool = False
) -> Accepted:
    """A figure within what a device can have, by orders of magnitude: a wrong unit is seen."""
    number = f"a positive {'whole ' if whole else ''}number{f' [{unit}]' if unit else ''}"
    words = f"{number}{', or null' if null else ''}; from {least:g} to {most:g}"
    return partial(_whole if whole else _positive, least=least, most=most), words


_RATE = _figure("FLOP/s", 1e6, 1e20)
_CEILING = _figure("", 1e-6, 1e20)
KEYS: dict[str, Accepted] = {
    "name": (_name, "the card's name, as the file is called"),
    "device_names": (_texts, "a list of names as the driver reports them"),
    "compute_capability": (_capability, 'a quoted "major.minor", or null'),
    "sm_count": _figure("", 1, 1e5, whole=True),
    "clock_hz": _figure("Hz", 1e6, 1e12),
    "peak_flops": (_peaks, "a mapping from dtype to a positive number [FLOP/s]"),
    "cuda_core_flops": _RATE,
    "bandwidth": _figure("bytes/s", 1e6, 1e17),
    "memory_bytes": _figure("bytes", 1e6, 1e18, whole=True),
    "l2_bytes": _figure("bytes", 1e3, 1e15, whole=True),
    "shared_memory_per_block": _figure("bytes", 1e3, 1e9, whole=True, null=True),
    "threads_per_sm": _figure("", 32, 1e5, whole=True, null=True),
    "power_w": _figure("W", 0.1, 1e6, null=True),
    "links": (read_links, ACCEPTED),
    "sources": (_sources, "a mapping from figure to the source it is from"),
    "measured": (_ceilings, "a mapping from figure to low, high (low <= high) and source"),
    "provenance": (_provenance, f"one of {', '.join(PROVENANCES)}"),
    "cuda": (_cuda, CUDA_VERSION),
}

MAY_BE_NULL = ("compute_capability", "shared_memory_per_block", "threads_per_sm", "power_w", "cuda")
MAY_BE_PROBED: dict[str, Any] = {
    "sm_count": 0,
    "clock_hz": math.nan,
    "peak_flops": {},
    "cuda_core_flops": math.nan,
    "bandwidth": math.nan,
    "memory_bytes": 0,
    "l2_bytes": 0,
}
"""What a figure that is marked ``probed`` holds until it is."""
