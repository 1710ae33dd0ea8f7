"""A trace that ``torch.profiler`` exported, read as a measurement of the model.

    with profile(..., record_shapes=True, with_stack=True, with_modules=True) as profiler:
        with record_function("prefill"):
            model(...)
        with record_function("decode"):  # once for each step
            model(...)
    profiler.export_chrome_trace("trace.json")

A range named like a phase is one pass of it; a trace without any is one pass of a workload's only
phase. Modules are ranges named by their path (``record_function``, or ours), or the profiler's own
``nn.Module`` events: those carry a class and a number, so they are matched to our modules by their
order and class, the longest common subsequence of both. Operators are found as in
:mod:`calib.measure.reference.operators`; on a card an operator's time is that of its kernels. What
recording costs is in all of these times, and is not deducted.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.measure.reference.measurement import Measurement
from calib.measure.reference.operators import MARK, Profile, operators_of
from calib.measure.reference.tables import MODULE_COLUMNS, operator_table

if TYPE_CHECKING:
    import pandas as pd

NN_MODULE = "nn.Module: "
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
Event = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One event, with the methods of the profiler's own that operators are found by."""

    label: str
    begin_ns: int
    length_ns: int
    thread: Any
    external: int
    category: str
    dims: tuple[Any, ...]
    types: tuple[str, ...]

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.length_ns

    def name(self) -> str:
        return self.label

    def overload_name(self) -> str:
        return overload(self.label)

    def start_ns(self) -> int:
        return self.begin_ns

    def duration_ns(self) -> int:
        return self.length_ns

    def start_thread_id(self) -> Any:
        return self.thread

    def device_type(self) -> SimpleNamespace:
        return SimpleNamespace(name="CUDA" if self.category in ON_DEVICE else "CPU")

    def correlation_id(self) -> int:
        return self.external

    def linked_correlation_id(self) -> int:
        return self.external

    def shapes(self) -> tuple[Any, ...]:
        return self.dims

    def dtypes(self) -> tuple[str, ...]:
        return self.types


@cache
def overload(name: str) -> str:
    """An overload of the operator that a dispatcher knows: the export leaves it out, and all of a
    name are alike in kind. Empty: the one without a name, or an operator that is not known here.
    """
    import torch

    namespace, found, function = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), function, None) if found else None
    for known in sorted(packet.overloads(), key=lambda o: o != "default") if packet else ():
        suffix = "" if known == "default" else f".{known}"
        if torch._C._dispatch_has_kernel(name + suffix):
            return suffix[1:]
    return ""


def read_trace(
    path: str | Path,
    modules: pd.DataFrame,
    repeat: Mapping[str, int],
    workload: Mapping[str, Any],
    on_card: bool = False,
) -> Measurement:
    """The trace at ``path`` (JSON, or that in gzip) as a measurement of ``modules``.

    ``modules``: phase, path, mirrors, in order of execution; ``repeat``: passes of each phase.
    ``on_card``: it is to hold kernels. Raises ``CalibError`` for a file that is no trace, or one
    without operators, phases or such kernels.
    """
    import pandas as pd

    events = load(path)
    if on_card and not any(event.category in ON_DEVICE for event in events):
        raise CalibError(
            f"measured = {str(path)!r}: the trace holds no kernels of a card: expected one that "
            "was recorded on it, with ProfilerActivity.CUDA; or +hw=cpu"
        )
    passes = phase_ranges(path, events, list(repeat))
    profiled: dict[str, list[Profile]] = {}
    rows: list[tuple[Any, ...]] = []
    notes, phases = [], {}
    for phase, ranges in passes.items():
        known = modules[modules["phase"] == phase]
        seconds: dict[str, list[float]] = {}
        profiled[phase] = []
        for span in ranges:
            marked, missed = mark(within(events, span), known)
            whole = max([span.end_ns, *(e.end_ns for e in marked if e.category in ON_DEVICE)])
            took = (whole - span.begin_ns) / 1e9
            on_device = any(e.category in ON_DEVICE for e in marked)
            found = tuple(operators_of([_root(span), *marked], on_device))
            profiled[phase].append(Profile(took, len(marked), found))
            for place, taken in inclusive(marked, on_device).items():
                seconds.setdefault(place, []).append(taken)
        if missed:
            notes.append(
                f"{Path(path).name}: {missed} modules of a pass of {phase} found no counterpart"
            )
        rows += [(phase, place, "", 1, taken) for place, taken in seconds.items()]
        phases[phase] = [p.seconds * repeat[phase] for p in profiled[phase]]
    operators, unlike = operator_table(profiled, 0.0)
    figures = {
        phase: {"seconds": [p.seconds for p in some], "events": some[0].events, "operators": 0}
        for phase, some in profiled.items()
    }
    return Measurement(
        workload=dict(workload),
        device=str(path),
        phases=phases,
        hooked=phases,
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
        notes=[*notes, *unlike],
    )


def load(path: str | Path) -> list[Recorded]:
    """The complete events of a trace, in order of their begin."""
    wrong = f"measured = {str(path)!r}"
    accepted = "expected a trace that torch.profiler exported (export_chrome_trace)"
    try:
        raw = Path(path).read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        listed = json.loads(text)["traceEvents"]
        events = [e for e in listed if e.get("ph") == "X"]
        first = min(float(e["ts"]) for e in events)
        read = [_event(e, first) for e in events]
    except OSError as error:
        raise CalibError(
            f"{wrong}: cannot be read ({error.strerror or error}): {accepted}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibError(
            f"{wrong}: is none ({type(error).__name__}: {error}): {accepted}"
        ) from None
    if not any(e.category == "cpu_op" for e in read):
        raise CalibError(f"{wrong}: holds no operators: {accepted} with CPU activity")
    return sorted(read, key=lambda e: (e.begin_ns, -e.length_ns))


