"""The sweep: measure a plan of operators under a budget, in blocks that probes bracket.

Samples are appended to the store block by block, and what the store holds is not measured again:
kill a sweep at any moment and start it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from calib.measure.cases import Arena, Unsupported, build, weight_stream
from calib.measure.clock import StopRule, time_repeats
from calib.measure.probes import Speed, speed
from calib.samples import Sample, SampleStore
from model.ops import Operator

BLOCK_S = 1.5
"""Length of a block [s]: short against the drift of a shared machine, long against two probes."""
_MOST_SAMPLE_S = 0.12
"""A design's operator that should take longer than this [s] is left out: it costs too much."""


@dataclass(frozen=True)
class Point:
    """One entry of a plan."""

    op: Operator
    cache: str
    origin: str


def interleave(models: Sequence[Point], designs: Iterable[Point]) -> Iterator[Point]:
    """A model's own shapes among those of the design, one to two, until the budget ends it."""
    stream = iter(designs)
    for point in models:
        yield point
        yield from (next(stream), next(stream))
    yield from stream


def sweep(
    plan: Iterable[Point],
    store: SampleStore,
    budget_s: float,
    rule: StopRule,
    versions: dict[str, str],
    progress: Callable[[float, str], None] = lambda elapsed, label: None,
    predicted: Callable[[Operator], float] = lambda op: 0.0,
    most: int | None = None,
) -> int:
    """Measure until the plan, the budget [s] or ``most`` points end; how many were measured.

    ``predicted`` gives a rough time [s] by which shapes of the design that are too long to be worth
    their budget are passed over; a model's own shapes never are.
    """
    known = {(s.op, s.implementation, s.cache) for s in store.samples()}
    arena, start, done = Arena(), time.perf_counter(), 0
    block: list[Sample] = []
    before, block_start = speed(), start
    try:
        for point in plan:
            elapsed = time.perf_counter() - start
            if elapsed >= budget_s or (most is not None and done >= most):
                break
            key = (point.op, "torch", point.cache)
            long = point.origin == "design" and predicted(point.op) > _MOST_SAMPLE_S
            if key in known or long:
                continue
            known.add(key)
            progress(elapsed, point.op.operator)
            block.append(measure(point, store, arena, rule, versions))
            done += 1
            if time.perf_counter() - block_start >= BLOCK_S:
                before, block_start = _close(block, store, before), time.perf_counter()
                block = []
    finally:
        if block:
            _close(block, store, before)
    return done


def measure(
    point: Point, store: SampleStore, arena: Arena, rule: StopRule, versions: dict[str, str]
) -> Sample:
    """One sample; a shape that torch cannot run is recorded as such, without seconds."""
    sample = Sample(
        op=point.op,
        seconds=[],
        hardware=store.hardware,
        implementation="torch",
        cache=point.cache,
        origin=point.origin,
        device=store.device,
        threads=torch.get_num_threads(),
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        versions=versions,
    )
    try:
        with torch.no_grad():
            run = build(point.op, arena, point.cache)
            seconds = time_repeats(run, rule, disturb=weight_stream(arena))
    except Unsupported:
        return replace(sample, status="unsupported")
    except (MemoryError, torch.OutOfMemoryError):
        return replace(sample, status="out of memory")
    return replace(sample, seconds=seconds)


def _close(block: Sequence[Sample], store: SampleStore, before: Speed) -> Speed:
    """Probe again, give the block's samples the mean of both probes, and store them."""
    after = speed()
    flops = (before.flops + after.flops) / 2
    bandwidth = (before.bandwidth + after.bandwidth) / 2
    store.append([replace(s, probe_flops=flops, probe_bandwidth=bandwidth) for s in block])
    return after
