"""An RTX 5090 that nobody here has: what the shipped calibration says beside what others published.

    python -m benchmarks.rtx5090 [--write docs/rtx5090.md] [--json figures.json]

Every row of ``benchmarks/data/rtx5090_public.csv`` (figures with their sources) is predicted by the
calibration of ``calib/cards``, which saw no sample of this card. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.rtx5090_text import AFTERWARDS, TEXT
from calib.cards.card import Card
from calib.cards.shipped import load_card
from calib.cards.tables.figures import ENGINE, TORCH
from calib.estimates.tables import operator_table
from calib.estimates.timeline import timeline_table, with_wall
from calib.hardware.datasheet import load_hardware
from calib.samples.host_costs import EAGER, host_costs
from model.deepseek_ocr_vendor import VendorDeepseekOCR
from model.ops import Attention, Copy, Matmul, Norm, Operator, Softmax
from model.workload import Workload

CARD = "rtx5090"
PUBLISHED = Path(__file__).parent / "data" / "rtx5090_public.csv"
KERNELS = PUBLISHED.with_name("deepseek_ocr_decode_kernels.csv")
"""Kernels that Nsight Systems counted while 64 tokens were decoded, and what one token has of each
by our reading: launches of the pass, further ones within a library's operator, and those of the
loop that generates. Figures of CodeGandee/llm-perf-opt,
reports/20251107-dsocr/nsys/per-stage/decode/nsys/summary_cuda_gpu_kern_sum.csv."""
DECODED = 64
PRODUCTS, ATTENTION, REST = "matmul", "attention", "everything else"
COPIED_BYTES = 40_000_000 * 4
"""What NVIDIA's p2pBandwidthLatencyTest copies by default; its figure counts reads and writes."""
UNITS: dict[str, Callable[[Operator, float], float]] = {
    "TFLOP/s": lambda op, value: float(op.flops) / (value * 1e12),
    "GB/s": lambda op, value: float(op.bytes) / (value * 1e9),
    "us": lambda op, value: value * 1e-6,
}
"""Published figure -> seconds."""
STOCK, CAP = "stock power", "400 W cap"
IN_TURNS = "in turns"
ELSEWHERE = (CAP, "600 W limit", "a slower card", "RTX 5090 D", IN_TURNS, "another hand")
"""What is judged apart, by its conditions; all else is taken to run as it was sold."""
OTHERS = ("quack", "flash-attn", "inductor")
"""Implementations that are not torch's own."""
MARK, STRETCH = 0.12, 0.08
"""Median error of the bfloat16 products at stock power: what was promised, and hoped for."""


@dataclass(frozen=True)
class Case:
    """One published figure as an operator. ``hot``: it was timed on the same tensors again and
    again; one that flushes the L2 before each run is cold."""

    group: str
    row: dict[str, str]
    op: Operator
    hot: bool

    @property
    def implementation(self) -> str:
        """torch's libraries, or kernels by others: those are nearer to what an engine runs."""
        others = any(name in self.row["implementation"] for name in OTHERS)
        return ENGINE if others else TORCH

    @property
    def seconds(self) -> float:
        """What the published figure says."""
        return UNITS[self.row["unit"]](self.op, float(self.row["value"]))