def _event(event: Event, first: float) -> Recorded:
    about = event.get("args") or {}
    return Recorded(
        label=str(event["name"]),
        # Since the first event: the numbers themselves have no digits left for nanoseconds.
        begin_ns=round((float(event["ts"]) - first) * 1e3),
        length_ns=round(float(event.get("dur", 0.0)) * 1e3),
        thread=event.get("tid"),
        external=int(about.get("External id", -1)),
        category=str(event.get("cat", "")),
        dims=tuple(about.get("Input Dims", ())),
        types=tuple(str(t) for t in about.get("Input type", ())),
    )


def phase_ranges(
    path: str | Path, events: Sequence[Recorded], phases: Sequence[str]
) -> dict[str, list[Recorded]]:
    """The passes of each phase in the trace, in order."""
    named = [e for e in events if e.category == "user_annotation"]
    found = {phase: [e for e in named if e.label == phase] for phase in phases}
    found = {phase: ranges for phase, ranges in found.items() if ranges}
    if found:
        return found
    if len(phases) == 1:
        operators = [e for e in events if e.category == "cpu_op"]
        end = max(e.end_ns for e in operators)
        begin = operators[0].begin_ns
        return {phases[0]: [replace(operators[0], label="", length_ns=end - begin)]}
    raise CalibError(
        f"measured = {str(path)!r}: names no phase: expected record_function ranges called "
        f"{', '.join(phases)} around the passes, one for each"
    )


def within(events: Iterable[Recorded], span: Recorded) -> list[Recorded]:
    """Events of the host inside ``span`` on its thread, and what they launched on a device."""
    inside = [
        e
        for e in events
        if e.category not in ON_DEVICE
        and e.thread == span.thread
        and e.begin_ns >= span.begin_ns
        and e.end_ns <= span.end_ns
        and e is not span
    ]
    launched = {e.external for e in inside if e.category == "cpu_op"}
    return inside + [e for e in events if e.category in ON_DEVICE and e.external in launched]


def _root(span: Recorded) -> Recorded:
    """The pass itself as the module with the empty path."""
    return replace(span, label=MARK, category="user_annotation")


def mark(events: Iterable[Recorded], modules: pd.DataFrame) -> tuple[list[Recorded], int]:
    """Events with modules named as :mod:`calib.measure.reference.operators` names them; other
    Python frames are left out. And the number of modules in the trace that no module of ours is.
    """
    paths = set(modules["path"])
    kept = [e for e in events if e.category in ("cpu_op", "user_annotation", *ON_DEVICE)]
    marked = [_named(e, paths) for e in kept]
    if any(e.label.startswith(MARK) for e in marked):
        return marked, 0
    recorded = [e for e in events if e.label.startswith(NN_MODULE)]
    instances = list(dict.fromkeys(e.label for e in recorded))
    place = match_modules([_class(label) for label in instances], modules)
    path_of = {label: place[i] for i, label in enumerate(instances) if i in place}
    called = [
        replace(e, label=MARK + path_of[e.label], category="user_annotation")
        for e in recorded
        if e.label in path_of
    ]
    return [*marked, *called], len(instances) - len(path_of)


def _named(event: Recorded, paths: set[str]) -> Recorded:
    known = event.category == "user_annotation" and event.label in paths and event.label
    return replace(event, label=MARK + event.label) if known else event


def _class(label: str) -> str:
    """ "nn.Module: Linear_12" -> "Linear"."""
    return label.removeprefix(NN_MODULE).rpartition("_")[0]


def match_modules(classes: Sequence[str], modules: pd.DataFrame) -> dict[int, str]:
    """Index among ``classes``, those of the trace in order of their first call -> our path."""
    import numpy as np

    ours = [
        (str(path), {name.strip().rpartition(".")[2] for name in str(mirrors).split(",")})
        for path, mirrors in zip(modules["path"], modules["mirrors"], strict=True)
    ]
    longest = np.zeros((len(classes) + 1, len(ours) + 1), dtype=int)
    for i in range(len(classes) - 1, -1, -1):
        for j in range(len(ours) - 1, -1, -1):
            taken = longest[i + 1, j + 1] + 1 if classes[i] in ours[j][1] else 0
            longest[i, j] = max(taken, longest[i + 1, j], longest[i, j + 1])
    found, i, j = {}, 0, 0
    while i < len(classes) and j < len(ours):
        if classes[i] in ours[j][1] and longest[i, j] == longest[i + 1, j + 1] + 1:
            found[i] = ours[j][0]
            i, j = i + 1, j + 1
        elif longest[i + 1, j] >= longest[i, j + 1]:
            i += 1
        else:
            j += 1
    return found


def inclusive(events: Sequence[Recorded], on_device: bool) -> dict[str, float]:
    """Seconds by module path, of all its calls: on the host, or of the kernels launched in it."""
    kernels: dict[int, int] = {}
    for event in events:
        if event.category in ON_DEVICE:
            kernels[event.external] = kernels.get(event.external, 0) + event.length_ns
    operators = [e for e in events if e.category == "cpu_op"]
    seconds: dict[str, float] = {}
    for event in events:
        if not event.label.startswith(MARK):
            continue
        taken = event.length_ns
        if on_device:
            inside = (
                o for o in operators if event.begin_ns <= o.begin_ns and o.end_ns <= event.end_ns
            )
            taken = sum(kernels.get(o.external, 0) for o in inside)
        path = event.label.removeprefix(MARK)
        seconds[path] = seconds.get(path, 0.0) + taken / 1e9
    return seconds
