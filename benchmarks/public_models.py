"""Whole models on eight cards, in float32: what ships beside NeuSight, by its own clocks.

    python -m benchmarks.public_models [--rows] [--write docs/cards.md]

``benchmarks/data/public_models.csv``: the labels of NeuSight's forward passes and training steps,
and how far its own predictions were off; ``public_models.md``: how they timed. Kernels are long, so
that the host gets ahead: what is compared is the device's queue. Ends with one line of JSON.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.neusight_models import forward_of, training_of
from benchmarks.published_times import show
from benchmarks.recorded.text import lines, percent
from calib.cards.older.shipped import load_torch
from calib.estimates.fusion import fuse
from calib.estimates.sums import Ends
from calib.estimates.tables import found_in_cache
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.host_costs import host_costs
from model.layer import Call

PUBLISHED = Path(__file__).parent / "data" / "public_models.csv"
INFERENCE, COMPILED, TRAINING = "inference", "compiled", "training"
HELD = {True: "yes", False: "no", None: "-"}
"""None: part of the estimate is the roofline, of which no upper end is known."""


@dataclass(frozen=True)
class Label:
    """A published time [s] of a model on a card. ``neusight``: how far NeuSight's was off, in
    either direction; it predicts the sum of forward and backward."""

    card: str
    model: str
    mode: str
    tokens: int
    batch: int
    forward: float
    backward: float
    neusight: float

    @property
    def calls(self) -> tuple[tuple[Call, ...], ...]:
        """Forward, and of a step what comes behind the loss."""
        what = self.model, self.tokens, self.batch
        if self.mode == TRAINING:
            return training_of(*what)
        calls = forward_of(*what)
        return (calls if self.mode == INFERENCE else tuple(fuse(calls).calls),)


def published(path: Path = PUBLISHED) -> list[Label]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Label(
                *(row["card"], row["model"], row["mode"], int(row["tokens"]), int(row["batch"])),
                *(float(row[f"{of}_ms"] or 0) / 1e3 for of in ("forward", "backward")),
                float(row["neusight_percent"]) / 100,
            )
            for row in csv.DictReader(file)
        ]


def told(labels: Sequence[Label], hardware: Hardware) -> Iterator[pd.DataFrame]:
    """Of each label a row a call: which half of a step it is in, what it is, and seconds: the
    roofline's, the estimate with what lies behind a kernel in a full queue, and both its ends."""
    estimator = load_torch(hardware)
    assert estimator is not None
    gap = host_costs([], hardware.name).stream_gap
    for label in labels:
        parts = [(part, call) for part, calls in enumerate(label.calls) for call in calls]
        ops = [call.op for _, call in parts]
        found = estimator.estimates(ops, "torch", [found_in_cache(op, hardware) for op in ops])
        counts = np.array([call.count for _, call in parts])
        starts = counts * [call.launches for _, call in parts]
        yield pd.DataFrame(
            {
                "part": [part for part, _ in parts],
                "kind": [op.operator for op in ops],
                "dtype": [op.dtype for op in ops],
                "shape": [str(op) for op in ops],
                "provenance": found.known_as,
                "roofline_s": counts * found.floor,
                "estimate_s": counts * found.seconds + starts * gap.estimate_s,
                "low_s": counts * found.low + starts * gap.low_s,
                "high_s": counts * found.high + starts * gap.high_s,
            }
        )


def compared(labels: Sequence[Label]) -> Iterator[dict[str, Any]]:
    """A row a label; the interval is that of a sum, as every report has it."""
    for card in dict.fromkeys(label.card for label in labels):
        some = [label for label in labels if label.card == card]
        for label, table in zip(some, told(some, load_hardware(card)), strict=True):
            total, roofline = (float(table[f"{of}_s"].sum()) for of in ("estimate", "roofline"))
            parts = table.groupby("part").estimate_s.sum().tolist()
            below, above = Ends(table).distances(slice(None))
            seconds = label.forward + label.backward
            inside = -below <= seconds - total <= above if isfinite(above) else None
            yield {
                **{"card": card, "mode": label.mode, "model": label.model},
                **{"tokens": label.tokens, "batch": label.batch},
                **{"published_s": seconds, "estimate_s": total},
                **{"low_s": total - below, "high_s": total + above, "inside": inside},
                "error": total / seconds - 1,
                "forward": parts[0] / label.forward - 1,
                "backward": parts[1] / label.backward - 1 if parts[1:] else None,
                "roofline": roofline / seconds - 1,
                "neusight": label.neusight,
            }


def summary(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    off = {key: [abs(row[key]) for row in rows] for key in ("error", "neusight", "roofline")}
    means = [percent(mean(each), sign=False) for each in off.values()]
    worst = [percent(max(off[key]), sign=False) for key in ("error", "neusight")]
    inside = [row["inside"] for row in rows if row["inside"] is not None]
    held = f"{sum(inside)}/{len(inside)}" if inside else "-"
    better = sum(a < b for a, b in zip(off["error"], off["neusight"], strict=True))
    ends = [(row["high_s"] - row["low_s"]) / 2 / row["estimate_s"] for row in rows]
    known = [end for end in ends if isfinite(end)]
    wide = f"+-{median(known):.0%}" if known else "-"
    return [name, str(len(rows)), *means, *worst, f"{better}/{len(rows)}", held, wide]


def described(rows: Sequence[dict[str, Any]]) -> str:
    """Mean errors by card and mode, and of all that are of one mode."""
    head = ["mean |error|", "rows", "calib", "NeuSight", "roofline", "worst", "NeuSight"]
    shown = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        some = [row for row in rows if row["mode"] == mode]
        for card in dict.fromkeys(row["card"] for row in some):
            shown.append(summary(f"{card} {mode}", [r for r in some if r["card"] == card]))
        shown.append(summary(f"all {mode}", some))
    return lines([*head, "nearer", "held", "wide"], shown)


def each(rows: Sequence[dict[str, Any]]) -> str:
    head = ["a model", "ms", "estimate", "error", "forward", "backward", "held", "NeuSight"]
    shown = [
        [
            f"{r['card']} {r['mode']} {r['model']} {r['batch']} x {r['tokens']}",
            f"{r['published_s'] * 1e3:.4g}",
            f"{r['estimate_s'] * 1e3:.4g}",
            *(percent(r[key]) for key in ("error", "forward", "backward")),
            HELD[r["inside"]],
            percent(r["neusight"], sign=False),
            percent(r["roofline"]),
        ]
        for r in rows
    ]
    return lines([*head, "roofline"], shown)


def main() -> None:
    show("benchmarks.public_models", lambda: list(compared(published())), described, each, "models")


if __name__ == "__main__":
    main()
