"""Samples out of traces of torch.profiler: what a card's operators took in somebody's model.

Each operator that launched kernels is one: its sizes, strides and types are in the trace, its time
is that of its kernels. Products of float32 by kernels that say tf32 are such. Left out is what a
trace does not say (of a list of tensors their type, of an index what it holds), what the host's
memory takes part in, kernels of a graph and of a compiler, which name no operator, and an operator
that took less than the card's arithmetic or main memory can.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.compare.clock.events import OPERATOR, Recorded, TraceFile, read_events
from calib.compare.clock.identity import check_card
from calib.compare.clock.links import link
from calib.errors import CalibError
from calib.hardware.datasheet import MOST_ABOVE, Hardware, least_seconds, peak
from calib.samples.sample import COLD, HOT, TRACE, Sample
from calib.steps.target import Target
from model.ops import Matmul, Operator

if TYPE_CHECKING:
    from calib.trace.rules.rows import Row

KEY = "samples.traces"
TORCH = "torch"


@dataclass(frozen=True)
class Learned:
    """``seconds``: operator -> its kernels' time, a call each; ``device_s``: of all that ran;
    ``too_fast``: operators that were left out for it."""

    seconds: dict[Operator, list[float]]
    device_s: float
    too_fast: int = 0

    @property
    def share(self) -> float:
        """Of the time of all kernels, what belongs to an operator that was understood."""
        known = sum(sum(times) for times in self.seconds.values())
        return known / self.device_s if self.device_s else 0.0


def recorded(measured: Path | None, traces: Iterable[Path]) -> list[TraceFile]:
    """The traces that a run is asked for. Raises ``CalibError`` for a file that is none."""
    named = [("measured", measured), *((KEY, path) for path in traces)]
    return [read_events(path, key) for key, path in named if path]


def with_traces(target: Target, paths: Sequence[Path]) -> Target:
    """``target`` with the samples of traces that were recorded on such a card.

    Raises ``CalibError`` for a CPU, whose operators have no kernels; for a file that is no trace;
    for one of another card; and for one of which no operator is understood.
    """
    if not paths:
        return target
    if not target.on_card:
        raise CalibError(
            f"{KEY} = {str(paths[0])!r} with +hw=cpu: expected a card, whose kernels a "
            "trace times; a CPU is measured here"
        )
    samples, notes = list(target.samples), list(target.notes)
    for path in paths:
        found = read_samples_of(path, target.hardware)
        samples += samples_of(found, target.hardware, path)
        notes.append(
            f"{path.name}: {len(found.seconds)} operators of the trace, {found.share:.0%} of its "
            "kernels' time, are samples of torch on this card."
            + (
                f" {found.too_fast} took less than this card can, and are none."
                * (found.too_fast > 0)
            )
        )
    return replace(target, samples=samples, notes=tuple(notes))


def samples_of(found: Learned, hardware: Hardware, path: Path) -> Iterator[Sample]:
    from calib.estimates.tables import found_in_cache

    for op, seconds in found.seconds.items():
        yield Sample(
            op,
            seconds,
            hardware.name,
            TORCH,
            cache=HOT if found_in_cache(op, hardware) else COLD,
            origin=TRACE,
            device=path.name,
            method="profiler",
        )


def read_samples_of(path: Path, hardware: Hardware) -> Learned:
    trace = read_events(path, KEY)
    check_card(trace, hardware)
    links = link(trace.events)
    ran, found = _ran(links.device), Learned({}, sum(e.length_ns for e in links.device) / 1e9)
    for op, taken in _timed(links.host, ran):
        found.seconds.setdefault(op, []).append(taken)
    learned, too_fast = _possible(found.seconds, hardware)
    if not learned:
        raise CalibError(
            f"{trace.named}: none of its operators is understood: expected one that was recorded "
            "with record_shapes=True, of a model that runs eagerly"
        )
    return replace(found, seconds=learned, too_fast=too_fast)


@dataclass
class _Kernels:
    """What ran for one operator; ``apart``: something that is none of the card's alone."""

    length_ns: int = 0
    apart: bool = False
    tf32: bool = False

    def add(self, other: _Kernels) -> None:
        self.length_ns += other.length_ns
        self.apart |= other.apart
        self.tf32 |= other.tf32


_COPY, _ON_CARD = "gpu_memcpy", "DtoD"


def _ran(device: Iterable[Recorded]) -> dict[int, _Kernels]:
    found: dict[int, _Kernels] = {}
    for event in device:
        with_host = event.category == _COPY and _ON_CARD not in event.label
        one = _Kernels(event.length_ns, with_host, "tf32" in event.label)
        found.setdefault(event.number, _Kernels()).add(one)
    return found


def _possible(
    found: dict[Operator, list[float]], hardware: Hardware
) -> tuple[dict[Operator, list[float]], int]:
    """Without operators whose median is below what the card's arithmetic or memory takes; how many
    these were."""

    def least(op: Operator) -> float:
        work = float(np.max(np.asarray(op.min_flops))) / peak(op, hardware)
        return max(work / MOST_ABOVE, float(np.max(least_seconds(op, hardware))))

    kept = {op: taken for op, taken in found.items() if statistics.median(taken) >= least(op)}
    return kept, len(found) - len(kept)


def _timed(host: Sequence[Recorded], ran: dict[int, _Kernels]) -> Iterator[tuple[Operator, float]]:
    """Operators with the time of their kernels, as calls: a norm that was written out is one."""
    from calib.trace.rules.table import calls_of, spans

    for thread in dict.fromkeys(e.thread for e in host):
        called = list(_understood([e for e in host if e.thread == thread], ran))
        rows = [row for row, _ in called]
        for first, end in spans(rows):
            calls = [call for call in calls_of(rows[first:end]) if call.launches]
            kernels = _Kernels()
            for _, some in called[first:end]:
                kernels.add(some)
            if not kernels.apart and len(calls) == 1 and calls[0].count == 1:
                yield _multiplied(calls[0].op, kernels), kernels.length_ns / 1e9


def _multiplied(op: Operator, kernels: _Kernels) -> Operator:
    is_narrowed = kernels.tf32 and isinstance(op, Matmul) and op.dtype == "float32"
    return replace(op, **{"dtype": "tf32"}) if is_narrowed else op


def _understood(
    host: Sequence[Recorded], ran: dict[int, _Kernels]
) -> Iterator[tuple[Row, _Kernels]]:
    """What the dispatcher saw on one thread, in order, and what ran for each: the outermost
    operators that are not made of others, with all that ran within them."""
    from calib.trace.profiled.called import rows_of

    until = -1
    taken: list[tuple[Row, _Kernels]] = []
    for event in host:
        if event.category != OPERATOR:
            continue
        kernels = ran.get(event.number, _Kernels())
        if event.begin_ns < until:
            taken[-1][1].add(kernels)
            continue
        rows = rows_of(_called(event))
        if len(rows) == 1:
            until = event.end_ns
            taken.append((rows[0], replace(kernels)))
    yield from ((row, kernels) for row, kernels in taken if kernels.length_ns)


def _called(event: Recorded) -> Any:
    from calib.trace.profiled.called import Called

    parts = (event.dims, event.types, event.strides, event.inputs)
    return Called(event.label, *(_frozen(part) for part in parts))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
