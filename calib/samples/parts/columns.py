"""The gate for samples that are read: columns to Python's values, and the rows that are refused.

Whole columns are checked at once. A text is checked once, however many rows hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from calib.errors import one_of
from calib.samples.parts.schema import PLAIN, READABLE
from calib.samples.parts.shapes import LARGEST, MAY_LACK, Refused, laid_out, parse
from calib.samples.sample import CACHES, ORIGINS, STATUSES, TIMED, Kernel
from model.ops import Operator

HOUR_S = 3600.0
"""Longer than any operator that is measured takes."""
_PROBE = (1.0, 1e20)
RANGES: dict[str, tuple[float, float]] = {
    **{"probe_flops": _PROBE, "probe_bandwidth": _PROBE, "probe_host": (1e-3, 1e12)},
    **{"sm_clock_hz": (1.0, 1e12), "memory_clock_hz": (1.0, 1e12), "power_w": (1e-3, 1e6)},
    **{"temperature_c": (-273.15, 1e3), "threads": (1, 2**20), "discarded": (0, LARGEST)},
}
"""From the least to the most that a number may be, far beyond what any device shows. All may be
null but ``discarded``."""


@dataclass
class Rows:
    """Decoded columns by name, and the reason of each row that is refused, the first that holds."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def refuse(self, rows: Iterable[int], column: str, value: Any, expected: str) -> None:
        for row in rows:
            self.refused.setdefault(int(row), str(Refused(column, value, expected)))


def decode(table: Any, version: str) -> Rows:
    """All columns of a ``table`` whose schema is that of ``version``."""
    rows = Rows()
    for name in ("kind", "shape", "versions", *PLAIN):
        if name in READABLE[version]:
            continue
        column = table.column(name).combine_chunks()
        if name in RANGES:
            rows.values[name] = _numbers(rows, name, column)
        else:
            rows.values[name] = _texts(rows, name, column)
    _seconds(rows, table.column("seconds").combine_chunks())
    if "kernels" not in READABLE[version]:
        _kernels(rows, table.column("kernels").combine_chunks())
    _operators(rows, version)
    return rows


def _valid(column: Any) -> np.ndarray:
    """[rows] where there is no null."""
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))


def _numbers(rows: Rows, name: str, column: Any) -> list[float | int | None]:
    low, high = RANGES[name]
    known, nullable = _valid(column), name != "discarded"
    numbers = column.fill_null(0).to_numpy()
    values: list[Any] = numbers.tolist()
    for row in np.flatnonzero(~known).tolist():
        values[row] = None
    bad = ~np.where(known, (numbers >= low) & (numbers <= high), nullable)  # a NaN is neither
    for row in np.flatnonzero(bad).tolist():
        expected = f"a number from {low:g} to {high:g}" + (" or null" if nullable else "")
        rows.refuse([row], name, values[row], expected)
    return values


def _word(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise Refused("", text, one_of(text, words))
        return text

    return check


def _name(text: str) -> str:
    if not text.strip():
        raise Refused("", text, "a name")
    return text


def _started(text: str) -> str:
    try:
        if text:
            datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Refused("", text, "a date and a time by ISO 8601, or nothing")
    return text


def _versions(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise Refused("", text, "a JSON object of texts")
    return found


_TEXTS: dict[str, Callable[[str], Any]] = {
    "cache": _word(*CACHES),
    "origin": _word(*ORIGINS),
    "status": _word(*STATUSES),
    "hardware": _name,
    "implementation": _name,
    "started": _started,
    "versions": _versions,
}
"""What a column of text is read by, where not every text will do."""


def _texts(rows: Rows, name: str, column: Any) -> list[Any]:
    coded = column.dictionary_encode(null_encoding="encode")
    places = coded.indices.to_numpy()
    distinct: list[Any] = coded.dictionary.to_pylist()
    check = _TEXTS.get(name, str)
    for place, text in enumerate(distinct):
        try:
            if text is None:
                raise Refused(name, None, "a text")
            distinct[place] = check(text)
        except Refused as refused:
            rows.refuse(np.flatnonzero(places == place), name, text, refused.expected)
    return [distinct[place] for place in places.tolist()]


def _seconds(rows: Rows, column: Any) -> None:
    """Raw repeats, a list a row; what was timed has at least one. (What a host's cost is beside
    another one may be nothing.)"""
    rows.refuse(np.flatnonzero(~_valid(column)), "seconds", None, "a list")
    flat = column.values.to_numpy(zero_copy_only=False)  # a null in it becomes NaN
    bounds = column.offsets.to_numpy()
    bad = np.flatnonzero(~((flat > 0) & (flat < HOUR_S)))
    bad = bad[(bad >= bounds[0]) & (bad < bounds[-1])]
    for place in bad.tolist():
        row = int(np.searchsorted(bounds, place, side="right")) - 1
        second = flat[place].item()
        if second or rows.values["origin"][row] != "host":
            rows.refuse([row], "seconds", second, f"above 0 and below {HOUR_S:g}")
    numbers = flat.tolist()
    rows.values["seconds"] = [numbers[a:b] for a, b in pairwise(bounds.tolist())]
    timed = np.array([status in TIMED for status in rows.values["status"]], dtype=bool)
    none = np.flatnonzero(timed & (np.diff(bounds) == 0))
    rows.refuse(none, "seconds", [], f"at least one of what is {' or '.join(TIMED)}")


_KERNELS = "kernels: a name, grid and block of up to three whole numbers, a share from 0 to 1"


def _kernels(rows: Rows, column: Any) -> None:
    """What a row launched, in order."""
    found: list[tuple[Kernel, ...]] = []
    for row, listed in enumerate(column.to_pylist()):
        try:
            found.append(tuple(map(_kernel, listed)))
        except (TypeError, ValueError):  # a null in the place of a list, a kernel or a number
            found.append(())
            rows.refuse([row], "kernels", listed, _KERNELS)
    rows.values["kernels"] = found


def _kernel(told: dict[str, Any]) -> Kernel:
    """Raises ``TypeError`` or ``ValueError`` for one that cannot be."""
    kernel = Kernel(told["name"], tuple(told["grid"]), tuple(told["block"]), told["share"])
    fine = isinstance(kernel.name, str) and -1e-6 <= kernel.share <= 1 + 1e-6
    for sizes in (kernel.grid, kernel.block):
        fine = fine and len(sizes) <= 3 and all(0 < size < LARGEST for size in sizes)
    if not fine:
        raise ValueError
    return kernel


def _operators(rows: Rows, version: str) -> None:
    """``op`` of each row, of its kind and its shape; what is refused already is not parsed."""
    may_lack = MAY_LACK[version]
    known: dict[tuple[str, str], Operator | str] = {}
    ops: list[Operator | str] = []
    for row, text in enumerate(zip(rows.values.pop("kind"), rows.values.pop("shape"), strict=True)):
        if text not in known:
            known[text] = _operator(*text, may_lack)
        op = known[text]
        if isinstance(op, str):
            rows.refused.setdefault(row, op)
        ops.append(op)
    rows.values["op"] = ops


def _operator(kind: str | None, shape: str | None, may_lack: frozenset[str]) -> Operator | str:
    """The operator, or why it is refused."""
    if kind is None or shape is None:
        return str(Refused("kind" if kind is None else "shape", None, "a text"))
    try:
        op = parse(kind, shape, may_lack)
    except Refused as refused:
        return str(refused)
    return laid_out(op) if "axes" in may_lack else op
