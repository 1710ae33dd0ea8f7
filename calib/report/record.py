"""What one run found, before anything is rendered: tables and a few facts about the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TOTAL = "total"
"""The component that stands last in ``components`` and sums the others."""


UNKNOWN = "unknown"
"""The provenance of a time that is not known."""
GROWS, AVOIDED = "While the text grows,", "What avoids it:"
"""How the note begins and ends of what each token costs beside what a report's times hold."""


@dataclass(frozen=True)
class RunRecord:
    """One run. All quantities are SI; a figure that is not known is NaN or None in its table.

    run_id, created    a name, and when the run started (ISO 8601, UTC)
    model_config       the dimensions that the architecture was built with
    workload           the fields of ``model.workload.Workload``
    hardware           the fields of ``calib.hardware.datasheet.Hardware``
    operators          one row a call: phase, path, kind, shape, dtype, count, launches, sync,
                       flops, bytes, arithmetic_intensity, bound, roofline_s, efficiency,
                       estimate_s, low_s, high_s, provenance, unknown, estimate_unseen_s, triton_s,
                       measured_s, error, error_unseen, hardware, implementation, model, workload,
                       and the columns ``WALL`` and ``JOULES`` of ``calib.estimates.sums``;
                       ``triton_s``: by our
                       Triton kernels, null where the card has no samples of them; FLOPs, bytes and
                       seconds are totals of the workload, ``count`` is that of one pass of the
                       phase and ``launches`` that of one execution
    modules            one row a module and phase, sums over all that is below its path;
                       ``calls`` is how often it runs in the workload
    components         one row a component, the last one ``total``; wall times, and the time of
                       their kernels as ``kernel_s``
    timeline           one row a phase, seconds of one pass: wall_s, low_s, high_s, kernel_s,
                       idle_s, graph_s (the same as a CUDA graph), new_length_s with both ends
                       (a decode step over a length that its process meets for the first time;
                       null where that takes nothing more), limited_by; None: not replayed
    launches           one row a launch of one pass of each phase, as
                       ``calib.estimates.timeline.launch_table`` makes it
    memory             the fields of ``calib.estimates.memory.Memory`` and what follows from them
    figures            name, unit, roofline, estimate, low, high, measured
    fits               one row a fit, with its held-out errors; may be empty
    ceilings           one row a figure, the fields of ``calib.samples.ceilings.Ceiling``; None: no
    samples
    alternatives       one row a case, as ``calib.steps.alternatives.table`` makes it; None: none
    layout             of several cards: tp, pp, ep, dp, cards, and these in words; None: one card
    energy             joules, joules_low, joules_high, the same ``_a_request`` and ``_a_token``
                       (where tokens are decoded), watts, idle_w, idle_share, request (its name),
                       operators_counted, median_error; None: nothing was counted
    measurement        how it was measured and what the machine did; None where nothing was
    """

    run_id: str
    created: str
    model: str
    architecture: str
    model_config: dict[str, Any]
    workload: dict[str, Any]
    hardware: dict[str, Any]
    implementation: str
    execution: str
    mode: str
    operators: pd.DataFrame
    modules: pd.DataFrame
    components: pd.DataFrame
    figures: pd.DataFrame
    fits: pd.DataFrame
    measurement: dict[str, Any] | None
    notes: list[str]
    environment: dict[str, Any]
    timeline: pd.DataFrame | None = None
    memory: dict[str, Any] | None = None
    launches: pd.DataFrame | None = None
    ceilings: pd.DataFrame | None = None
    alternatives: pd.DataFrame | None = None
    layout: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None

    @property
    def place(self) -> str:
        """What it runs on: "h200", or "8 x h200 (tp=8)"."""
        name, layout = str(self.hardware["name"]), self.layout
        return name if layout is None else f"{layout['cards']} x {name} ({layout['words']})"

    @cached_property
    def total(self) -> dict[str, Any]:
        """The row of ``components`` that sums the others."""
        rows = self.components[self.components["component"] == TOTAL]
        return {str(k): v for k, v in rows.iloc[-1].items()}

    @cached_property
    def executions(self) -> pd.Series:
        """How often each row of ``operators`` is executed in the whole workload."""
        roots = self.modules[self.modules["path"] == ""]
        passes = dict(zip(roots["phase"], roots["calls"], strict=True))
        return self.operators["count"] * self.operators["phase"].map(passes)

    @property
    def last_pass(self) -> pd.DataFrame | None:
        """The launches of the last phase (a decode step); None where no pass was replayed."""
        if self.launches is None or self.launches.empty:
            return None
        return self.launches[self.launches["phase"] == self.launches["phase"].iloc[-1]]

    @property
    def timed(self) -> bool:
        """Whether any time is known: without peaks of a device there are costs only."""
        return known(self.total["estimate_s"])

    @property
    def has_room(self) -> bool:
        """False only where it is known not to."""
        return self.memory is None or bool(self.memory["fits"])

    @property
    def measured(self) -> bool:
        """Whether a measured wall time is known, of the whole or of a part of it."""
        return any(known(seconds) for seconds in self.components["measured_s"])

    @property
    def clocked(self) -> bool:
        """Whether a measured time of any operator is known."""
        return bool(self.operators["measured_s"].notna().any())

    @property
    def clock_of_modules(self) -> str | None:
        """``wall``, or ``kernels`` where a trace says only what a card did; None: not measured."""
        if not self.modules["measured_s"].notna().any():
            return None
        return str((self.measurement or {}).get("modules", "wall"))


