"""Whether the ways to time a kernel agree on this card: events, a graph, and the profiler.

    python -m benchmarks.card.agree --out <folder>

Six shapes that read their weights from main memory and take 10 to 60 microseconds, each cold and by
all three. Events and graph are to agree within 3%; a flush that leaves the L2 dirty, or a gap
that is left in a sample, shows here at once. Six short ones, hot, show what a node of a graph costs
besides. Beside them what the timer found around a kernel, and what a launch costs the host before
the first session of the profiler and after the last.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.measure.clock import StopRule
from model import ops
from model.ops import Operator

if TYPE_CHECKING:
    from calib.measure.cuda.instrument import CudaInstrument

SHAPES: tuple[Operator, ...] = (
    ops.Matmul(1, 2048, 4096),
    ops.Matmul(1, 4096, 6144),
    ops.Matmul(3, 12800, 1728),
    ops.Matmul(1, 8192, 8192),
    ops.Elementwise(2**23),
    ops.Elementwise(2**25),
)
"""Two end as a graph in a sweep, two by events, and one on either side of the switch."""
SHORT: tuple[Operator, ...] = (
    ops.Elementwise(2**12),
    ops.Elementwise(2**18, inputs=2),
    ops.Copy(2**13, dtype="float32", out_dtype="bfloat16"),
    ops.Norm(1, 4096, "layernorm"),
    ops.Softmax(16, 1024),
    ops.Matmul(1, 1024, 1024),
)
"""Hot, of one to three microseconds: what is taken off for a node shows here, and nowhere else."""
WITHIN = 0.03
RULE = StopRule(0.005, 0.3, 20, 200)
COPIES = 40


def compared(instrument: CudaInstrument, shapes: Sequence[Operator] = SHAPES) -> dict[str, Any]:
    """Seconds of every shape by every method, the largest ratio less one, and what lies around."""
    from calib.measure.cuda.costs import host_seconds

    stream = instrument.stream
    before = host_seconds(stream, stream.link)
    instrument.warm_up()
    rows = [*by_all(instrument, shapes, True), *by_all(instrument, SHORT, False)]
    worst = max(abs(row["graph_over_events"]) for row in rows if row["cache"] == "cold")
    timer = instrument.timer
    around = timer.around
    return {
        "agree": worst <= WITHIN,
        "worst": worst,
        "fixed_events_s": around.events.fixed_s,
        "gap_stream_s": around.events.gap_s,
        "fixed_graph_s": around.graph.fixed_s,
        "gap_node_s": around.graph.gap_s,
        "profiled": around.profiled,
        "launch_before_s": before,
        "launch_after_s": host_seconds(stream, stream.link),
        "shapes": rows,
    }


def by_all(
    instrument: CudaInstrument, shapes: Sequence[Operator], cold: bool
) -> Iterator[dict[str, Any]]:
    """A row a shape: its seconds by each way."""
    from calib.measure.cuda.kernels import Job, busy_seconds, witness
    from calib.measure.cuda.timer import timed_as_graph

    timer = instrument.timer
    runs = [instrument.bench.cases(op, "torch", 1)[0] for op in shapes]
    seen = witness(instrument.stream, [Job(run, cold) for run in runs]) or [()] * len(runs)
    for op, run, calls in zip(shapes, runs, seen, strict=True):

        def make(copies: int, op: Operator = op) -> Any:
            return instrument.bench.cases(op, "torch", copies)

        found = {
            "events_s": timer.timed(run, cold, RULE).seconds,
            "graph_s": timed_as_graph(timer, make, run, COPIES, cold, RULE).seconds,
            "profiler_s": busy_seconds(calls),
        }
        medians = {name: statistics.median(s) if s else None for name, s in found.items()}
        ratio = (medians["graph_s"] or 0.0) / (medians["events_s"] or 1.0) - 1
        cache = "cold" if cold else "hot"
        yield {"shape": str(op), "cache": cache, **medians, "graph_over_events": ratio}


def main(arguments: list[str] | None = None) -> int:
    import torch

    from calib.hardware.device import detect_device, device_hardware
    from calib.measure.cuda.instrument import open_cuda

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.agree")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    device = detect_device()
    if device is None or not torch.cuda.is_available():
        raise CalibError("agree: no CUDA device: expected one, since a CPU has no events")
    with torch.no_grad():
        found = compared(open_cuda(device_hardware(device)))
    (options.out / "agree.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps(found, indent=1))
    return 0 if found["agree"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
