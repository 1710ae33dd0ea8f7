"""Sentences of the report: what the clock says, what bounds each phase, what would help, and
whether it fits."""

from __future__ import annotations

from typing import Any

from calib.report.record import TOTAL, RunRecord, known
from calib.report.units import counted, nbytes, percent, seconds

_BARE = "roofline"
"""A provenance."""
BOUND_BY = {"host": "host", "compute": "compute", "memory": "bandwidth", "link": "the link"}
WORTH_SAYING = 0.05
"""Part of the wall time that a graph must save to be mentioned, and of the kernels' that must be a
bare roofline."""


def timeline_lines(record: RunRecord) -> list[str]:
    """One sentence a phase that was replayed; none for a device that issues its own work."""
    if record.timeline is None:
        return []
    rows = record.timeline.to_dict("records")
    return [_phase(row, record.execution) for row in rows if known(row["graph_s"])]


def _phase(row: dict[Any, Any], execution: str) -> str:
    each = "a step" if row["passes"] > 1 else "in all"
    by = BOUND_BY[str(row["limited_by"])]
    if row["limited_by"] == "host":
        by = "the gaps between a graph's nodes" if execution == "graph" else "the host"
    text = (
        f"{row['phase']} is bound by {by}: {seconds(row['wall_s'])} {each}, "
        f"of which kernels {seconds(row['kernel_s'])} ({counted(row['launches'], 'launch')})"
    )
    saved = row["wall_s"] - row["graph_s"]
    if execution != "graph" and saved > WORTH_SAYING * row["wall_s"]:
        text += f"; a CUDA graph would save {seconds(saved)} ({percent(saved / row['wall_s'])})"
    return text + "."


def unknown_lines(record: RunRecord) -> list[str]:
    """What no rule knows, and how much of the whole it is; nothing where all is known."""
    operators = record.operators.assign(times=record.executions)
    some = operators[operators["unknown"]] if "unknown" in operators else operators[:0]
    if some.empty:
        return []
    launched = (some["launches"] * some["times"]).sum()
    share = launched / max((operators["launches"] * operators["times"]).sum(), 1)
    moved = some["bytes"].sum() / (operators["bytes"].sum() or 1)
    names = some["shape"].str.split(" ").str[0]
    counts = some["times"].groupby(names).sum().sort_values(ascending=False)
    listed = ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())
    return [
        f"No rule knows what these operators compute: {listed}. They are {percent(share)} of the "
        f"launches and {percent(moved)} of the bytes, those that they are given and return; their "
        "time is that of the bytes. A total that holds any of them is at least what it says. A "
        "formula of your own counts them: calib.trace.formula."
    ]


def bare_lines(record: RunRecord) -> list[str]:
    """Of what nothing but the roofline is known where other times are: a total that holds it is a
    lower bound; nothing where it is little."""
    operators = record.operators
    if "estimate_s" not in operators or not operators["estimate_s"].sum():
        return []
    bare = operators[operators["provenance"] == _BARE]
    share = bare["estimate_s"].sum() / operators["estimate_s"].sum()
    if share < WORTH_SAYING or len(bare) == len(operators):
        return []
    kinds = " and ".join(
        sorted({f"{k} of {d}" for k, d in zip(bare["kind"], bare["dtype"], strict=True)})
    )
    return [
        f"At least: nothing but the roofline is known here of {kinds}, {percent(share)} of the "
        "kernels' time. A total that holds them is a lower bound, and has no interval."
    ]


def memory_lines(record: RunRecord) -> list[str]:
    """Whether the workload fits the device's memory, and the largest that does."""
    memory = record.memory
    if memory is None:
        return []
    needs, has = nbytes(memory["needed_bytes"]), nbytes(memory["memory_bytes"])
    if not memory["fits"]:
        return [f"It does not fit: it needs {needs}, the device has {has}. {_why(memory)}"]
    text = f"Memory: {needs} of {has} at the peak, in {memory['phase']}: {memory_parts(memory)}. "
    text += f"The largest batch that fits is {memory['largest_batch']:,}"
    if memory["largest_context"] is not None:
        text += f", the longest sequence {longest(record)} at batch {record.workload['batch']}"
    return [text + "."]


