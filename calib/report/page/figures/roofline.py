"""The roofline, a figure a phase: operators by arithmetic intensity and rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.report.page.figures.style import Spec, decades, figure, kind_scale, log_axis
from calib.report.record import RunRecord, known
from calib.report.units import efficiency, nbytes, percent, seconds

if TYPE_CHECKING:
    import pandas as pd

NEGLIGIBLE = 1e-4
"""Part of a phase's time below which an operator is not drawn."""
LAST_CACHE = "bandwidth of the last cache"
"""The ceiling, where it was measured, that is a line for the L2."""


def rooflines(record: RunRecord, operators: pd.DataFrame) -> dict[str, Spec]:
    """By phase. Points are operators of one shape, all on the same scales."""
    shown = operators[(operators["flops"] > 0) & (operators["bytes"] > 0)]
    shown = shown[shown["estimate_s"] > 0]
    if shown.empty:
        return {}
    shown = shown.assign(x=shown["flops"] / shown["bytes"], y=shown["flops"] / shown["estimate_s"])
    whole = shown.groupby("phase")["estimate_s"].transform("sum")
    shown = shown.assign(share=shown["estimate_s"] / whole)
    shown = shown[shown["share"] > NEGLIGIBLE]
    lines = roofs(record, sorted(set(shown["dtype"])))
    ends = scales(shown, lines)
    colours = kind_scale(shown["kind"])
    phases = dict.fromkeys(record.operators["phase"])
    parts = {p: shown[shown["phase"] == p] for p in phases}
    return {p: _figure(rows, lines, ends, colours) for p, rows in parts.items() if len(rows)}


def roofs(record: RunRecord, dtypes: list[str]) -> list[dict[str, Any]]:
    """Lines: ``rate`` [FLOP/s] of flat ones, ``bandwidth`` [bytes/s] of slopes; ``name``."""
    hardware = record.hardware
    peaks = hardware["peak_flops"]
    flat = {d: peaks[d] for d in dtypes if known(peaks.get(d))}
    flat.setdefault("pointwise", hardware["cuda_core_flops"])
    alike: dict[float, list[str]] = {}
    for name, rate in flat.items():
        alike.setdefault(rate, []).append(name)
    lines: list[dict[str, Any]] = [
        {"name": f"{', '.join(names)} {rate / 1e12:.4g} TFLOP/s", "rate": rate}
        for rate, names in sorted(alike.items(), reverse=True)
    ]
    cached = None if record.ceilings is None else _last_cache(record.ceilings)
    slopes = {"memory": hardware["bandwidth"]} | ({"L2, measured": cached} if cached else {})
    for name, rate in slopes.items():
        lines.append({"name": f"{name} {nbytes(rate)}/s", "bandwidth": rate})
    return lines


def _last_cache(ceilings: pd.DataFrame) -> float | None:
    rows = ceilings[ceilings["name"] == LAST_CACHE]
    return float(rows["measured"].iloc[0]) if len(rows) else None


def scales(shown: pd.DataFrame, lines: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The ends of both axes, the same for all phases."""
    top = max(line["rate"] for line in lines if "rate" in line)
    slow = min(line["bandwidth"] for line in lines if "bandwidth" in line)
    left = max(float(shown["x"].min()) / 2, 1e-3)
    right = max(float(shown["x"].max()), top / slow) * 3
    low = max(float(shown["y"].min()) / 2, top * 1e-7)
    return {"x": (left, right), "y": (low, top * 3)}


def _figure(
    rows: pd.DataFrame,
    lines: list[dict[str, Any]],
    ends: dict[str, tuple[float, float]],
    colours: Spec,
) -> Spec:
    (left, right), (low, high) = ends["x"], ends["y"]
    x = {"type": "quantitative", "scale": {"type": "log", "domain": [left, right], "nice": False}}
    y = {"type": "quantitative", "scale": {"type": "log", "domain": [low, high], "nice": False}}
    across = log_axis("FLOP per byte", values=decades(left, right), labelOverlap="greedy")
    up = log_axis("FLOP/s", values=decades(low, high))
    ridge = max(line["rate"] for line in lines if "rate" in line)
    roofing = [point for line in lines for point in _ends_of(line, left, right, ridge)]
    names = [_name_of(line, left, ridge) for line in lines]
    return figure(
        300,
        layer=[
            {
                "data": {"values": roofing},
                "mark": {"type": "line", "clip": True, "strokeWidth": 1.2, "style": "roof"},
                "encoding": {
                    "x": {**x, "field": "x", "axis": across},
                    "y": {**y, "field": "y", "axis": up},
                    "detail": {"field": "name"},
                },
            },
            {
                "data": {"values": names},
                "mark": {"type": "text", "style": "roof-name", **NAMED},
                "encoding": {
                    "x": {**x, "field": "x"},
                    "y": {**y, "field": "y"},
                    "text": {"field": "name"},
                },
            },
            {
                "data": {"values": points(rows)},
                "mark": {"type": "point", "filled": True, "opacity": 0.72, "clip": True},
                "encoding": {
                    "x": {**x, "field": "x"},
                    "y": {**y, "field": "y"},
                    "size": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"type": "sqrt", "domain": [0, 1], "range": [12, 1400]},
                        "legend": None,
                    },
                    "color": {
                        "field": "kind",
                        "type": "nominal",
                        "scale": colours,
                        "legend": None,
                    },
                    "tooltip": TOOLTIP,
                },
            },
        ],
    )


NAMED = {"align": "left", "dx": {"expr": "datum.dx"}, "dy": {"expr": "datum.dy"}}
TOOLTIP = [
    {"field": "operator"},
    {"field": "where"},
    {"field": "kernels"},
    {"field": "part", "title": "of the phase"},
    {"field": "floor"},
    {"field": "efficiency"},
    {"field": "known"},
]


def points(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What is drawn and what is read when a pointer rests on it."""
    return [
        {
            "x": float(f"{row['x']:.4g}"),
            "y": float(f"{row['y']:.4g}"),
            "share": float(f"{row['share']:.4g}"),
            "kind": row["kind"],
            "operator": f"{row['kind']} {row['shape']} {row['dtype']}",
            "where": row["where"],
            "kernels": seconds(row["estimate_s"]),
            "part": percent(row["share"]),
            "floor": seconds(row["roofline_s"]),
            "efficiency": percent(efficiency(row)),
            "known": row["provenance"],
        }
        for row in rows.to_dict("records")
    ]


def _ends_of(line: dict[str, Any], left: float, right: float, ridge: float) -> list[dict[str, Any]]:
    """A slope ends where it meets the highest roof."""
    if "rate" in line:
        return [{"name": line["name"], "x": x, "y": line["rate"]} for x in (left, right)]
    rate = line["bandwidth"]
    return [{"name": line["name"], "x": x, "y": x * rate} for x in (left, ridge / rate)]


def _name_of(line: dict[str, Any], left: float, ridge: float) -> dict[str, Any]:
    """At the left, where no point can be; the highest roof's above its line, others' below.

    A slope's name begins where the slope is half way up, and lies below it.
    """
    if "rate" in line:
        dy = -7 if line["rate"] == ridge else 8
        return {"name": line["name"], "x": left, "y": line["rate"], "dx": 3, "dy": dy}
    x = (left * (ridge / line["bandwidth"])) ** 0.5
    return {"name": line["name"], "x": x, "y": x * line["bandwidth"], "dx": 10, "dy": 9}
