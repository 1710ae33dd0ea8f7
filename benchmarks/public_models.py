"""Whole models on eight cards, in float32: what ships beside NeuSight, by its own clocks.

    python -m benchmarks.public_models [--rows] [--write docs/cards.md]

``benchmarks/data/public_models.csv``: the labels of NeuSight's forward passes and training steps,
and how far its own predictions were off; ``public_models.md``: how they timed. Kernels are long, so
that the host gets ahead (:mod:`benchmarks.published_times`). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.neusight_models import forward_of, training_of
from benchmarks.published_times import Pass, Told, told
from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.hardware.datasheet import load_hardware

PUBLISHED = Path(__file__).parent / "data" / "public_models.csv"
INFERENCE, TRAINING = "inference", "training"
HELD = {True: "yes", False: "no", None: "-"}
"""None: part of the estimate is the roofline, which has no interval."""
MARKS = "<!-- python -m benchmarks.public_models -->", "<!-- end of public models -->"


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
    def passes(self) -> tuple[Pass, ...]:
        """Forward, and of a step what comes behind the loss."""
        of = self.card, self.mode
        said = f"{self.model} {self.batch} x {self.tokens}"
        if self.mode == INFERENCE:
            calls = forward_of(self.model, self.tokens, self.batch)
            return (Pass(*of, said, self.forward, calls, emptied=False),)
        forward, backward = training_of(self.model, self.tokens, self.batch)
        return (
            Pass(*of, said, self.forward, forward, emptied=False),
            Pass(*of, said, self.backward, backward, emptied=False),
        )


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


def compared(labels: Sequence[Label]) -> Iterator[dict[str, Any]]:
    """A row a label. The ends of a step are the sums of those of its two halves."""
    for card in dict.fromkeys(label.card for label in labels):
        some = [label for label in labels if label.card == card]
        found = iter(told([each for label in some for each in label.passes], load_hardware(card)))
        for label in some:
            parts = [next(found) for _ in label.passes]
            whole = Told(*(sum(getattr(p, of) for p in parts) for of in Told.__annotations__))
            seconds = label.forward + label.backward
            yield {
                **{"card": card, "mode": label.mode, "model": label.model},
                **{"tokens": label.tokens, "batch": label.batch},
                **{"published_s": seconds, "estimate_s": whole.seconds},
                "error": whole.seconds / seconds - 1,
                "inside": whole.low <= seconds <= whole.high if isfinite(whole.low) else None,
                "low_s": whole.low,
                "high_s": whole.high,
                "forward": parts[0].seconds / label.forward - 1,
                "backward": parts[-1].seconds / label.backward - 1 if parts[1:] else None,
                "roofline": whole.roofline / seconds - 1,
                "neusight": label.neusight,
            }


def summary(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    off = {key: [abs(row[key]) for row in rows] for key in ("error", "neusight", "roofline")}
    means = [percent(mean(each), sign=False) for each in off.values()]
    worst = [percent(max(off[key]), sign=False) for key in ("error", "neusight")]
    inside = [row["inside"] for row in rows if row["inside"] is not None]
    held = f"{sum(inside)}/{len(inside)}" if inside else "-"
    better = sum(a < b for a, b in zip(off["error"], off["neusight"], strict=True))
    return [name, str(len(rows)), *means, *worst, f"{better}/{len(rows)}", held]


def described(rows: Sequence[dict[str, Any]]) -> str:
    """Mean errors by card and mode, and of all that are of one mode."""
    head = ["mean |error|", "rows", "calib", "NeuSight", "roofline", "worst", "NeuSight"]
    shown = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        some = [row for row in rows if row["mode"] == mode]
        for card in dict.fromkeys(row["card"] for row in some):
            shown.append(summary(f"{card} {mode}", [r for r in some if r["card"] == card]))
        shown.append(summary(f"all {mode}", some))
    return lines([*head, "nearer", "held"], shown)


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_models")
    parser.add_argument("--rows", action="store_true", help="a line a published time")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    rows = list(compared(published()))
    shown = described(rows)
    print(f"{each(rows)}\n\n{shown}" if asked.rows else shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", MARKS)
    print(json.dumps({"models": rows}))


if __name__ == "__main__":
    main()