def longest(record: RunRecord) -> str:
    """Tokens of a sequence that fit, and whether the model was made for as many."""
    most = (record.memory or {})["largest_context"]
    positions = record.model_config.get("positions")
    made = f" (the model was made for {positions:,})" if positions and positions < most else ""
    return f"{most:,} tokens{made}"


def limit_lines(record: RunRecord) -> list[str]:
    """The largest batch within the limit that was asked for, or why there is none."""
    if record.alternatives is None:
        return []
    rows = record.alternatives[record.alternatives["group"] == "limit"].to_dict("records")
    return [_limit(row) for row in rows]


def _limit(row: dict[Any, Any]) -> str:
    if not known(row.get("token_s")):
        return f"With {row['name']}: no batch, {row['why']}."
    return (
        f"With {row['name']} the largest batch is {row['batch']:,}: {seconds(row['token_s'])}, "
        f"{row['rate']:,.0f} tokens a second."
    )


def memory_parts(memory: dict[str, Any]) -> str:
    """Weights, and the largest of each other part with its phase."""
    found = [f"weights {nbytes(memory['weight_bytes'])}"]
    for name, key in (("KV cache", "kv_cache"), ("activations", "activation")):
        part = memory[f"{key}_bytes"]
        found.append(f"{name} at most {nbytes(part)} ({memory[f'{key}_phase']})" if part else "")
    return ", ".join(filter(None, found))


def _why(memory: dict[str, Any]) -> str:
    """The weights, where they do not fit by themselves, or else all parts."""
    if memory["weight_bytes"] > memory["memory_bytes"]:
        return f"The weights alone take {nbytes(memory['weight_bytes'])}."
    batch = memory["largest_batch"]
    fits = f"batch {batch:,} would fit" if batch else "not even one page would fit"
    return f"In {memory['phase']} it needs most: {memory_parts(memory)}; {fits}."


def verdict(record: RunRecord) -> str:
    total = record.total
    if not known(total["measured_s"]):
        return parts_verdict(record)
    text = f"The clock says {seconds(total['measured_s'])}: "
    if known((record.measurement or {}).get("drift")):
        text += "against that, brought to the machine's speed during the sweep, "
    text += f"the estimate is {_off(total['error'])}"
    if known(total.get("error_unseen")):
        text += f" ({_off(total['error_unseen'])} with a fit that never saw the model's own shapes)"
    if known(total.get("roofline_error")):
        text += f", the plain roofline {_off(total['roofline_error'])}"
    return text + "."


def parts_verdict(record: RunRecord) -> str:
    """Where no clock saw the whole: what it says of parts, or of kernels."""
    parts = record.components[record.components["component"] != TOTAL]
    seen = parts[parts["measured_s"].notna()]
    if len(seen):
        names = ", ".join(str(name) for name in seen["component"])
        clock = seen["measured_s"].sum()
        off = _off(seen["estimate_s"].sum() / clock - 1)
        return f"The clock knows {names} only, {seconds(clock)}: their estimate is {off}."
    found = record.measurement or {}
    clocks = [c for c in found.get("clocks", ()) if c["what"] == "operators" and c["measured_s"]]
    if clocks:
        names = ", ".join(str(c["phase"]) for c in clocks)
        clock, estimate = (sum(c[k] for c in clocks) for k in ("measured_s", "estimate_s"))
        return (
            f"Of {names} the clock knows what the device did, {seconds(clock)}: the estimate of "
            f"the kernels, {seconds(estimate)}, is {_off(estimate / clock - 1)}."
        )
    if found.get("refused"):
        return "A trace was given, and is not taken for this model's."
    return "Nothing was measured in this run."


def _off(error: float) -> str:
    return f"{percent(abs(error))} too {'low' if error < 0 else 'high'}"
