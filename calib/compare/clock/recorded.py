"""A trace that ``torch.profiler`` exported, read as a measurement of the model.

    with profile(activities=[CPU, CUDA], record_shapes=True) as profiler:
        with record_function("prefill"):
            model(...)
        with record_function("decode"):  # once for each step
            model(...)
    profiler.export_chrome_trace("trace.json")

Modules are ranges named by their path (``record_function``, or ours), or the profiler's own
``nn.Module`` events: those carry a class and a number, so they are matched to our modules by their
order and class, the longest common subsequence of both. They come with Python's frames
(``with_stack=True``), whose recording slows the host down several times: of such a trace only what
the device did, and operators themselves, count as measured. Operators are found as in
:mod:`calib.measure.reference.operators`; on a card an operator's time is that of its kernels, and
so is a module's. What recording costs is in all of these times, and is not deducted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from calib.compare.clock.align import align
from calib.compare.clock.events import NN_MODULE, OPERATOR, RANGE, Recorded, TraceFile, read_events
from calib.compare.clock.identity import check_card
from calib.compare.clock.links import link
from calib.compare.clock.passes import Pass, Passes, how_found, phase_ranges
from calib.hardware.datasheet import Hardware
from calib.measure.reference.measurement import Measurement
from calib.measure.reference.operators import MARK, Profile, operators_of
from calib.measure.reference.tables import MODULE_COLUMNS, operator_table
from calib.report.units import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recording:
    """``device_s``: phase -> all that the device did in it [s], None where no device was recorded.
    ``backward``: phase -> nodes of a gradient that ran in its passes. ``stacked``: the host's times
    are no measurement. ``named``: phases of which the trace names modules. ``card``: as the trace
    calls it."""

    measurement: Measurement
    device_s: dict[str, float] | None
    backward: dict[str, int]
    stacked: bool
    named: frozenset[str]
    card: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Phase:
    """What the passes of one phase hold; ``modules``: path -> seconds of each pass; ``missed``:
    modules that are none of ours; ``torn``: those of ours that not every pass has."""

    profiles: list[Profile] = field(default_factory=list)
    modules: dict[str, list[float]] = field(default_factory=dict)
    device_s: list[float] = field(default_factory=list)
    backward: int = 0
    missed: int = 0
    torn: int = 0


def read_trace(
    path: str | Path,
    modules: pd.DataFrame,
    repeat: Mapping[str, int],
    workload: Mapping[str, Any],
    hardware: Hardware,
    step: str | None = None,
) -> Recording:
    """The trace at ``path`` (JSON, or that in gzip) as a measurement of ``modules``.

    ``modules``: phase, path, mirrors, in order of execution; ``repeat``: passes of each phase;
    ``hardware``: what it is to be recorded on; ``step``: the phase that ``ProfilerStep#n`` are of.
    Raises ``CalibError`` for a file that is no trace, or one of another device, without operators
    or phases.
    """
    trace = read_events(path)
    card, notes = check_card(trace, hardware)
    links = link(trace.events)
    ranges = phase_ranges(trace, links.host, list(repeat), step)
    passes, on_device = Passes(links), any(e.on_device for e in trace.events)
    phases = {}
    for phase, spans in ranges.items():
        known = Modules(modules[modules["phase"] == phase])
        phases[phase] = _phase([passes.of(span) for span in spans], known, on_device)
    file = Path(path).name
    notes = [*notes, *how_found(ranges), *links.notes, *_missed(phases)]
    measurement, unlike = _measurement(trace, phases, repeat, workload)
    device_s = {p: median(f.device_s) * repeat[p] for p, f in phases.items()}
    return Recording(
        measurement=measurement,
        device_s=device_s if on_device else None,
        backward={phase: found.backward for phase, found in phases.items() if found.backward},
        stacked=trace.stacked,
        named=frozenset(phase for phase, found in phases.items() if found.modules),
        card=card,
        notes=tuple(f"{file}: {note}" for note in [*notes, *unlike]),
    )


def _phase(passes: Sequence[Pass], known: Modules, on_device: bool) -> _Phase:
    found = _Phase()
    for one in passes:
        marked, found.missed = known.mark(one.host)
        operators = {e.number for e in marked if e.category == OPERATOR}
        ran = [e for e in one.device if e.number in operators]
        root = replace(one.span, label=MARK, category=RANGE)
        listed = tuple(operators_of([root, *marked, *ran], on_device))
        found.profiles.append(Profile(one.seconds, len(marked) + len(ran), listed))
        for place, taken in inclusive(marked, ran if on_device else None).items():
            found.modules.setdefault(place, []).append(taken)
        found.device_s.append(sum(e.length_ns for e in one.device) / 1e9)
        found.backward += one.backward
    whole = {place: s for place, s in found.modules.items() if len(s) == len(passes)}
    found.torn, found.modules = len(found.modules) - len(whole), whole
    return found


def _missed(phases: Mapping[str, _Phase]) -> list[str]:
    torn = [
        f"Left out: {counted(found.torn, 'module')} that ran in some passes of {phase} only."
        for phase, found in phases.items()
        if found.torn
    ]
    return torn + [
        f"{counted(found.missed, 'module')} of a pass of {phase} found no counterpart."
        for phase, found in phases.items()
        if found.missed
    ]


def _measurement(
    trace: TraceFile,
    phases: Mapping[str, _Phase],
    repeat: Mapping[str, int],
    workload: Mapping[str, Any],
) -> tuple[Measurement, list[str]]:
    import pandas as pd

    profiled = {phase: found.profiles for phase, found in phases.items()}
    operators, unlike = operator_table(profiled, 0.0)
    seconds = {phase: [p.seconds * repeat[phase] for p in some] for phase, some in profiled.items()}
    rows = [
        (phase, place, "", 1, taken)
        for phase, found in phases.items()
        for place, taken in found.modules.items()
    ]
    figures = {
        phase: {"seconds": [p.seconds for p in some], "events": some[0].events, "operators": 0}
        for phase, some in profiled.items()
    }
    return Measurement(
        workload=dict(workload),
        device=str(trace.path),
        phases=seconds,
        hooked=seconds,
        repeat={phase: repeat[phase] for phase in phases},
        modules=pd.DataFrame(rows, columns=list(MODULE_COLUMNS)),
        operators=operators,
        experts_touched={},
        decoder_layers=0,
        parameters=0,
        memory_bytes=0,
        threads=0,
        overheads={"event_s": 0.0, "profiled": figures},
        versions={},
    ), unlike


class Modules:
    """Our modules of one phase, and which of them the modules of a trace are."""

    def __init__(self, modules: pd.DataFrame):
        self._table = modules
        self._paths = set(modules["path"])
        self._matched: dict[tuple[str, ...], dict[int, str]] = {}

    def mark(self, events: Iterable[Recorded]) -> tuple[list[Recorded], int]:
        """Events with modules named as :mod:`calib.measure.reference.operators` names them. And
        the number of modules in the trace that no module of ours is.
        """
        events = list(events)
        kept = [e for e in events if e.category in (OPERATOR, RANGE)]
        marked = [_named(e, self._paths) for e in kept]
        if any(e.label.startswith(MARK) for e in marked):
            return marked, 0
        recorded = [e for e in events if e.label.startswith(NN_MODULE)]
        instances = list(dict.fromkeys(e.label for e in recorded))
        place = self._places(tuple(_class(label) for label in instances))
        path_of = {label: place[i] for i, label in enumerate(instances) if i in place}
        called = [
            replace(e, label=MARK + path_of[e.label], category=RANGE)
            for e in recorded
            if e.label in path_of
        ]
        return [*marked, *called], len(instances) - len(path_of)

    def _places(self, classes: tuple[str, ...]) -> dict[int, str]:
        if classes not in self._matched:  # every pass has the same, and it takes n times m
            self._matched[classes] = match_modules(classes, self._table)
        return self._matched[classes]


def _named(event: Recorded, paths: set[str]) -> Recorded:
    known = event.category == RANGE and event.label in paths and event.label
    return replace(event, label=MARK + event.label) if known else event


def _class(label: str) -> str:
    """ "nn.Module: Linear_12" -> "Linear"."""
    return label.removeprefix(NN_MODULE).rpartition("_")[0]


def match_modules(classes: Sequence[str], modules: pd.DataFrame) -> dict[int, str]:
    """Index among ``classes``, those of the trace in order of their first call -> our path."""
    import numpy as np

    paths = [str(path) for path in modules["path"]]
    ours = [
        {name.strip().rpartition(".")[2] for name in str(mirrors).split(",")}
        for mirrors in modules["mirrors"]
    ]
    rows = {name: np.array([name in names for names in ours]) for name in set(classes)}
    fits = np.array([rows[name] for name in classes], dtype=bool)
    return {i: paths[j] for i, j in align(fits.reshape(len(classes), len(ours)))}


def inclusive(
    events: Sequence[Recorded], kernels: Sequence[Recorded] | None = None
) -> dict[str, float]:
    """Seconds by module path, of all its calls: on the host, or of ``kernels`` launched in it."""
    ran: dict[int, int] = {}
    for kernel in kernels or ():
        ran[kernel.number] = ran.get(kernel.number, 0) + kernel.length_ns
    operators = sorted((e.begin_ns, ran.get(e.number, 0)) for e in events if e.category == OPERATOR)
    begins = [begin for begin, _ in operators]
    until = [0, *accumulate(length for _, length in operators)]
    seconds: dict[str, float] = {}
    for event in events:
        if not event.label.startswith(MARK):
            continue
        taken = event.length_ns
        if kernels is not None:
            first, last = bisect_left(begins, event.begin_ns), bisect_left(begins, event.end_ns)
            taken = until[last] - until[first]
        path = event.label.removeprefix(MARK)
        seconds[path] = seconds.get(path, 0.0) + taken / 1e9
    return seconds
