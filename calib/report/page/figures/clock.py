"""Estimate against clock, an operator a point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.report.page.figures.style import Spec, decades, figure, kind_scale, log_axis
from calib.report.units import percent, seconds

if TYPE_CHECKING:
    import pandas as pd

NEGLIGIBLE = 1e-5
"""Part of the time below which an operator is not drawn."""


def against_the_clock(operators: pd.DataFrame) -> Spec | None:
    """Estimate over the clock, drift taken out; None where nothing was measured.

    What lies on the line of 1 is right; the band is a tenth to either side.
    """
    rows = operators[operators["steady_s"] > NEGLIGIBLE * operators["steady_s"].sum()]
    if rows.empty:
        return None
    low, high = float(rows["steady_s"].min()) / 1.5, float(rows["steady_s"].max()) * 1.5
    x = {"type": "quantitative", "scale": {"type": "log", "domain": [low, high], "nice": False}}
    axis = log_axis("measured [s], all calls", values=decades(low, high))
    axis["labelExpr"] = "format(datum.value, '~s') + 's'"
    ratio = rows["estimate_s"] / rows["steady_s"]
    ends = [min(0.45, float(ratio.min()) / 1.1), max(2.2, float(ratio.max()) * 1.1)]
    scale = {"type": "log", "domain": ends, "nice": False}
    y: dict[str, Any] = {"type": "quantitative", "scale": scale}
    up = {"title": "estimate over clock", "format": "~g", "grid": True, "values": TICKS}
    values = [_point(row) for row in rows.to_dict("records")]
    return figure(
        260,
        layer=[
            {
                "data": {"values": [{"low": 0.9, "high": 1.1}]},
                "mark": {"type": "rect", "style": "band"},
                "encoding": {
                    "y": {**y, "field": "low", "axis": up},
                    "y2": {"field": "high"},
                },
            },
            {
                "data": {"values": values},
                "mark": {"type": "point", "filled": True, "opacity": 0.75, "clip": True},
                "encoding": {
                    "x": {**x, "field": "x", "axis": axis},
                    "y": {**y, "field": "y"},
                    "size": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"type": "sqrt", "range": [14, 700]},
                        "legend": None,
                    },
                    "color": {
                        "field": "kind",
                        "type": "nominal",
                        "scale": kind_scale(rows["kind"]),
                        "legend": None,
                    },
                    "tooltip": TOOLTIP,
                },
            },
        ],
    )


TICKS = [0.05, 0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10, 20]
TOOLTIP = [{"field": n} for n in ("operator", "phase", "where", "estimate", "measured", "error")]


def _point(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        "x": row["steady_s"],
        "y": row["estimate_s"] / row["steady_s"],
        "share": row["steady_s"],
        "kind": row["kind"],
        "operator": f"{row['kind']} {row['shape']}".strip(),
        "phase": row["phase"],
        "where": row["where"],
        "estimate": seconds(row["estimate_s"]),
        "measured": seconds(row["measured_s"]),
        "error": percent(row["error"], signed=True),
    }
