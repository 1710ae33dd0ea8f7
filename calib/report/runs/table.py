"""Runs side by side: what varies between them, what each costs, what a user asks of it.

The rows are read from the runs' own ``report.json``, so a run that was made on another machine, or
yesterday, counts as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.units import BYTES, FLOPS, TIMES, Scale
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


DRAWN = ("token", "request")
"""Of what a run says the joules."""


def varied(table: pd.DataFrame) -> list[str]:
    """The columns that tell the runs of ``runs_table`` apart, names before numbers."""
    # Image modes and prompts show in the tokens, unless two of them make the same number.
    modes = ["workload"] if table.groupby("tokens")["workload"].nunique().max() > 1 else []
    # Swept keys that show in no column of ours have their own, named in full.
    own = [key for key in table.attrs.get("swept", ()) if "." in key and key in table]
    own = [key for key in own if key.rpartition(".")[2] not in table]
    names = (*NAMES, *modes, *own, *NUMBERS)
    return [n for n in names if table[n].nunique(dropna=False) > 1]


def runs_table(runs: Iterable[Path]) -> pd.DataFrame:
    """One row a run: what was asked, and the costs and figures of the whole workload (SI units).

    ``tokens``: prefilled for one page, image and prompt; ``predicted_s`` is of kernels alone,
    with its interval ``low_s`` to ``high_s``; ``wall_s`` with the host, ``wall_low_s`` to
    ``wall_high_s``; ``joules``, and of a token and a request ``joules_a_token`` and so on, where
    they are known; ``fits``: whether the device's memory holds ``needed_bytes``. Raises
    ``ReportError`` for a report that cannot be read.
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
        **_figures(report),
        **_joules(report),
        **_memory(report),
        "cards": _cards(report),
        "provenance": report["provenance"],
    }


def _figures(report: dict[str, Any]) -> dict[str, float]:
    """What a user asks, by name; of decoding the tokens a second of all sequences."""
    found = {f["name"].replace(" ", "_"): _number(f["estimate"]) for f in report["figures"]}
    if found.get("time_per_output_token"):
        batch = report["workload"]["settings"]["batch"]
        found["tokens_per_second"] = batch / found["time_per_output_token"]
        found["tokens_per_second_per_card"] = found["tokens_per_second"] / _cards(report)
    return found


def _joules(report: dict[str, Any]) -> dict[str, float]:
    """Of a token and a request, with their ends; nothing where none were counted on the card."""
    use = report.get("energy") or {}
    names = ("joules", *(f"joules{e}_a_{w}" for w in DRAWN for e in ("", "_low", "_high")))
    return {name: float(use[name]) for name in names if use.get(name) is not None}


def _cards(report: dict[str, Any]) -> int:
    """That share the model."""
    asked = report["environment"].get("config", {}).get("parallel") or {}
    return int(asked.get("tp", 1) * asked.get("pp", 1) * asked.get("dp", 1))


def _memory(report: dict[str, Any]) -> dict[str, Any]:
    """Null where the device's memory is not known."""
    memory = report["memory"] or {}
    return {name: memory.get(name) for name in ("fits", "needed_bytes", "largest_batch")}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
