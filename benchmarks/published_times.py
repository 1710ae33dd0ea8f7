"""Passes that strangers timed on a card, beside what ships for it: the estimate, and the tables.

What is compared is the device's queue: the kernels of a pass and the gap behind each
(``STREAM_GAP``), since the host gets ahead while a cache is emptied or earlier calls still run.
``12.4``: as torch by that CUDA, of which something is known on Hoppers alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.older.shipped import load_torch, teacher_of
from calib.estimates.tables import found_in_cache
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import OLDER
from calib.samples.host_costs import host_costs
from model.layer import Call


@dataclass(frozen=True)
class Pass:
    """One published time [s] of ``calls`` on a card. ``group``: what a row of the table sums up;
    ``label``: what sets it apart in its group. ``emptied``: whether the cache was, before it."""

    card: str
    group: str
    label: str
    seconds: float
    calls: tuple[Call, ...]
    emptied: bool = True


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def tensor(*shape: int, dtype: torch.dtype, learns: bool = True) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=learns)


def indices(*shape: int) -> torch.Tensor:
    return tensor(*shape, dtype=torch.int64, learns=False)


@dataclass(frozen=True)
class Told:
    """Seconds of a pass's kernels, the ends of the interval, and the roofline."""

    seconds: float
    low: float
    high: float
    roofline: float


def told(passes: Sequence[Pass], hardware: Hardware) -> list[Told]:
    """What ships for ``hardware`` says of each, in one question."""
    estimator = load_torch(hardware)
    assert estimator is not None
    calls = [call for each in passes for call in each.calls]
    hot = [
        found_in_cache(call.op, hardware) and (i > 0 or not each.emptied)
        for each in passes
        for i, call in enumerate(each.calls)
    ]
    counts = [call.count for call in calls]
    found = estimator.estimates([call.op for call in calls], "torch", hot)
    gap = host_costs([], hardware.name).stream_gap
    starts = [call.count * call.launches for call in calls]
    columns = [
        np.multiply(counts, each) + np.multiply(starts, later)
        for each, later in (
            *((found.seconds, gap.estimate_s), (found.low, gap.low_s)),
            *((found.high, gap.high_s), (found.floor, 0.0)),
        )
    ]
    ends = [0]
    for each in passes:
        ends.append(ends[-1] + len(each.calls))
    return [Told(*(float(column[a:b].sum()) for column in columns)) for a, b in pairwise(ends)]


def compared(passes: Sequence[Pass]) -> Iterator[dict[str, Any]]:
    """A row a published time; errors are those of the estimate."""
    for card in dict.fromkeys(p.card for p in passes):
        hardware, some = load_hardware(card), [p for p in passes if p.card == card]
        older = replace(hardware, cuda=OLDER)
        old = told(some, older) if teacher_of(older) else [None] * len(some)
        for row, now, then in zip(some, told(some, hardware), old, strict=True):
            yield {
                **{"card": card, "group": row.group, "label": row.label},
                **{"published_s": row.seconds, "estimate_s": now.seconds},
                "error": now.seconds / row.seconds - 1,
                "inside": now.low <= row.seconds <= now.high,
                "roofline": now.roofline / row.seconds - 1,
                "older": then and then.seconds / row.seconds - 1,
                "older_inside": then and then.low <= row.seconds <= then.high,
            }


def summary(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    errors = [r["error"] for r in rows]
    older = [r["older"] for r in rows if r["older"] is not None]
    held = sum(bool(r["inside"]) for r in rows)
    times = sorted(r["published_s"] for r in rows)
    return [
        name,
        str(len(rows)),
        f"{times[0] * 1e3:.2g}-{times[-1] * 1e3:.3g}",
        percent(median(r["roofline"] for r in rows)),
        percent(median(errors)),
        percent(max(errors, key=abs)),
        f"{held}/{len(rows)}",
        percent(median(older)) if older else "-",
        f"{sum(bool(r['older_inside']) for r in rows)}/{len(rows)}" if older else "-",
    ]


def described(rows: Sequence[dict[str, Any]]) -> str:
    head = ["median errors", "rows", "ms", "roofline", "estimate", "worst", "held", OLDER, "held"]
    keys = dict.fromkeys((r["card"], r["group"]) for r in rows)
    shown = [
        summary(" ".join(key), [r for r in rows if (r["card"], r["group"]) == key]) for key in keys
    ]
    parts = [lines(head, shown), ""]
    for card in dict.fromkeys(r["card"] for r in rows):
        some = [r for r in rows if r["card"] == card]
        said = [
            f"{way} {mean(abs(r[key]) for r in some):.1%}" for way, key in WAYS if has(some, key)
        ]
        held = sum(bool(r["inside"]) for r in some)
        parts.append(
            f"{card}: mean |error| {', '.join(said)}; intervals hold {held} of {len(some)}"
        )
    return "\n".join(parts)


WAYS = (("estimate", "error"), (f"by CUDA {OLDER}", "older"), ("roofline", "roofline"))


def has(rows: Sequence[dict[str, Any]], key: str) -> bool:
    return all(r[key] is not None for r in rows)


def each(rows: Sequence[dict[str, Any]]) -> str:
    shown = [
        [
            f"{r['card']} {r['group']} {r['label']}",
            f"{r['published_s'] * 1e3:.4g}",
            f"{r['estimate_s'] * 1e3:.4g}",
            percent(r["error"]),
            "yes" if r["inside"] else "no",
            percent(r["older"]),
            percent(r["roofline"]),
        ]
        for r in rows
    ]
    return lines(["a pass", "ms", "estimate", "error", "held", OLDER, "roofline"], shown)


def judge(program: str, passes: Callable[[], Sequence[Pass]], title: str) -> None:
    """The command line of published passes."""
    show(program, lambda: list(compared(passes())), described, each, title)


def show(
    program: str,
    judged: Callable[[], Sequence[dict[str, Any]]],
    described: Callable[[Sequence[dict[str, Any]]], str],
    each: Callable[[Sequence[dict[str, Any]]], str],
    title: str,
) -> None:
    """The table, its place in a page, and one line of JSON under ``title``."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--rows", action="store_true", help="a line a published time")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    rows = judged()
    shown = described(rows)
    print(f"{each(rows)}\n\n{shown}" if asked.rows else shown)
    if asked.write:
        name = program.rpartition(".")[-1].replace("_", " ")
        marks = f"<!-- python -m {program} -->", f"<!-- end of {name} -->"
        write(asked.write, f"\n```text\n{shown}\n```\n", marks)
    print(json.dumps({title: rows}))
