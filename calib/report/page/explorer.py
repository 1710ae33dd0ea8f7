"""The page of a grid: its runs as points, on axes that the reader chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.page.cells import (
    Cell,
    Column,
    Grid,
    Row,
    how_cell,
    interval_cell,
    plain,
    readable,
    time_cell,
    words_cell,
)
from calib.report.page.write import PAGE, rendered
from calib.report.record import known
from calib.report.runs.table import varied
from calib.report.units import UNKNOWN
from calib.report.write import renamed_at_the_end

if TYPE_CHECKING:
    import pandas as pd

SECONDS = ("time_per_output_token", "time_to_first_token", "time_of_a_pass", "time_of_a_step")
RATES = tuple(f"{what}_per_second" for what in ("tokens", "pages", "images", "requests", "samples"))
JOULES = ("joules_a_token", "joules_a_request")
COSTS = ("wall_s", "flops", "io_bytes", "weight_bytes")
NAMES = {
    **{"wall_s": "time of the whole", "io_bytes": "bytes moved", "flops": "FLOPs"},
    **{"time_to_first_token": "first token", "time_per_output_token": "per token"},
    **{"joules_a_token": "J a token", "joules_a_request": "J a request"},
    **{rate: f"{rate.partition('_')[0]}/s" for rate in RATES},
}
"""Of columns, as axes and heads say them."""
UNITS = {**dict.fromkeys((*SECONDS, "wall_s"), "s"), "io_bytes": "B", "weight_bytes": "B"}
UNITS |= dict.fromkeys(JOULES, "J")


def write_explorer(table: pd.DataFrame, folder: Path) -> Path:
    """Write ``report.html`` of the runs in ``table`` (``calib.report.runs.table.runs_table``),
    whose folders lie in ``folder``. Raises ``ReportError`` where it cannot be written."""
    with renamed_at_the_end(folder) as (staging, _):
        (staging / PAGE).write_text(explorer(table, folder), encoding="utf-8")
    return folder / PAGE


def explorer(table: pd.DataFrame, folder: Path) -> str:
    table = with_reports(table, folder)
    keys, figures = swept(table), figures_of(table)
    runs = [_run(row, keys, figures) for row in table.to_dict("records")]
    throughput = next((n for n in figures if n in RATES), figures[0])
    latency = next((n for n in figures if n in SECONDS), figures[-1])
    return rendered(
        "explorer.html",
        title=f"{len(table)} runs",
        alike=alike(table, keys),
        runs=grid_of(table, keys, figures),
        unfit=int((~table["fits"].astype(bool)).sum()),
        explored={
            "runs": runs,
            "keys": [{"name": k, "title": readable(k.rpartition(".")[2])} for k in keys],
            "figures": [{"name": n, "title": title(n), "unit": UNITS.get(n, "")} for n in figures],
            "x": throughput,
            "y": latency,
        },
        figures={},
        draws=True,
    )


def with_reports(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """``table`` with whether a run ``fits``, tokens a second, and the ends of its figures, as the
    runs' own reports have them."""
    reports = [_report(folder / str(run) / "report.json") for run in table["run"]]
    needs = [report.get("memory") or {"fits": True} for report in reports]
    table = table.assign(fits=[bool(need["fits"]) for need in needs])
    for end in ("low", "high"):
        for name in (n for n in (*SECONDS, *RATES) if n in table):
            table[f"{name}_{end}"] = [_end(report, name, end) for report in reports]
        for name in (n for n in JOULES if n in table):
            table[f"{name}_{end}"] = table[name.replace("joules", f"joules_{end}")]
    if "time_per_output_token" in table and "tokens_per_second" not in table:
        rates = table["batch"] / table["time_per_output_token"]
        table = table.assign(tokens_per_second=rates)
    return table


def _report(path: Path) -> dict[str, Any]:
    """Empty for a run whose report is gone: its row is all that is known."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _end(report: dict[str, Any], name: str, end: str) -> float | None:
    named = (f[end] for f in report.get("figures", ()) if f["name"].replace(" ", "_") == name)
    return next(named, None)


def swept(table: pd.DataFrame) -> list[str]:
    """The keys that were swept; where nobody noted them, what tells the runs apart."""
    noted = [key for key in table.attrs.get("swept", ()) if key in table]
    return list(dict.fromkeys([*noted, *varied(table)]))


def figures_of(table: pd.DataFrame) -> list[str]:
    """What is known of some run and may stand on an axis."""
    shown = (*SECONDS, *RATES, *JOULES, *COSTS)
    return [n for n in shown if n in table and table[n].map(known).any()]


def title(name: str) -> str:
    return NAMES.get(name, readable(name))


def alike(table: pd.DataFrame, keys: list[str]) -> list[str]:
    """What all runs have in common."""
    names = ("model", "hardware", "workload", "execution", "implementation")
    return [str(table[n].iloc[0]) for n in names if n not in keys and table[n].nunique() == 1]


def _run(row: dict[Any, Any], keys: list[str], figures: list[str]) -> dict[str, Any]:
    """What the page draws of a run; null where it is not known."""
    shown = {name: _plain(row[name]) for name in (*keys, *figures)}
    for name in figures:
        low = row.get(f"{name}_low", row.get("wall_low_s") if name == "wall_s" else None)
        high = row.get(f"{name}_high", row.get("wall_high_s") if name == "wall_s" else None)
        shown |= {f"{name} low": _plain(low), f"{name} high": _plain(high)}
    return {**shown, "run": str(row["run"]), "fits": row["fits"], "known": row["provenance"]}


def _plain(value: Any) -> Any:
    if not known(value):
        return None
    return value.item() if hasattr(value, "item") else value


def grid_of(table: pd.DataFrame, keys: list[str], figures: list[str]) -> Grid:
    """A row a run; without times where it does not fit."""
    times = [n for n in figures if n not in COSTS]
    columns = (
        Column("run", words=True),
        *(Column(readable(k.rpartition(".")[2]), k, words=True) for k in keys),
        Column("fits", words=True),
        *(Column(title(n)) for n in times),
        Column("whole", "wall time of the workload"),
        Column("interval", "90%, of the whole", spare=True),
        Column("known", words=True, spare=True),
    )
    rows = []
    for row in table.to_dict("records"):
        fits = row["fits"]
        cells = [_figure(row[n] if fits else None, n) for n in times]
        ends = (row["wall_low_s"], row["wall_high_s"]) if fits else (None, None)
        rows.append(
            Row(
                (
                    words_cell(str(row["run"])),
                    *(_key(row[k]) for k in keys),
                    Cell("yes" if fits else "no", str(fits), mark="" if fits else "bad-word"),
                    *cells,
                    time_cell(row["wall_s"] if fits else None),
                    interval_cell(*ends),
                    how_cell(row["provenance"]),
                )
            )
        )
    return Grid(columns, tuple(rows)).without_empty()


def _key(value: Any) -> Cell:
    return Cell(str(value) if known(value) else UNKNOWN, _plain(value))


def _figure(value: Any, name: str) -> Cell:
    if name in SECONDS or not known(value):
        return time_cell(value)
    return Cell(plain(value), float(value))
