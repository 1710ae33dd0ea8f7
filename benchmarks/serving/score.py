"""How far estimates are from measured runs: by engine and model, in all, and the worst."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.runs import contradictions

PUBLISHED = (
    "the leading tool (0.12.0) as it was run before, on 378 of the final fp8 runs: "
    "TPOT median 14.3%, mean 25.7%, TTFT median 40%"
)
OURS, PEER = ("tpot", "ttft"), ("peer_tpot", "peer_ttft")


def errors(rows: pd.DataFrame, tool: tuple[str, str]) -> dict[str, Any]:
    """Median and mean absolute error, and the median signed one."""
    known = rows[rows[tool[0]].notna()]
    found: dict[str, Any] = {"runs": len(known)}
    for name, column in zip(("tpot", "ttft"), tool, strict=True):
        error = known[column] / known[f"{name}_s"] - 1
        found |= {
            f"{name}_median": float(error.abs().median()),
            f"{name}_mean": float(error.abs().mean()),
            f"{name}_bias": float(error.median()),
        }
    return found


def coverage(rows: pd.DataFrame) -> dict[str, float]:
    """Share of times per token within their interval, and its half-width in the median."""
    inside = (rows["tpot_s"] >= rows["low"]) & (rows["tpot_s"] <= rows["high"])
    return {
        "covered": float(inside.mean()),
        "halfwidth": float((rows["high"] / rows["tpot"] - 1).median()),
    }


def widths(rows: pd.DataFrame) -> str:
    """Lines of text: intervals by engine, and of all."""
    groups = [(str(name), some) for name, some in rows.groupby("engine")]
    lines = [f"{'':20}{'runs':>6}{'half-width':>12}{'covered':>9}"]
    for name, some in [*groups, ("all", rows)]:
        of = coverage(some)
        lines.append(f"{name:20}{len(some):6}{of['halfwidth']:12.0%}{of['covered']:9.0%}")
    return "\n".join(lines)


def of_groups(rows: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    return [
        dict(zip(by, key, strict=True)) | summary(some) for key, some in rows.groupby(by, sort=True)
    ]


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """Ours, our intervals, and the peer's on the runs that it answered."""
    found = errors(rows, OURS) | coverage(rows)
    if "peer_tpot" in rows and rows["peer_tpot"].notna().any():
        both = rows[rows["peer_tpot"].notna()]
        found["peer"] = errors(both, PEER)
        found["ours_where_peer"] = errors(both, OURS)
    return found


def worst(rows: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The runs whose times per token are furthest from ours, by the logarithm."""
    misfit = np.abs(np.log(rows["tpot"] / rows["tpot_s"]))
    columns = ["id", "tpot_s", "tpot", "low", "high", "ttft_s", "ttft"]
    order = misfit.sort_values(ascending=False).index[:count]
    return rows.loc[order, columns]


def oddities(rows: pd.DataFrame) -> dict[str, Any]:
    """Rows that contradict each other: alike in all that is said and unlike in time; and rows with
    more requests at a time that are faster for each."""
    twice = contradictions(rows)
    keys = [
        "path",
        "card",
        "engine",
        "products",
        "isl",
        "osl",
        "tp",
        "pp",
        "dp",
        "moe_tp",
        "moe_ep",
    ]
    ordered = rows.sort_values("concurrency")
    before = ordered.groupby(keys)["tpot_s"].shift()
    falls = ordered[ordered["tpot_s"] < 0.9 * before]
    return {
        "alike_yet_15_percent_apart": int(twice["size"].sum()),
        "faster_by_10_percent_with_more_requests": len(falls),
        "of_these": falls["id"].tolist()[:10],
    }


def table(groups: list[dict[str, Any]], by: list[str]) -> str:
    """Lines of text, a group each."""
    head = f"{'':44}{'runs':>6}{'TPOT median':>13}{'mean':>7}{'covered':>9}{'TTFT':>7}"
    lines = [
        head + ("   peer: TPOT median  mean   TTFT" if any("peer" in g for g in groups) else "")
    ]
    for group in groups:
        name = "  ".join(str(group[key]) for key in by)
        line = f"{name:44}{group['runs']:6}{group['tpot_median']:13.1%}{group['tpot_mean']:7.1%}"
        line += f"{group['covered']:9.0%}{group['ttft_median']:7.0%}"
        if "peer" in group:
            peer = group["peer"]
            line += f"{peer['tpot_median']:21.1%}{peer['tpot_mean']:6.0%}{peer['ttft_median']:7.0%}"
        lines.append(line)
    return "\n".join(lines)
