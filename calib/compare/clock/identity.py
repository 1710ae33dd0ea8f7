"""Whether a recorded trace is of what was asked: the card, the model, the sizes, a forward pass.

A trace of something else still has times. What it is of is read off the trace, and said; a phase
whose operators are not those of the model gives no measured time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib.compare.clock.events import KERNEL, Card, TraceFile, shown
from calib.compare.clock.measured import Joined
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware
from calib.report.units import counted

if TYPE_CHECKING:
    import pandas as pd

LEAST_FOUND = 0.5
"""Of a phase's time, measured or estimated, that must have found its counterpart."""
MOSTLY_FOUND = 0.9
"""The same, below which a phase is taken and the rest is said."""
MOST_TIMES = 1.8
"""Operators of a pass over those of the model: with more, a range holds several passes."""
ALIKE = 0.05
"""Two products are of one size up to this: a prompt may have a token more."""
ALIKE_MEMORY = 0.15
"""What a driver reports of a card's memory against its datasheet."""
DTYPES = {"bfloat16": "BFloat16", "float16": "Half", "float32": "float", "float64": "double"}
"""As the profiler writes them."""


def check_card(trace: TraceFile, hardware: Hardware) -> tuple[str | None, list[str]]:
    """The name of the device that the trace is of, and what is to be said of it.

    Raises ``CalibError`` where it is another than ``hardware``.
    """
    ran = [e for e in trace.events if e.on_device]
    on_card = hardware.compute_capability is not None
    if on_card and not ran:
        raise CalibError(
            f"{trace.named}: the trace holds no kernels of a card: expected one that was recorded "
            "on it, with ProfilerActivity.CUDA; or +hw=cpu"
        )
    if not ran:
        return None, []
    notes = _without_length(trace) if on_card else []
    used = {e.stream[0] for e in ran if e.stream}
    cards = [c for c in trace.cards if c.index in used] or list(trace.cards)
    names = ", ".join(dict.fromkeys(shown(c.name) for c in cards))
    if not on_card:
        raise CalibError(
            f"{trace.named}: was recorded on {names or 'a card'}: expected a trace without kernels "
            "for +hw=cpu; or give +hw=<the card>"
        )
    if not cards:
        return None, [
            *notes,
            f"It does not say which card it was recorded on: {hardware.name} is taken.",
        ]
    notes += [note for note in (_compared(c, hardware, trace) for c in cards) if note]
    return names, list(dict.fromkeys(notes))


def _without_length(trace: TraceFile) -> list[str]:
    """A note of kernels whose time the trace does not hold. Raises where it holds none."""
    lengths = [e.length_ns for e in trace.events if e.category == KERNEL]
    zero = lengths.count(0)
    if zero and zero == len(lengths):
        raise CalibError(
            f"{trace.named}: dur = 0 of every kernel ({zero:,}): expected microseconds above 0, as "
            "torch.profiler exports them"
        )
    return [
        f"{zero:,} of {counted(len(lengths), 'kernel')} with dur = 0: their time is not known."
    ] * (zero > 0)


def _compared(card: Card, hardware: Hardware, trace: TraceFile) -> str | None:
    if card.name in hardware.device_names:
        return None
    known = [load_hardware(name) for name in hardware_names()]
    others = [k.name for k in known if card.name in k.device_names]
    if not others and _alike(card, hardware):
        return (
            f"It was recorded on {shown(card.name)}: taken for {hardware.name}, whose "
            "multiprocessors and memory are as many."
        )
    others = others or [k.name for k in known if _alike(card, k)]
    instead = f"; or give {' or '.join(f'+hw={name}' for name in others)}" if others else ""
    if not others and card.capability in (None, hardware.compute_capability):
        listed = f"hw.device_names=[{shown(card.name)!r}]"
        instead = f'; or, where it is such a card, give "{listed}"'
    raise CalibError(
        f"{trace.named}: was recorded on {shown(card.name)}: expected "
        f"{' or '.join(hardware.device_names)}, which hw={hardware.name} is{instead}"
    )


def _alike(card: Card, hardware: Hardware) -> bool:
    makers = {name.split()[0] for name in hardware.device_names if name.strip()}
    return (
        bool(makers.intersection(card.name.split()[:1]))
        and card.capability == hardware.compute_capability
        and card.multiprocessors == hardware.sm_count
        and card.memory_bytes is not None
        and abs(card.memory_bytes / hardware.memory_bytes - 1) < ALIKE_MEMORY
    )


@dataclass(frozen=True)
class Verdict:
    """``refused``: phase -> why its times are not those of the model; only phases of which there is
    a reason. ``remarks``: what a reader must know of the others."""

    refused: dict[str, list[str]]
    remarks: list[str]


