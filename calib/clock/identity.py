"""Whether a recorded trace is of what was asked: the card, the model, the sizes, a forward pass.

A trace of something else still has times. What it is of is read off the trace, and said; a phase
whose operators are not those of the model gives no measured time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from calib.clock.events import Card, TraceFile, shown
from calib.clock.measured import Joined
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware

if TYPE_CHECKING:
    import pandas as pd

LEAST_FOUND = 0.5
"""Of a phase's time, measured or estimated, that must have found its counterpart."""
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
    used = {e.stream[0] for e in ran if e.stream}
    cards = [c for c in trace.cards if c.index in used] or list(trace.cards)
    names = ", ".join(dict.fromkeys(shown(c.name) for c in cards))
    if not on_card:
        raise CalibError(
            f"{trace.named}: was recorded on {names or 'a card'}: expected a trace without kernels "
            "for +hw=cpu; or give +hw=<the card>"
        )
    if not cards:
        return None, ["It does not say which card it was recorded on."]
    notes = [note for note in (_compared(c, hardware, trace) for c in cards) if note]
    return names, list(dict.fromkeys(notes))


def _compared(card: Card, hardware: Hardware, trace: TraceFile) -> str | None:
    if card.name in hardware.device_names:
        return None
    others = [n for n in hardware_names() if card.name in load_hardware(n).device_names]
    if not others and _alike(card, hardware):
        return (
            f"It was recorded on {shown(card.name)}: taken for {hardware.name}, whose "
            "multiprocessors and memory are as many."
        )
    instead = f"; or give +hw={others[0]}" if others else ""
    raise CalibError(
        f"{trace.named}: was recorded on {shown(card.name)}: expected "
        f"{' or '.join(hardware.device_names)}, which hw={hardware.name} is{instead}"
    )


def _alike(card: Card, hardware: Hardware) -> bool:
    return (
        card.capability == hardware.compute_capability
        and card.multiprocessors == hardware.sm_count
        and card.memory_bytes is not None
        and abs(card.memory_bytes / hardware.memory_bytes - 1) < ALIKE_MEMORY
    )


def doubts(
    joined: Joined, device_s: Mapping[str, float] | None, backward: Mapping[str, int]
) -> dict[str, list[str]]:
    """Phase -> why its times are not those of the model; only phases of which there is a reason.

    ``device_s``: phase -> all that the device did [s], None on a CPU.
    """
    found = {}
    for phase, operators in joined.operators.groupby("phase", sort=False):
        name = str(phase)
        whole = float(operators["total_s"].sum()) if device_s is None else device_s[name]
        reasons = [
            _found_of_trace(joined, operators, whole, device_s is not None),
            _found_of_model(joined, name),
            _several(joined.times[name]),
            _gradient(backward.get(name, 0)),
            _other_sizes(joined, operators),
        ]
        if any(reasons):
            found[name] = [reason for reason in reasons if reason]
    for name in device_s or {}:
        if name not in joined.times:
            found[name] = ["the trace names none of its operators"]
    return found


def _sure(joined: Joined) -> pd.DataFrame:
    return joined.matches[~joined.matches["kind_differs"].astype(bool)]


def _found_of_trace(
    joined: Joined, operators: pd.DataFrame, whole: float, on_device: bool
) -> str | None:
    here = _sure(joined)
    share = float(here.loc[here["operator"].isin(operators.index), "seconds"].sum()) / (whole or 1)
    of = "the device's time" if on_device else "the operators' time"
    if share >= LEAST_FOUND:
        return None
    return f"of {of} only {share:.0%} found an operator of the model"


def _found_of_model(joined: Joined, phase: str) -> str | None:
    rows = joined.estimates[joined.estimates["phase"] == phase]
    weights = rows["estimate_s"].fillna(1.0)
    share = float(weights[rows.index.isin(_sure(joined)["row"])].sum()) / (weights.sum() or 1)
    if share >= LEAST_FOUND:
        return None
    return f"of the estimated time only {share:.0%} found an operator in the trace"


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


def _other_sizes(joined: Joined, operators: pd.DataFrame) -> str | None:
    """Where most of the time of products of known size is of other sizes, or of another type."""
    known = list(_products(joined, operators))
    whole = sum(seconds for seconds, _ in known)
    unlike = [(seconds, text) for seconds, text in known if text]
    if not whole or sum(seconds for seconds, _ in unlike) <= (1 - LEAST_FOUND) * whole:
        return None
    share, (_, example) = sum(s for s, _ in unlike) / whole, max(unlike)
    return f"{share:.0%} of the time of its products is of others than the model's: {example}"


def _products(joined: Joined, operators: pd.DataFrame) -> Iterator[tuple[float, str]]:
    """Seconds of each matched product whose size is known, and how it differs ("": not)."""
    rows, matches = joined.estimates, _sure(joined)
    if not {"shape", "dtype"} <= set(rows.columns):
        return
    columns = (matches["operator"], matches["row"], matches["seconds"])
    for place, row, seconds in zip(*columns, strict=True):
        if place not in operators.index:
            continue
        ours, theirs = rows.loc[row], operators.loc[place]
        size, other = size_of_row(ours["kind"], ours["shape"]), size_of_event(theirs)
        if size and other:
            types = theirs["dtypes"].split()
            same_type = not types or DTYPES.get(ours["dtype"], types[-1]) in types
            alike = abs(other / size - 1) <= ALIKE and same_type
            shapes = shown(
                f"{theirs['aten']} of {theirs['shapes']} {types[-1] if types else ''}", 90
            )
            wanted = f"{ours['kind']} {ours['shape']} {ours['dtype']}"
            yield seconds, "" if alike else f"{shapes.strip()}, expected {wanted}"


def size_of_row(kind: str, shape: str) -> float | None:
    """What a product's size is told by, of our text of its dimensions; None: no product."""
    known = {k: float(v) for k, v in re.findall(r"(\w+)=(\d[\d.e+]*)", shape)}
    names = {
        "matmul": ("batch", "m", "n", "k"),
        "conv2d": ("batch", "in_channels", "height", "width", "out_channels"),
        "attention": ("batch", "heads", "q_len", "head_dim"),
    }.get(kind)
    return math.prod(known.get(name, 1.0) for name in names) if names else None


def size_of_event(operator: Mapping[str, Any] | pd.Series) -> float | None:
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
