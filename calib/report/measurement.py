"""How a run was measured, for reading: one row a phase, then what holds for the whole.

``report.json`` holds every figure of it raw.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from calib.report.ceilings import rate
from calib.report.record import escaped, known
from calib.report.terminal import Cells
from calib.report.units import TIMES, UNKNOWN, digits, nbytes, percent, pick, seconds

RAN = (
    "The model ran with random weights, its modules under a clock. Probes (a fixed matmul and a "
    "fixed copy) stand around every repeat and say how fast the machine was: *slower by* is "
    "against the sweep, and what errors have taken out. *Between operators*: what is left of a "
    "phase for each, Python and dispatch."
)
TRACED = "A trace of torch.profiler was read; what recording costs is in its times."
LONGEST_UNMATCHED = 3
MOST_LISTED = 20
"""Repeats that are written out: a trace may hold a thousand steps."""


def how(found: Mapping[str, Any]) -> str:
    """In words, what was measured with."""
    if "trace" not in found:
        return RAN
    text = f"{TRACED} It is of {escaped(found['card'])}." if found.get("card") else TRACED
    if found.get("refused"):
        phases = ", ".join(found["refused"])
        text += f" Of {phases} this is what the trace holds, which was not taken for the model's."
    return text


def phase_cells(found: Mapping[str, Any]) -> Cells:
    """One row a phase; columns that no phase knows are left out."""
    rows = [_phase_row(phase, found) for phase in found["repeats"]]
    names = [n for n in rows[0] if any(row[n] != UNKNOWN for row in rows)]
    return Cells(tuple(names), [tuple(row[n] for n in names) for row in rows])


def _phase_row(phase: str, found: Mapping[str, Any]) -> dict[str, str]:
    repeats = found["repeats"][phase]
    slower = [s - 1 for s in found.get("slowdown", {}).get(phase, ())]
    joined = found.get("coverage", {}).get("phases", {}).get(phase, {})
    gaps = {gap["phase"]: gap for gap in found.get("gaps", ())}
    clocks = {c["what"]: c for c in found.get("clocks", ()) if c["phase"] == phase}
    taken = f"{joined['matched']:,} of {joined['operators']:,}" if joined else UNKNOWN
    slowed = found.get("stacked")  # by what recorded it, so that its wall times say nothing
    return {
        "phase": phase,
        "median": UNKNOWN if slowed else seconds(statistics.median(repeats)),
        "repeats": UNKNOWN if slowed else several(repeats),
        "on the device": seconds((found.get("device_s") or {}).get(phase)),
        "slower by": ", ".join(percent(s, signed=True) for s in slower) or UNKNOWN,
        "operators matched": taken,
        "of their time": percent(joined.get("share")),
        "between operators": seconds(gaps.get(phase, {}).get("gap_per_operator_s")),
        "sum of operators": beside(clocks.get("operators")),
        "wall time": beside(clocks.get("wall")),
    }


def beside(clock: Mapping[str, Any] | None) -> str:
    """An estimate beside its own clock: "2.15 ms, clock 2.18 ms (-1.4%)"."""
    if clock is None or clock["error"] is None:
        return UNKNOWN
    estimate, measured = seconds(clock["estimate_s"]), seconds(clock["measured_s"])
    return f"{estimate}, clock {measured} ({percent(clock['error'], signed=True)})"


def several(values: Sequence[float]) -> str:
    """Seconds in one unit: "1.38, 1.08, 1.06 s"."""
    factor, unit = pick(max(values), TIMES)
    listed = [digits(value / factor) for value in values]
    if len(listed) > MOST_LISTED:
        listed = [*listed[: MOST_LISTED - 2], "...", listed[-1]]
    return f"{', '.join(listed)} {unit}"


def fact_cells(found: Mapping[str, Any]) -> Cells:
    """What holds for all phases together, as far as it is known."""
    overheads = found.get("overheads", {})
    rows = {
        "drift of the machine": percent(found.get("drift")),
        "drift of the host": _drift(found.get("host_drift")),
        "slowest less fastest repeat, over the median": percent(found.get("spread")),
        "unstable": ("yes" if found["unstable"] else "no") if "unstable" in found else UNKNOWN,
        "error of the total, drift not taken out": percent(
            found.get("raw_total_error"), signed=True
        ),
        "probes": probes(found.get("probes", {})),
        "decoder layers": _count(found.get("decoder_layers")),
        "parameters": _count(found.get("parameters")),
        "memory used": nbytes(found.get("memory_bytes")),
        "threads": _count(found.get("threads")),
        "warm-up": several(overheads["warm_up"]) if overheads.get("warm_up") else UNKNOWN,
        "a module's clock costs": seconds(overheads.get("hook_s")),
        "recording an operator costs": seconds(overheads.get("event_s")),
        "distinct experts touched": experts(found.get("experts_touched", {})),
        "operators that no row took": unmatched(found.get("coverage", {}).get("unmatched", ())),
    }
    return Cells(("what", "value"), [(k, v) for k, v in rows.items() if v != UNKNOWN], left=2)


def _drift(found: Mapping[str, float] | None) -> str:
    """ "88% to 103% of its speed when its costs were measured"."""
    if not found:
        return UNKNOWN
    ends = f"{percent(found['slowest'])} to {percent(found['fastest'])}"
    return f"{ends} of its speed when its costs were measured"


def _count(value: Any) -> str:
    return f"{value:,}" if known(value) else UNKNOWN


def probes(found: Mapping[str, Mapping[str, float]]) -> str:
    """ "29: product 326-409 GFLOP/s, copy 12.6-16.8 GB/s"."""
    if not found:
        return UNKNOWN
    columns = {"product": ("flops", "FLOP/s"), "copy": ("bandwidth", "bytes/s")}
    texts = []
    for name, (key, unit) in columns.items():
        values = [probe[key] for probe in found.values()]
        texts.append(f"{name} {rate(min(values), unit)} to {rate(max(values), unit)}")
    issued = [1 / probe["host"] for probe in found.values() if "host" in probe]
    if issued:
        texts.append(f"host {seconds(min(issued))} to {seconds(max(issued))} an operator")
    return f"{len(found)}: {', '.join(texts)}"


def experts(found: Mapping[str, Sequence[float]]) -> str:
    """ "prefill 26-49 (by layer 47, 43, 26), decode 6"."""
    texts = []
    for phase, counts in found.items():
        low, high = min(counts), max(counts)
        listed = ", ".join(f"{count:g}" for count in counts)
        texts.append(
            f"{phase} {low:g}" if low == high else f"{phase} {low:g}-{high:g} (by layer {listed})"
        )
    return "; ".join(texts) or UNKNOWN


def unmatched(found: Sequence[Mapping[str, Any]]) -> str:
    """The longest, with their time."""
    texts = [
        f"{row['count']:,} x {escaped(row['aten'])} in {row['phase']}, {seconds(row['seconds'])}"
        for row in found[:LONGEST_UNMATCHED]
    ]
    more = len(found) - len(texts)
    return "; ".join(texts) + (f"; {more} more kinds" if more > 0 else "") or UNKNOWN
