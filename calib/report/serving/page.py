"""``front.html``: the front as a figure with a tooltip a point, and as tables that sort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.report.page.cells import (
    Cell,
    Column,
    Grid,
    Row,
    count_cell,
    how_cell,
    interval_cell,
    number,
    plain,
    time_cell,
    words_cell,
)
from calib.report.page.figures.style import Spec, decades, figure, log_axis
from calib.report.page.write import rendered
from calib.report.record import known
from calib.report.serving.found import Front, loads, thinned
from calib.report.units import UNKNOWN, interval, seconds

if TYPE_CHECKING:
    import pandas as pd

POINTS = 1500
"""Of all configurations, drawn beside the front."""
COLUMNS = (
    Column("layout", words=True),
    Column("requests", "at a time, of all replicas"),
    Column("tokens/s a user", "1 / time per token"),
    Column("tokens/s a card"),
    Column("per token"),
    Column("interval", "90%, of the time per token", spare=True),
    Column("first token"),
    Column("cost a million", "output tokens"),
    Column("known", words=True, spare=True),
)
TOOLTIP = [
    *({"field": name} for name in ("load", "layout", "requests")),
    *({"field": name} for name in ("per token", "between", "first token")),
]


def front_page(front: Front) -> str:
    return rendered(
        "front.html",
        title=front.title,
        summary=front.summary,
        limits=front.asked,
        fronts=[(name, front_grid(rows)) for name, rows in loads(front.best)],
        layouts=[(name, front_grid(rows)) for name, rows in loads(front.largest)],
        notes=front.notes,
        figures={"front": front_figure(front)},
    )


def front_grid(rows: pd.DataFrame) -> Grid:
    cells = [
        Row(
            (
                words_cell(str(row["layout"])),
                count_cell(row["concurrency"]),
                Cell(plain(row["tokens_per_s_user"]), number(row["tokens_per_s_user"])),
                Cell(plain(row["tokens_per_s_card"]), number(row["tokens_per_s_card"])),
                time_cell(row["tpot_s"]),
                interval_cell(row["tpot_low_s"], row["tpot_high_s"]),
                time_cell(row["ttft_s"]),
                _cost(row["cost_per_million"]),
                how_cell(row["provenance"]),
            )
        )
        for row in rows.to_dict("records")
    ]
    return Grid(COLUMNS, tuple(cells), first=20).without_empty()


def _cost(value: Any) -> Cell:
    return Cell(plain(value), number(value)) if known(value) else Cell(UNKNOWN)


def front_figure(front: Front) -> Spec:
    """Tokens a second a card over tokens a second a user, both in log; a line a load."""
    rows = front.rows
    ends = [(float(rows[c].min()) * 0.9, float(rows[c].max()) * 1.1) for c in (USER, CARD)]
    x, y = (_axis(f, t, e) for f, t, e in zip("xy", TITLES, ends, strict=True))
    faint = {"type": "point", "filled": True, "opacity": 0.2, "size": 8, "color": "#8a8a8a"}
    line = {"type": "line", "point": {"size": 22}, "strokeWidth": 1.6}
    colour = {"field": "load", "type": "nominal", "legend": {"title": None, "orient": "top"}}
    best = front.best
    return figure(
        420,
        layer=[
            {
                "data": {"values": _points(thinned(rows, POINTS))},
                "mark": faint,
                "encoding": {"x": x, "y": y, "tooltip": TOOLTIP},
            },
            {
                "data": {"values": _points(best)},
                "mark": line,
                "encoding": {"x": x, "y": y, "color": colour, "tooltip": TOOLTIP},
            },
        ],
    )


USER, CARD = "tokens_per_s_user", "tokens_per_s_card"
TITLES = ("tokens/s a user", "tokens/s a card")


def _axis(field: str, title: str, ends: tuple[float, float]) -> Spec:
    scale = {"type": "log", "domain": list(ends), "nice": False}
    axis = log_axis(title, values=decades(*ends))
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def _points(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "x": row[USER],
            "y": row[CARD],
            "load": f"{row['isl']:,} in, {row['osl']:,} out",
            "layout": row["layout"],
            "requests": row["concurrency"],
            "per token": seconds(row["tpot_s"]),
            "between": interval(row["tpot_low_s"], row["tpot_high_s"]),
            "first token": seconds(row["ttft_s"]),
        }
        for row in rows.to_dict("records")
    ]
