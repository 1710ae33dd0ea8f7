"""One decode step of DeepSeek-OCR, eager and replayed as a CUDA graph, at the same context.

    python -m benchmarks.card.graph_decode --out <folder>

The step appends to the cache by making a new, longer one, so a captured step can be replayed: it
reads the cache that it was captured with, which is kept alive here, and writes the same result.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from calib.errors import CalibError
from calib.measure.cuda.launches import Launch
from calib.measure.reference.model import build_reference
from calib.measure.reference.passes import Passes, State, make_inputs, synchronise
from model.workload import Workload

Run = Callable[[], Any]
WORKLOAD = Workload("a page of 1024 pixels", side=1024, decode_steps=8)
REPEATS, PROFILES = 30, 3


def open_passes(
    dimensions: Mapping[str, Any], workload: Workload, device: str
) -> tuple[Passes, State]:
    """The model after the prefill and the workload's decode steps: what a step starts from."""
    reference = build_reference(dimensions, workload, device)
    passes = Passes(reference, workload, make_inputs(reference, workload))
    state = passes.prefill()
    for _ in range(workload.decode_steps):
        state = passes.step(state)
    return passes, state


def measure(
    passes: Passes,
    state: State,
    capture: Callable[[Sequence[Run]], Run],
    profiled: Callable[[Run], Sequence[Launch]],
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Seconds by the host's clock of every repeat, the queue drained before and after each; and
    those that the kernels of one eager step keep the device busy, by the profiler."""
    device = passes.reference.device
    kept = copy.deepcopy(state.cache)
    tensors = [(layer.keys, layer.values) for layer in kept.layers]  # alive while it is replayed

    def eager() -> Callable[[], Any]:
        start = State(copy.deepcopy(state.cache), state.logits)
        return lambda: passes.step(start)

    replay = capture([lambda: passes.step(State(kept, state.logits))])
    seconds = {
        "eager_s": [timed(eager(), device) for _ in range(repeats)],
        "graph_s": [timed(replay, device) for _ in range(repeats)],
    }
    launches = [profiled(eager()) for _ in range(PROFILES)]
    seconds["kernels_s"] = [sum(k.seconds for k in step) for step in launches]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "context": int(tensors[0][0].shape[-2]) + 1,
        "eager_median_s": medians["eager_s"],
        "graph_median_s": medians["graph_s"],
        "kernels_median_s": medians["kernels_s"] or None,
        "kernels": len(launches[-1]),
        "speedup": medians["eager_s"] / medians["graph_s"],
        **seconds,
    }


def timed(run: Run, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.graph_decode")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise CalibError("graph_decode: no CUDA device: expected one, since a CPU has no graphs")
    from calib.measure.cuda.stream import TorchStream

    device = "cuda:0"
    l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    with torch.no_grad():
        passes, state = open_passes({}, WORKLOAD, device)
        stream = TorchStream(device, l2_bytes)
        found = measure(passes, state, stream.capture, stream.profiled)
    (options.out / "graph.json").write_text(json.dumps(found, indent=1), "utf-8")
    print({name: value for name, value in found.items() if not isinstance(value, list)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
