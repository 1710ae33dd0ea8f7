"""Samples out of traces of torch.profiler: what a card's operators took in somebody's model.

Each operator that launched kernels is one: its sizes, strides and types are in the trace, its time
is that of its kernels. What a trace does not say is left out: of a list of tensors their type, of
an index what it holds. Kernels of a replayed graph name no operator, compiled ones are of nobody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.compare.clock.events import OPERATOR, Recorded, read_events
from calib.compare.clock.identity import check_card
from calib.compare.clock.links import link
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
from calib.samples.sample import COLD, HOT, TRACE, Sample
from calib.steps.target import Target
from model.ops import Operator

if TYPE_CHECKING:
    from calib.trace.rules.rows import Row

KEY = "samples.traces"
TORCH = "torch"


@dataclass(frozen=True)
class Learned:
    """``seconds``: operator -> its kernels' time, a call each; ``device_s``: of all that ran."""

    seconds: dict[Operator, list[float]]
    device_s: float

    @property
    def share(self) -> float:
        """Of the time of all kernels, what belongs to an operator that was understood."""
        known = sum(sum(times) for times in self.seconds.values())
        return known / self.device_s if self.device_s else 0.0


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
    ran: dict[int, int] = {}
    for event in links.device:
        ran[event.number] = ran.get(event.number, 0) + event.length_ns
    found: dict[Operator, list[float]] = {}
    for op, taken in _timed(links.host, ran):
        found.setdefault(op, []).append(taken)
    learned = Learned(found, sum(ran.values()) / 1e9)
    if not found:
        raise CalibError(
            f"{trace.named}: none of its operators is understood: expected one that was recorded "
            "with record_shapes=True, of a model that runs eagerly"
        )
    return learned


def _timed(host: Sequence[Recorded], ran: dict[int, int]) -> Iterator[tuple[Operator, float]]:
    """Operators with the time of their kernels, as calls: a norm that was written out is one."""
    from calib.trace.rules.table import calls_of, spans

    called = list(_understood(host, ran))
    rows = [row for row, _ in called]
    for first, end in spans(rows):
        calls = [call for call in calls_of(rows[first:end]) if call.launches]
        taken = sum(length for _, length in called[first:end]) / 1e9
        if taken > 0 and len(calls) == 1 and calls[0].count == 1:
            yield calls[0].op, taken


def _understood(host: Sequence[Recorded], ran: dict[int, int]) -> Iterator[tuple[Row, int]]:
    """What the dispatcher saw, in order, and the nanoseconds of the kernels of each: the outermost
    operators that are not made of others, with all that ran within them."""
    from calib.trace.profiled.called import rows_of

    open_until: dict[Any, int] = {}
    taken: list[list[Any]] = []
    last: dict[Any, list[Any]] = {}
    for event in host:
        if event.category != OPERATOR:
            continue
        if event.begin_ns < open_until.get(event.thread, -1):
            last[event.thread][1] += ran.get(event.number, 0)
            continue
        rows = rows_of(_called(event))
        if len(rows) == 1:
            open_until[event.thread] = event.end_ns
            last[event.thread] = [rows[0], ran.get(event.number, 0)]
            taken.append(last[event.thread])
    yield from ((row, length) for row, length in taken if length)


def _called(event: Recorded) -> Any:
    from calib.trace.profiled.called import Called

    parts = (event.dims, event.types, event.strides, event.inputs)
    return Called(event.label, *(_frozen(part) for part in parts))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