def case(row: dict[str, str]) -> Case | None:
    """The operator of a row; ``None`` for a whole model."""
    shape = dict(part.split("=") for part in row["shape"].split(";") if "=" in part)
    sizes = {name: int(value) for name, value in shape.items()}
    kind, dtype = row["kind"], row["dtype"]
    where = next((name for name in ELSEWHERE if name in row["conditions"]), STOCK)
    if kind == "matmul":
        return Case(f"matmul, {dtype}, {where}", row, Matmul(**sizes, dtype=dtype), True)
    if kind == "attention":
        causal = bool(sizes.pop("causal"))
        attention = Attention(**sizes, dtype=dtype, causal=causal)
        kind = "one query" if attention.q_len == 1 else "attention"
        # Inputs lay there twice, and kernels that read one or the other took turns.
        copies = 2 if where == IN_TURNS else 1
        fits = copies * attention.bytes <= load_hardware(CARD).l2_bytes
        return Case(f"{kind}, {dtype}, {where}", row, attention, fits or copies == 1)
    if kind == "rmsnorm":  # one kernel here, with as many bytes as a layernorm of these columns
        return Case("rmsnorm, one kernel", row, Norm(**sizes, kind="layernorm"), False)
    if kind == "softmax":
        return Case("softmax", row, Softmax(**sizes), False)
    if kind == "copy":
        return Case("copy", row, Copy(COPIED_BYTES // 4, dtype="int32"), False)
    return None


def predictions(card: Card) -> pd.DataFrame:
    """One row a published figure of an operator: both times, the interval and the errors."""
    rows = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False).to_dict("records")
    cases = [found for row in rows if (found := case({str(k): str(v) for k, v in row.items()}))]
    table = pd.DataFrame(
        [card.estimate([c.op], c.implementation, hot=[c.hot]).iloc[0] for c in cases]
    ).infer_objects()
    table["group"] = [c.group for c in cases]
    table["shape"] = [c.row["shape"] for c in cases]
    table["by"] = [c.row["implementation"] for c in cases]
    table["figure"] = [f"{c.row['value']} {c.row['unit']}" for c in cases]
    table["published_s"] = [c.seconds for c in cases]
    table["error"] = table["estimate_s"] / table["published_s"] - 1
    table["roofline_error"] = table["floor_s"] / table["published_s"] - 1
    inside = table["published_s"].between(table["low_s"], table["high_s"])
    return table.assign(inside=inside)


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a group: absolute errors of the estimate and of the plain roofline."""
    return [
        {
            "group": group,
            "rows": len(rows),
            "median_error": float(rows["error"].abs().median()),
            "worst_error": float(rows["error"].abs().max()),
            "bias": float(rows["error"].median()),
            "roofline_median_error": float(rows["roofline_error"].abs().median()),
            "inside_interval": float(rows["inside"].mean()),
        }
        for group, rows in table.groupby("group", sort=False)
    ]


def kernels_by_group(operators: pd.DataFrame, passes: int) -> dict[str, dict[str, float]]:
    """Milliseconds of kernels a token, published and estimated."""
    groups = {"mm": PRODUCTS, "bmm": PRODUCTS, "attention": ATTENTION}
    rows = pd.read_csv(KERNELS)
    seen = rows["nanoseconds"].groupby(rows["operator"].map(groups).fillna(REST)).sum()
    kinds = operators["kind"].where(operators["kind"].isin([PRODUCTS, ATTENTION]), REST)
    columns = ["estimate_s", "low_s", "high_s", "roofline_s"]
    found = operators.groupby(kinds)[columns].sum() / passes * 1e3
    found = found.assign(published=seen / DECODED * 1e-6)
    found.loc["all"] = found.sum()
    return {str(name): row.to_dict() for name, row in found.iterrows()}


def kernel_lines(groups: dict[str, dict[str, float]]) -> str:
    lines = ["| kernels | published | estimate (90% interval) | error | roofline |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name, row in groups.items():
        lines.append(
            f"| {name} | {row['published']:.3f} ms | {row['estimate_s']:.3f} ms "
            f"({row['low_s']:.3f} - {row['high_s']:.3f}) "
            f"| {row['estimate_s'] / row['published'] - 1:+.1%} | {row['roofline_s']:.3f} ms |"
        )
    return "\n".join(lines)


def decode_step(card: Card, steps: int = 64) -> dict[str, Any]:
    """Milliseconds a token of DeepSeek-OCR, eager at batch 1, as published and as predicted.

    The published run does not state its prompt: a page of 1024 x 1024 is taken.
    """
    rows = pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)
    published = rows[rows["kind"] == "model"].iloc[0]
    workload = Workload("decode", side=1024, decode_steps=steps)
    phases = VendorDeepseekOCR().phases(workload)
    operators = operator_table(
        {"decode": phases["decode"]},
        card,
        None,
        "torch",
        {"model": "deepseek_ocr_vendor", "workload": workload.name},
    )
    repeats = {"decode": phases["decode"].repeat}
    timed = with_wall(operators, repeats, host_costs([], CARD), EAGER)
    row = timeline_table(timed, repeats).iloc[0]
    names = ("wall_s", "low_s", "high_s", "kernel_s", "graph_s")
    found = {name.replace("_s", "_ms"): float(row[name]) * 1e3 for name in names}
    floor = operators["roofline_s"].sum() / repeats["decode"] * 1e3
    return {
        "published_ms": float(published["value"]),
        **found,
        "roofline_ms": float(floor),
        "kernels_ms": kernels_by_group(operators, repeats["decode"]),
    }


def document(card: Card, table: pd.DataFrame, groups: Sequence[dict[str, Any]]) -> str:
    """``docs/rtx5090.md``."""
    lines = [
        "| published | shape | by | published | estimate (90% interval) | error | roofline |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        low, mid, high = (row[n] * 1e6 for n in ("low_s", "estimate_s", "high_s"))
        lines.append(
            f"| {row['figure']} | {row['group'].split(',')[0]} {row['shape']} | {row['by']} "
            f"| {row['published_s'] * 1e6:,.1f} µs | {mid:,.1f} µs ({low:,.1f} - {high:,.1f}) "
            f"| {row['error']:+.1%} | {row['roofline_error']:+.1%} |"
        )
    by_group = [
        "| rows | n | median error | worst | bias | inside interval | roofline's median |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {g['group']} | {g['rows']} | {g['median_error']:.1%} | {g['worst_error']:.1%} "
            f"| {g['bias']:+.1%} | {g['inside_interval']:.0%} | {g['roofline_median_error']:.1%} |"
            for g in groups
        ),
    ]
    step = decode_step(card)
    names = [f"matmul, bfloat16, {where}" for where in (STOCK, "a slower card")]
    all_four = table["error"][table["group"].isin(names)].abs().median()
    return TEXT.format(
        with_slower=all_four,
        summary=card.about["summary"],
        ratio=card.figures.clock_ratio,
        afterwards=AFTERWARDS,
        where="inside" if step["low_ms"] <= step["published_ms"] <= step["high_ms"] else "outside",
        groups="\n".join(by_group),
        rows="\n".join(lines),
        kernels=kernel_lines(step["kernels_ms"]),
        **step,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="where the document goes")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    card = load_card(load_hardware(CARD))
    assert card is not None, "no calibration of the card ships"
    table = predictions(card)
    groups = summary(table)
    if arguments.write:
        arguments.write.write_text(document(card, table, groups), "utf-8")
    stock = next(g for g in groups if g["group"] == "matmul, bfloat16, stock power")
    figures = {
        "card": CARD,
        "stock_bfloat16_matmul_median_error": stock["median_error"],
        "mark": MARK,
        "stretch": STRETCH,
        "meets_mark": stock["median_error"] <= MARK,
        "all_median_error": statistics.median(np.abs(table["error"])),
        "groups": groups,
        "decode_step": decode_step(card),
    }
    line = json.dumps(figures)
    if arguments.json:
        arguments.json.write_text(line + "\n", "utf-8")
    print(line)


if __name__ == "__main__":
    main()
