"""What a flush by writing adds to the operator behind it, from samples that carry the fault.

    python -m benchmarks.dirty_flush --samples benchmarks/data/h200/pool.parquet

A product of one to a few rows reads its weights once and does little else, so its time is that of
its bytes. Of two such products of about the same bytes, cold, one just long enough to be timed by
events and one just short enough for a graph, the first has the write-back in it and the second
does not: a graph's flush goes before twenty copies. The fit is seconds = bytes / rate + c by
method, over the products between 30 and 70 MB, by least squares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from calib.samples.files import read_samples
from calib.samples.sample import COLD, Sample
from model.ops import Matmul

LEAST_BYTES, MOST_BYTES = 30e6, 70e6
MOST_ROWS = 16
"""Products of more rows are bound by more than bytes."""


def extra_seconds(samples: Iterable[Sample]) -> tuple[float, float, int]:
    """c(events) - c(graph) [s], its standard error [s], and how many samples it is of."""
    chosen = [s for s in samples if _reads_only(s)]
    by_events = np.array([s.method == "events" for s in chosen], dtype=float)
    nbytes = np.array([float(s.op.bytes) for s in chosen])
    columns = np.stack([nbytes / MOST_BYTES, np.ones(len(chosen)), by_events], axis=1)  # [n, 3]
    seconds = np.array([s.median for s in chosen])
    found, *_ = np.linalg.lstsq(columns, seconds, rcond=None)
    left = seconds - columns @ found
    variance = left @ left / max(len(chosen) - 3, 1) * np.linalg.pinv(columns.T @ columns)[2, 2]
    return float(found[2]), float(np.sqrt(variance)), len(chosen)


def _reads_only(sample: Sample) -> bool:
    op = sample.op
    return (
        isinstance(op, Matmul)
        and sample.status == "ok"
        and (sample.implementation, sample.cache) == ("torch", COLD)
        and min(op.m, op.n) <= MOST_ROWS
        and LEAST_BYTES <= float(op.bytes) <= MOST_BYTES
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dirty_flush")
    parser.add_argument("--samples", type=Path, nargs="+", required=True)
    options = parser.parse_args(arguments)
    samples = [s for path in options.samples for s in read_samples(path)]
    extra, error, count = extra_seconds(samples)
    sys.stdout.write(f"{1e6 * extra:.1f} +- {1e6 * error:.1f} us, from {count} products\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
