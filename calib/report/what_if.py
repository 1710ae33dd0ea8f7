"""What a sweep of runs adds up to: one row a run, and a picture of cost against tokens.

The rows are read from the runs' own ``report.json``, so a run that was made on another machine, or
yesterday, counts as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.record import known
from calib.report.write import ReportError, merge_estimates, renamed_at_the_end

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TABLE, PICTURE = "runs.parquet", "cost.png"
COSTS = {"flops": "FLOPs [FLOP]", "io_bytes": "bytes moved [B]", "wall_s": "time [s]"}
"""What is drawn, each in a panel of its own where it is known."""
SERIES = ("model", "hardware", "execution", "batch", "decode_steps", "logits")
"""What a line of the picture has in common; named where the runs differ in it. Where prompts
differ too, a line is of one image mode, or it would join pages that are not alike."""


def merge_runs(folder: Path, pictures: bool = True) -> list[Path]:
    """All runs below ``folder`` as one: ``estimates.parquet``, ``runs.parquet``, ``cost.png``.

    Returns the paths written. Raises ``ReportError`` where there is no run, or for a file that
    cannot be read or written.
    """
    runs = sorted((f.parent for f in folder.glob("*/estimates.parquet")), key=_in_order)
    written = [merge_estimates(runs, folder / "estimates.parquet")]
    table = runs_table(runs)
    with renamed_at_the_end(folder) as (staging, moved):
        table.to_parquet(staging / TABLE, index=False)
        if pictures:
            cost_picture(table).savefig(staging / PICTURE, dpi=120)
    return written + moved


def _in_order(run: Path) -> tuple[int, str]:
    """10 comes after 9."""
    return (int(run.name) if run.name.isdigit() else -1, run.name)


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


def decade(value: float, more: int = 0) -> float:
    """The power of ten below a positive value, or ``more`` above that one."""
    return float(10.0 ** (math.floor(math.log10(value)) + more))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def cost_picture(table: pd.DataFrame) -> Figure:
    """FLOPs, bytes and time of the workload over the tokens of a page, a line a series of runs."""
    from calib.report.pictures import FAINT, PARTS, canvas, logarithmic

    shown = {c: label for c, label in COSTS.items() if table[c].map(known).all()}
    title = "Cost of the workload against tokens of a page"
    figure, panels = canvas(title, 1.2 + 2.3 * len(shown), (1.0,) * len(shown))
    alike = SERIES if table["prompt_tokens"].nunique() == 1 else ("workload", *SERIES)
    varied = [name for name in alike if table[name].nunique(dropna=False) > 1]
    groups = list(table.groupby(varied, sort=False)) if varied else [((), table)]
    for axes, (cost, label) in zip(panels, shown.items(), strict=True):
        logarithmic(axes)
        axes.set_ylabel(label)
        room = 10 if varied and axes is panels[0] else 1  # for the legend
        axes.set_ylim(decade(table[cost].min()), decade(table[cost].max(), 1) * room)
        axes.grid(color=FAINT, alpha=0.25, lw=0.6)
        axes.tick_params(labelbottom=axes is panels[-1])
        for number, (values, rows) in enumerate(groups):
            line = rows.sort_values("tokens")
            name = ", ".join(f"{k} {v}" for k, v in zip(varied, values, strict=True))
            colour, marker = PARTS[number % len(PARTS)], "os^Dv"[number // len(PARTS) % 5]
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "lw": 1.2}
            axes.plot(line["tokens"], line[cost], label=name, **style)
    panels[-1].set_xlabel("tokens prefilled for a page, image and prompt")
    if varied:
        style = {"loc": "upper left", "fontsize": 8, "framealpha": 0.85, "edgecolor": "none"}
        panels[0].legend(ncols=1 + len(groups) // 6, **style)
    return figure
