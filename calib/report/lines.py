"""Sentences of the report: what bounds each phase, what would help, and whether it fits."""

from __future__ import annotations

from typing import Any

from calib.report.record import RunRecord, known
from calib.report.units import nbytes, percent, seconds

BOUND_BY = {"host": "host", "compute": "compute", "memory": "bandwidth"}
WORTH_SAYING = 0.05
"""Part of the wall time that a graph must save to be mentioned."""


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
        f"of which kernels {seconds(row['kernel_s'])} ({row['launches']:,} launches)"
    )
    saved = row["wall_s"] - row["graph_s"]
    if execution != "graph" and saved > WORTH_SAYING * row["wall_s"]:
        text += f"; a CUDA graph would save {seconds(saved)} ({percent(saved / row['wall_s'])})"
    return text + "."


def memory_lines(record: RunRecord) -> list[str]:
    """Whether the workload fits the device's memory, and the largest that does."""
    memory = record.memory
    if memory is None:
        return []
    needs, has = nbytes(memory["needed_bytes"]), nbytes(memory["memory_bytes"])
    if not memory["fits"]:
        return [f"It does not fit: it needs {needs}, the device has {has}. {_why(memory)}"]
    text = f"Memory: {needs} of {has} at the peak, in {memory['phase']}: {_parts(memory)}. "
    text += f"The largest batch that fits is {memory['largest_batch']:,}"
    if memory["largest_context"] is not None:
        text += f", the longest sequence {memory['largest_context']:,} tokens"
        text += f" at batch {record.workload['batch']}"
    return [text + "."]


def _parts(memory: dict[str, Any]) -> str:
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
    return f"In {memory['phase']} it needs most: {_parts(memory)}; {fits}."