def judge(
    joined: Joined, device_s: Mapping[str, float] | None, backward: Mapping[str, int]
) -> Verdict:
    """``device_s``: phase -> all that the device did [s], None on a CPU; ``backward``: phase ->
    nodes of a gradient that ran in it."""
    refused: dict[str, list[str]] = {}
    remarks = []
    for phase, operators in joined.operators.groupby("phase", sort=False):
        name = str(phase)
        whole = float(operators["total_s"].sum()) if device_s is None else device_s[name]
        found = _shares(joined, operators, name, whole)
        of = "the operators' time" if device_s is None else "the device's time"
        sizes = list(_products(joined, operators))
        reasons = [
            *_missed(found, of, LEAST_FOUND),
            _several(joined.times[name]),
            _gradient(backward.get(name, 0)),
            _other_sizes(sizes),
        ]
        if any(reasons):
            refused[name] = [reason for reason in reasons if reason]
            continue
        remarks += [f"Of {name}: {text}." for text in _missed(found, of, MOSTLY_FOUND)]
        if not sizes:
            remarks.append(
                f"Of {name} the trace records no shapes of products (record_shapes=True): whether "
                "they are of the sizes that were asked is not known."
            )
    for name in device_s or {}:
        if name not in joined.times:
            refused[name] = ["the trace names none of its operators"]
    return Verdict(refused, remarks)


def _sure(joined: Joined) -> pd.DataFrame:
    return joined.matches[~joined.matches["kind_differs"].astype(bool)]


def _shares(
    joined: Joined, operators: pd.DataFrame, phase: str, whole: float
) -> tuple[float, float]:
    """Of the time measured, ``whole`` [s], and of that estimated, what found its counterpart."""
    sure = _sure(joined)
    theirs = sure.loc[sure["operator"].isin(operators.index), "seconds"].sum()
    rows = joined.estimates[joined.estimates["phase"] == phase]
    weights = rows["estimate_s"].fillna(1.0)
    ours = weights[rows.index.isin(sure["row"])].sum()
    return float(theirs) / (whole or 1.0), float(ours) / (float(weights.sum()) or 1.0)


def _missed(found: tuple[float, float], of: str, least: float) -> list[str]:
    theirs, ours = found
    reasons = [f"of {of} only {theirs:.1%} found an operator of the model"] * (theirs < least)
    if ours < least:
        reasons.append(f"of the estimated time only {ours:.1%} found an operator in the trace")
    return reasons


def _several(times: float) -> str | None:
    if times < MOST_TIMES:
        return None
    return f"a range of it holds {times:.1f} times as many operators as a pass of the model"


def _gradient(nodes: int) -> str | None:
    return (
        f"{nodes} backward nodes ran in it, and the estimate is of a forward pass"
        if nodes
        else None
    )


def _other_sizes(known: Sequence[tuple[float, str]]) -> str | None:
    """Where most of the time of products of known size is of other sizes, or of another type."""
    whole = sum(seconds for seconds, _ in known)
    unlike = [(seconds, text) for seconds, text in known if text]
    if not whole or sum(seconds for seconds, _ in unlike) <= (1 - LEAST_FOUND) * whole:
        return None
    share, (_, example) = sum(s for s, _ in unlike) / whole, max(unlike)
    return f"{share:.0%} of the time of its products is of others than the model's: {example}"


def _products(joined: Joined, operators: pd.DataFrame) -> Iterator[tuple[float, str]]:
    """Seconds of each matched product whose size is known, and how it differs ("": not)."""
    if not {"shape", "dtype"} <= set(joined.estimates.columns):
        return
    matches = _sure(joined)
    matches = matches[matches["operator"].isin(operators.index)]
    ours = joined.estimates.loc[matches["row"], ["kind", "shape", "dtype"]].to_dict("records")
    columns = ["aten", "kind", "shapes", "dtypes"]
    theirs = operators.loc[matches["operator"], columns].to_dict("records")
    for row, event, seconds in zip(ours, theirs, matches["seconds"], strict=True):
        size, other = size_of_row(row["kind"], row["shape"]), size_of_event(event)
        if size and other:
            types = event["dtypes"].split()
            same_type = not types or DTYPES.get(row["dtype"], types[-1]) in types
            alike = abs(other / size - 1) <= ALIKE and same_type
            words = (event["aten"], "of", event["shapes"], *types[-1:])
            wanted = f"{row['kind']} {row['shape']} {row['dtype']}"
            yield seconds, "" if alike else f"{shown(' '.join(words), 90)}, expected {wanted}"


def size_of_row(kind: str, shape: str) -> float | None:
    """What a product's size is told by, of our text of its dimensions; None: no product."""
    known = {k: float(v) for k, v in re.findall(r"(\w+)=(\d[\d.e+]*)", shape)}
    names = {
        "matmul": ("batch", "m", "n", "k"),
        "conv2d": ("batch", "in_channels", "height", "width", "out_channels"),
        "attention": ("batch", "heads", "q_len", "head_dim"),
    }.get(kind)
    return math.prod(known.get(name, 1.0) for name in names) if names else None


def size_of_event(operator: Mapping[Any, Any]) -> float | None:
    """The same of an operator that was recorded with its shapes: of a product the last two inputs,
    [..., m, k] and [..., k, n]; of a convolution image and weights; of attention the queries."""
    try:
        shapes = [json.loads(text) for text in operator["shapes"].split()]
        if operator["kind"] == "matmul":
            left, right = shapes[-2:]
            return float(math.prod(left)) * right[-1]
        if operator["kind"] == "conv2d":
            return float(math.prod(shapes[0])) * shapes[1][0]
        return float(math.prod(shapes[0])) if operator["kind"] == "attention" else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
