"""Samples out of traces of torch.profiler: what a card's operators took in somebody's model.

Each operator that launched kernels is one: its sizes, strides and types are in the trace, its time
is that of its kernels. Products of float32 by kernels that say tf32 are such. Left out is what a
trace does not say (of a list of tensors their type, of an index what it holds), what the host's
memory takes part in, kernels of a graph and of a compiler, which name no operator, an operator
that took less than the card's arithmetic or main memory can, and a call of which a kernel has no
length, or still runs when the next of its stream begins: how long it takes alone, nobody knows.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.compare.clock.events import KERNEL, OPERATOR, Recorded, TraceFile, read_events
from calib.compare.clock.identity import check_card
from calib.compare.clock.links import link
from calib.errors import CalibError
from calib.hardware.datasheet import MOST_ABOVE, Hardware, least_seconds, peak
from calib.report.units import counted
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
    ``left_out``: why some are none of the samples."""

    seconds: dict[Operator, list[float]]
    device_s: float
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
        learned = counted(len(found.seconds), "operator")
        said = (
            f"{path.name}: samples of torch on this card are {learned} of the trace, "
            f"{found.share:.0%} of its kernels' time."
        )
        left_out = [f"Left out: {'; '.join(found.left_out)}."] * bool(found.left_out)
        notes += [" ".join([said, *left_out]), *(f"{path.name}: {note}" for note in found.notes)]
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
    _, notes = check_card(trace, hardware)
    links = link(trace.events)
    ran, found = _ran(links.device), Learned({}, sum(e.length_ns for e in links.device) / 1e9)
    untimed = 0
    for op, kernels in _timed(links.host, ran):
        untimed += kernels.untimed
        if not kernels.untimed:
            found.seconds.setdefault(op, []).append(kernels.length_ns / 1e9)
    learned, too_fast = _possible(found.seconds, hardware)
    reasons = {
        f"{counted(untimed, 'call')} with a kernel of length 0, or over which the next one of its "
        "stream begins": untimed,
        f"{counted(too_fast, 'operator')} in less time than this card can": too_fast,
    }
    left_out = tuple(reason for reason, count in reasons.items() if count)
    if not learned:
        beside = f" ({'; '.join(left_out)})" if left_out else ""
        raise CalibError(
            f"{trace.named}: none of its operators can be a sample{beside}: expected one that was "
            "recorded with record_shapes=True, of a model that runs eagerly"
        )
    return replace(found, seconds=learned, left_out=left_out, notes=tuple(notes))


@dataclass
class _Kernels:
    """What ran for one operator; ``apart``: something that is none of the card's alone;
    ``untimed``: the trace does not hold how long all of it took."""

    length_ns: int = 0
    apart: bool = False
    tf32: bool = False
    untimed: bool = False

    def add(self, other: _Kernels) -> None:
        self.length_ns += other.length_ns
        self.apart |= other.apart
        self.tf32 |= other.tf32
        self.untimed |= other.untimed


_COPY, _ON_CARD = "gpu_memcpy", "DtoD"


def _ran(device: Iterable[Recorded]) -> dict[int, _Kernels]:
    found: dict[int, _Kernels] = {}
    for event in device:
        with_host = event.category == _COPY and _ON_CARD not in event.label
        untimed = event.cut or (event.category == KERNEL and not event.length_ns)
        one = _Kernels(event.length_ns, with_host, "tf32" in event.label, untimed)
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


def _timed(
    host: Sequence[Recorded], ran: dict[int, _Kernels]
) -> Iterator[tuple[Operator, _Kernels]]:
    """Operators with their kernels, as calls: a norm that was written out is one."""
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
                yield _multiplied(calls[0].op, kernels), kernels


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
    yield from ((row, kernels) for row, kernels in taken if kernels.length_ns or kernels.untimed)


def _called(event: Recorded) -> Any:
    from calib.trace.profiled.called import Called

    parts = (event.dims, event.types, event.strides, event.inputs)
    return Called(event.label, *(_frozen(part) for part in parts))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
