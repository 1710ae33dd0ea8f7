"""What an operator of each class costs the host over a pointwise one, by recorded traces: the
ratios of ``conf/host_costs.yaml``.

    python -m benchmarks.host_classes

``benchmarks/data/h200/traces`` holds the three phases of DeepSeek-OCR under ``torch.profiler``. Of
each outermost operator that launches a kernel the time on the host is taken; what recording costs
is in it, so a class whose operators call others (a product, attention) is rather too dear than too
cheap. Below them, what follows for a launch of whole models on the second host, by
``first_run/models/models.json``.
"""

from __future__ import annotations

import bisect
import gzip
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.samples.host_costs import (
    ATTENTION,
    CONVOLUTION,
    MOVE,
    NORM,
    POINTWISE,
    PRODUCT,
    host_class,
    ratios,
)

H200 = Path(__file__).parent / "data" / "h200"
PHASES = ("vision", "prefill", "decode")
CLASS_OF = {
    **dict.fromkeys(("mul", "add", "neg", "silu", "sigmoid", "gelu", "rsqrt"), POINTWISE),
    **dict.fromkeys(("to", "cat", "contiguous", "index", "index_put_"), MOVE),
    **dict.fromkeys(("mean", "sum", "softmax", "topk"), MOVE),
    **dict.fromkeys(("linear", "_grouped_mm"), PRODUCT),
    "layer_norm": NORM,
    "scaled_dot_product_attention": ATTENTION,
    "conv2d": CONVOLUTION,
}
"""Outermost operators of the traces that stand for a class; others are rare or chains."""


@dataclass(frozen=True)
class Outer:
    """An outermost operator of a trace: seconds on the host, kernels (and copies) launched."""

    name: str
    seconds: float
    launches: int


def outermost(phase: str) -> Iterator[Outer]:
    """In order of execution."""
    path = H200 / "traces" / f"ocr_base_{phase}.json.gz"
    recorded = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    events = [e for e in recorded if e.get("ph") == "X"]
    starts = sorted(e["ts"] for e in events if launches(e))
    end = float("-inf")
    called = (e for e in events if e["cat"] == "cpu_op")
    for e in sorted(called, key=lambda e: (e["ts"], -e["dur"])):
        if e["ts"] < end:
            continue
        end = e["ts"] + e["dur"]
        count = bisect.bisect_left(starts, end) - bisect.bisect_left(starts, e["ts"])
        yield Outer(e["name"].removeprefix("aten::"), e["dur"] / 1e6, count)


def launches(event: dict[str, Any]) -> bool:
    driver = event.get("cat") in ("cuda_runtime", "cuda_driver")
    return driver and any(word in event["name"] for word in ("Launch", "Memset", "Memcpy"))


def by_class(phases: Sequence[str] = PHASES) -> dict[str, list[float]]:
    """Seconds of the host, operator by operator."""
    found: dict[str, list[float]] = {}
    for phase in phases:
        for op in outermost(phase):
            if op.launches and op.name in CLASS_OF:
                found.setdefault(CLASS_OF[op.name], []).append(op.seconds)
    return found


def models() -> Iterator[tuple[str, int, float, float]]:
    """Name, launches, seconds of the host a launch, and that over the mean launch of a decode step
    as the ratios have it."""
    import pandas as pd

    for row in json.loads((H200 / "first_run" / "models" / "models.json").read_text("utf-8")):
        name = f"{row['model']}.{row['workload']}.{row['phase']}"
        table = pd.read_parquet(H200 / "first_run" / "models" / f"{name}.parquet")
        mean = statistics.fmean(ratios().over_mean(host_class(kind)) for kind in table["kind"])
        yield name, len(table), statistics.median(row["host"]) / len(table), mean


def main() -> None:
    found = by_class()
    one = statistics.median(found[POINTWISE])
    print("| class | operators | median, microseconds | over a pointwise one |")
    print("|---|---:|---:|---:|")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {len(seconds)} | {middle * 1e6:.1f} | {middle / one:.2f} |")
    print("\n| second host | launches | us a launch | over a decode step's mean | quotient |")
    print("|---|---:|---:|---:|---:|")
    for name, count, seconds, mean in models():
        us = seconds * 1e6
        print(f"| {name} | {count} | {us:.1f} | {mean:.2f} | {us / mean:.1f} |")


if __name__ == "__main__":
    main()