ROOMLESS = "What does not fit has no times and no joules: in the files they are null."
TIMELESS = ("joules", "limited_by", "efficiency", "error", "share", "roofline_error")
"""How columns begin, beside seconds, that say something only of what runs."""
FIGURED = ("roofline", "estimate", "low", "high")


def as_it_runs(record: RunRecord, of_times: Sequence[str]) -> RunRecord:
    """The same with the notes ``of_times``; of what does not fit, and no clock saw run, with null
    for every time and all that follows from one, and without them."""
    if record.has_room or record.measured:
        return replace(record, notes=[*record.notes, *of_times])
    tables = {n: getattr(record, n) for n in ("operators", "modules", "components", "timeline")}
    found: dict[str, Any] = {n: None if t is None else _untimed(t) for n, t in tables.items()}
    found["figures"] = record.figures.assign(**dict.fromkeys(FIGURED, float("nan")))
    notes = [ROOMLESS, *record.notes]
    return replace(record, **found, launches=None, energy=None, notes=notes)


def _untimed(table: pd.DataFrame) -> pd.DataFrame:
    lost = [
        name
        for name in map(str, table)
        if name.startswith(TIMELESS) or (name.endswith("_s") and not name.startswith("measured"))
    ]
    nothing = {n: float("nan") if table[n].dtype.kind in "fi" else None for n in lost}
    known_by = {"provenance": UNKNOWN} if "provenance" in table else {}
    return table.assign(**nothing, **known_by)


def known(value: Any) -> bool:
    """Whether a cell holds something: neither None nor NaN nor pandas' NA."""
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and type(value).__name__ not in ("NAType", "NaTType")


def with_literal_names(record: RunRecord) -> RunRecord:
    """Names come from files and from users: none of them may be read as markup."""
    workload, hardware = record.workload, record.hardware
    names = [escaped(name) for name in hardware["device_names"]]
    told = {k: escaped(v) if isinstance(v, str) else v for k, v in record.environment.items()}
    return replace(
        record,
        run_id=escaped(record.run_id),
        model=escaped(record.model),
        workload={**workload, "name": escaped(workload["name"])},
        hardware={**hardware, "name": escaped(hardware["name"]), "device_names": names},
        environment=told,
    )


ESCAPES = {"<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "[": "&#91;", "]": "&#93;"}


def escaped(name: str) -> str:
    """A name that a file brought along, for Markdown: in one line, and nothing in it is markup."""
    return "".join(ESCAPES.get(c, c) if c.isprintable() else " " for c in name)


def as_code(name: str) -> str:
    """The same as code, in which brackets may stand; no sign of HTML and no link even there."""
    plain = "".join(c if c.isprintable() else " " for c in name)
    marks = {"`": "'", "|": r"\|", "<": "&lt;"}
    return f"`{''.join(marks.get(c, c) for c in plain.replace('](', '] ('))}`"
