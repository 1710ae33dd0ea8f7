"""What a flush by writing adds to the operator behind it, from samples that carry the fault.

    python -m benchmarks.dirty_flush --samples benchmarks/data/h200/{pool,sweep}.parquet

Plain products whose time is that of their bytes were timed both ways, short ones by a graph, whose
flush goes before twenty copies, long ones by events:

    seconds = c + bytes / B + s [by events]

fitted by least squares to relative errors, Huber's weights against what is no such product. These
are the figures of ``calib.samples.faults.BY_EVENTS_ON``. A record whose flush leaves nothing dirty
gives an s of what two marks hold around a kernel.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from calib.errors import CalibError
from calib.hardware.datasheet import Hardware, floor, load_hardware, peak
from calib.samples.faults import ByEvents
from calib.samples.files import read_samples
from calib.samples.sample import Sample
from model.ops import Matmul

BY_MEMORY = 0.25
"""A product is bound by memory where its arithmetic takes at most this share of its bytes' time."""
FEWEST = 8
"""Products of either way that are needed."""
HUBER = 1.345


def by_events(samples: Iterable[Sample], hardware: Hardware) -> ByEvents | None:
    """By the formula above, s at least 0, marks left out; None where there are too few products."""
    products = [s for s in samples if is_memory_product(s, hardware)]
    events = np.array([s.method == "events" for s in products], dtype=float)
    if min(events.sum(), len(events) - events.sum()) < FEWEST:
        return None
    seconds = np.array([s.median for s in products])
    moved = np.array([float(s.op.bytes) for s in products])
    a = np.stack([np.ones(len(seconds)), moved / hardware.bandwidth, events]).T / seconds[:, None]
    weights = np.ones(len(seconds))
    for _ in range(20):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(a * root[:, None], root, rcond=None)[0]
        off = np.abs(1 - a @ found)
        weights = 1 / np.maximum(off / (HUBER * 1.4826 * np.median(off) + 1e-12), 1.0)
    start, share, surcharge = (float(number) for number in found)
    return ByEvents(0.0, max(surcharge, 0.0), max(start, 0.0), hardware.bandwidth / share)


def is_memory_product(sample: Sample, hardware: Hardware) -> bool:
    op = sample.op
    if sample.status != "ok" or sample.cache != "cold" or not isinstance(op, Matmul):
        return False
    if sample.implementation != "torch" or sample.method not in ("events", "graph"):
        return False
    if op.dtype not in hardware.peak_flops:
        return False
    computes = float(op.min_flops) / peak(op, hardware)
    return computes <= BY_MEMORY * float(floor(op, hardware))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dirty_flush")
    parser.add_argument("--samples", type=Path, nargs="+", required=True)
    options = parser.parse_args(arguments)
    try:
        samples = [s for path in options.samples for s in read_samples(path)]
    except (CalibError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if not samples:
        sys.stderr.write(f"error: no samples in {', '.join(map(str, options.samples))}\n")
        return 2
    found = by_events(samples, load_hardware(samples[0].hardware))
    if found is None:
        sys.stderr.write(f"fewer than {FEWEST} products by events, or by a graph\n")
        return 1
    sys.stdout.write(
        f"s {found.surcharge_s * 1e6:.2f} us, c {found.start_s * 1e6:.2f} us, "
        f"B {found.bandwidth / 1e12:.3f} TB/s\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
