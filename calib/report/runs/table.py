"""Runs side by side: what varies between them, what each costs, what a user asks of it.

The rows are read from the runs' own ``report.json``, so a run that was made on another machine, or
yesterday, counts as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.record import known
from calib.report.terminal import Cells
from calib.report.units import BYTES, FLOPS, TIMES, Scale, figure, interval, scaled
from calib.report.write import ReportError

if TYPE_CHECKING:
    import pandas as pd


NAMES = ("hardware", "model", "execution", "implementation", "logits")

NUMBERS = {
    "tokens": "tokens prefilled for a page, image and prompt",
    "batch": "batch",
    "decode_steps": "tokens decoded",
}
"""What may vary between the runs of a sweep: names, and numbers with what they are of."""

COSTS: dict[str, tuple[str, Scale]] = {
    "wall_s": ("time", TIMES),
    "io_bytes": ("bytes moved", BYTES),
    "flops": ("FLOPs", FLOPS),
}
"""What a run costs: column, its name, its units."""

FIGURES = {
    "time_to_first_token": "s",
    "time_per_output_token": "s",
    "time_of_a_pass": "s",
    "pages_per_second": "1/s",
    "images_per_second": "1/s",
    "requests_per_second": "1/s",
}
"""What a user asks of a run, and its unit."""


def varied(table: pd.DataFrame) -> list[str]:
    """The columns that tell the runs of ``runs_table`` apart, names before numbers."""
    # Image modes and prompts show in the tokens, unless two of them make the same number.
    modes = ["workload"] if table.groupby("tokens")["workload"].nunique().max() > 1 else []
    names = (*NAMES, *modes, *NUMBERS)
    return [n for n in names if table[n].nunique(dropna=False) > 1]


def run_cells(table: pd.DataFrame) -> Cells:
    """The runs side by side for the terminal: what tells them apart, and what a user asks."""
    apart = varied(table)
    figures = {n: u for n, u in FIGURES.items() if n in table and table[n].map(known).any()}
    times = ["wall_s"] if table["wall_s"].map(known).any() else ["flops", "io_bytes"]
    headers = ["run", *(n.replace("_", " ") for n in (*apart, *figures))]
    headers += [*(COSTS[n][0] for n in times), "interval", "known by"]
    rows = []
    for row in table.to_dict("records"):
        cells = [str(row["run"]), *(str(row[n]) for n in apart)]
        cells += [figure(row[n], unit) for n, unit in figures.items()]
        cells += [scaled(row[n], COSTS[n][1]) for n in times]
        cells += [interval(row["wall_low_s"], row["wall_high_s"]), str(row["provenance"])]
        rows.append(tuple(cells))
    return Cells(tuple(headers), rows, left=1 + len([n for n in apart if n not in NUMBERS]))


def runs_table(runs: Iterable[Path]) -> pd.DataFrame:
    """One row a run: what was asked, and the costs and figures of the whole workload (SI units).

    ``tokens``: prefilled for one page, image and prompt; ``predicted_s`` is of kernels alone,
    with its interval ``low_s`` to ``high_s``; ``wall_s`` with the host, ``wall_low_s`` to
    ``wall_high_s``. Raises ``ReportError`` for a report that cannot be read.
    """
    import pandas as pd

    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Path) -> dict[str, Any]:
    path = run / "report.json"
    try:
        report = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}): expected a run's report") from None
    asked, whole = report["workload"]["settings"], report["module_metrics"][0]
    costs = ("flops", "io_bytes", "weight_bytes", "activation_bytes", "kv_cache_bytes")
    times = ("roofline_s", "predicted_s", "wall_s", "low_s", "high_s", "measured_s")
    return {
        "run": run.name,
        "model": report["model"]["model_id"],
        "hardware": report["hardware"]["name"],
        "execution": report["execution"],
        "implementation": report["implementation"],
        "workload": asked["name"],
        "side": asked["side"],
        "tiles": None if asked["tiles"] is None else "x".join(map(str, asked["tiles"])),
        **{name: asked[name] for name in ("prompt_tokens", "batch", "decode_steps", "logits")},
        "tokens": report["workload"]["seq_len"],
        **{name: whole[name] for name in costs},
        **{name: _number(whole[name]) for name in times},
        "wall_low_s": _number(report["low_s"]),
        "wall_high_s": _number(report["high_s"]),
        **{f["name"].replace(" ", "_"): _number(f["estimate"]) for f in report["figures"]},
        "provenance": report["provenance"],
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
