"""What a sweep of runs adds up to: one row a run, and a picture of what they cost.

The rows are read from the runs' own ``report.json``, so a run that was made on another machine, or
yesterday, counts as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.write import ReportError, merge_estimates, renamed_at_the_end

if TYPE_CHECKING:
    import pandas as pd

TABLE, PICTURE = "runs.parquet", "cost.png"


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
            from calib.report.cost_pictures import cost_picture

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
