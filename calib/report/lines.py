"""Sentences of the report: what bounds each phase, and what would help."""

from __future__ import annotations

from typing import Any

from calib.report.record import RunRecord, known
from calib.report.units import percent, seconds

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
