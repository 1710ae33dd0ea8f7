"""Joins what was measured on the reference model to the tables of estimates, on the module path.

Operators: within one path the profiler's operators and our calls are two sequences of the same
execution. Where they are equally long, they are matched by order: a row takes as many operators as
its launches. Where they are not, the longest common subsequence by kind is matched (a row of
several launches a call takes operators of any kind), and a row that does not find all of its own
keeps a null. What is left over on either side is counted and reported, never dropped. A recording
may name modules otherwise than we do, or not at all: of a phase for which paths find less than half
of the time, all operators may be matched as one sequence by kind, and else what paths left over.

Times in the tables are totals of the whole phase: of one pass through it times its ``repeat``;
``count`` and ``launches`` are those of one pass. Measured times stay as they were; errors are
against the time brought to the machine's speed during the sweep, measured / slowdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib.compare.clock.align import (
    Match,
    Slot,
    align_kinds,
    match,
    of_whole_rows,
    row_slots,
    slots_of,
)
from calib.errors import CalibError

if TYPE_CHECKING:
    from calib.measure.reference.measurement import Measurement

_UNMATCHED_SHOWN = 20
"""Unmatched (phase, path, operator) that a coverage lists, the longest first."""


@dataclass(frozen=True)
class Joined:
    """Tables of estimates and of a measurement, and which row each operator went to.

    ``matches``: operator, row, seconds, kind_differs, with the labels of the other two;
    ``operators``: those measured, with ``total_s`` of the whole phase. ``times``: phase ->
    operators measured over launches estimated, of the paths that both have.
    """

    estimates: pd.DataFrame
    matches: pd.DataFrame
    operators: pd.DataFrame
    times: dict[str, float]


def join_operators(
    estimates: pd.DataFrame,
    measurement: Measurement,
    slowdown: Mapping[str, float] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A copy of ``estimates`` with ``measured_s`` and the errors filled, and its coverage, as
    :func:`with_operators` of what was measured here, where every path is known.
    """
    return with_operators(match_operators(estimates, measurement), slowdown)


def with_operators(
    joined: Joined, slowdown: Mapping[str, float] | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of estimates with ``measured_s`` and the errors filled, and the coverage.

    ``slowdown``: by phase, how much slower the machine was than during the sweep (None: as fast).
    A row is null where not all of its operators were found. The coverage, ready for JSON:
    ``share`` of measured operator time that went to a row, the same by phase with counts, and the
    operators that no row took.
    """
    table = joined.estimates.copy()
    table["measured_s"] = joined.matches.groupby("row")["seconds"].sum().reindex(table.index)
    coverage = _coverage(joined.estimates, joined.matches, joined.operators)
    return _with_errors(table, slowdown), coverage


def _coverage(
    estimates: pd.DataFrame, matched: pd.DataFrame, operators: pd.DataFrame
) -> dict[str, Any]:
    """What was matched and what was left, operators of the whole phase.

    ``kinds_differ``: operators of a pass, matched by order, whose kind is not that of their row.
    """
    taken = operators.index.isin(matched["operator"])
    phases = {}
    for phase, here in operators.groupby("phase", sort=False):
        whole = float(here["total_s"].sum())
        part = float(here.loc[here.index.isin(matched["operator"]), "total_s"].sum())
        ours = estimates.index[estimates["phase"] == phase]
        found = matched[matched["row"].isin(ours)]
        phases[str(phase)] = {
            "operators": len(here),
            "operators_s": whole,
            "matched": len(found),
            "matched_s": part,
            "share": part / whole if whole else None,
            "rows": len(ours),
            "rows_unmatched": len(ours) - int(found["row"].nunique()),
            "kinds_differ": int(found["kind_differs"].sum()),
        }
    whole = float(operators["total_s"].sum())
    left = operators[~taken].groupby(["phase", "path", "aten"], sort=False)["total_s"]
    unmatched = left.agg(count="size", seconds="sum").reset_index()
    unmatched = unmatched.sort_values("seconds", ascending=False)
    return {
        "share": float(operators.loc[taken, "total_s"].sum()) / whole if whole else None,
        "phases": phases,
        "unmatched": unmatched.head(_UNMATCHED_SHOWN).to_dict("records"),
        "unmatched_s": float(unmatched["seconds"].sum()),
    }


def join_modules(
    modules: pd.DataFrame,
    measurement: Measurement,
    slowdown: Mapping[str, float] | None = None,
    of_kernels: bool = False,
) -> pd.DataFrame:
    """A copy of ``modules`` with ``measured_s``, its quartiles, ``steady_s`` (the median with the
    machine's drift taken out) and the errors filled. ``of_kernels``: the clock saw kernels only.

    The empty path is the phase as a whole, timed without hooks. A path that is never called itself
    (a list of layers) gets the sum of the outermost modules below it.
    """
    _require(modules, ("phase", "path", "estimate_s"))
    measured: dict[str, dict[str, np.ndarray]] = {p: {} for p in measurement.phases}
    table = measurement.modules
    for phase, path, seconds in zip(table["phase"], table["path"], table["seconds"], strict=True):
        measured[phase][path] = np.asarray(seconds, dtype=float) * measurement.repeat[phase]
    quartiles = [
        _quartiles(_module_seconds(measured[phase], path))
        if path and phase in measured
        else _quartiles(measurement.phases.get(phase))
        for phase, path in zip(modules["phase"], modules["path"], strict=True)
    ]
    joined = modules.copy()
    columns = ["measured_q1_s", "measured_s", "measured_q3_s"]
    joined[columns] = np.array(quartiles, dtype=float).reshape(len(modules), 3)
    joined["steady_s"] = _steady_seconds(joined, slowdown)
    walls = {"estimate_s": "wall_s", "estimate_unseen_s": "wall_unseen_s"}
    named = {k: v if v in modules and not of_kernels else k for k, v in walls.items()}
    return _with_errors(joined, slowdown, **named)


def phase_gaps(measurement: Measurement) -> pd.DataFrame:
    """By phase, what no operator explains: Python, views, dispatch between operators [s].

    phase, seconds (median of the repeats), operators, operators_s, gap_s = seconds - operators_s,
    gap_per_operator_s: all of the whole phase. ``profiled_gap_s``: the same difference within the
    profiled passes themselves, recording deducted event by event; the machine's drift between the
    passes is not in it, what opening the modules' ranges costs is.
    """
    rows = []
    event_s = measurement.overheads["event_s"]
    for phase, repeat in measurement.repeat.items():
        here = measurement.operators[measurement.operators["phase"] == phase]
        figures = measurement.overheads["profiled"][phase]
        raw = np.array(here["raw"].tolist(), dtype=float)  # [operators, passes]
        outside = figures["events"] - here["nested"].sum()
        profiled = np.array(figures["seconds"])[: raw.shape[-1]]
        gap = np.median(profiled - raw.sum(axis=0)) - outside * event_s if len(here) else np.nan
        seconds = measurement.phase_seconds(phase)
        operators_s = here["seconds"].sum() * repeat
        rows.append(
            {
                "phase": phase,
                "seconds": seconds,
                "operators": len(here) * repeat,
                "operators_s": operators_s,
                "gap_s": seconds - operators_s,
                "gap_per_operator_s": (seconds - operators_s) / max(len(here) * repeat, 1),
                "profiled_gap_s": gap * repeat,
            }
        )
    return pd.DataFrame(rows)


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise CalibError(
            f"measured: column {', '.join(missing)} is missing: expected all of "
            f"{', '.join(columns)}"
        )


def _with_errors(
    table: pd.DataFrame,
    slowdown: Mapping[str, float] | None,
    estimate_s: str = "estimate_s",
    estimate_unseen_s: str = "estimate_unseen_s",
) -> pd.DataFrame:
    """estimate / (measured / slowdown) - 1; null where nothing, or no time at all, was measured.

    ``estimate_s``, ``estimate_unseen_s``: the columns to compare; of modules it is the wall time,
    since the clock saw what lies between their operators too.
    """
    steady = _steady_seconds(table, slowdown)
    table["error"] = table[estimate_s] / steady - 1
    if estimate_unseen_s in table:
        table["error_unseen"] = table[estimate_unseen_s].astype(float) / steady - 1
    return table


def _steady_seconds(table: pd.DataFrame, slowdown: Mapping[str, float] | None) -> pd.Series:
    """[rows] measured / slowdown [s]; null where nothing, or no time at all, was measured."""
    factors = table["phase"].map(lambda phase: (slowdown or {}).get(phase, 1.0))
    return table["measured_s"].where(table["measured_s"] > 0) / factors


def match_operators(
    estimates: pd.DataFrame, measurement: Measurement, by_order: bool = False
) -> Joined:
    """``by_order``: paths are another's, so that what they do not find is matched as one sequence.
    Raises ``CalibError`` for a missing column.
    """
    _require(estimates, ("phase", "path", "kind", "count", "launches", "estimate_s"))
    operators = measurement.operators.copy()
    operators["total_s"] = operators["seconds"] * operators["phase"].map(measurement.repeat)
    found, times = [], {}
    for phase, theirs in operators.groupby("phase", sort=False):
        ours = estimates[estimates["phase"] == phase]
        best, ratio = _by_path(ours, theirs)
        if by_order and 2 * sum(m[2] for m in best) < theirs["total_s"].sum():
            other = _aligned(ours, theirs)
            if sum(m[2] for m in other) > sum(m[2] for m in best):
                best, ratio = other, len(theirs) / max(len(slots_of(ours)), 1)
        if by_order:
            best += _aligned(*_left(ours, theirs, best))
        found += best
        times[str(phase)] = ratio
    columns = ["operator", "row", "seconds", "kind_differs"]
    return Joined(estimates, pd.DataFrame(found, columns=columns), operators, times)


Found = list[tuple[Any, Any, float, bool]]
"""Operator, row, seconds of the whole phase, whether their kinds differ."""


def _by_path(estimates: pd.DataFrame, operators: pd.DataFrame) -> tuple[Found, float]:
    """Matches of a phase, and operators over launches of the paths that both have."""
    theirs: dict[Any, list[int]] = {}  # positions, in the order of the table: that of execution
    for position, path in enumerate(operators["path"]):
        theirs.setdefault(path, []).append(position)
    ours: dict[Any, list[Slot]] = {}
    for path, slots in zip(estimates["path"], row_slots(estimates), strict=True):
        ours.setdefault(path, []).extend(slots)
    kinds = operators["kind"].tolist()
    found: list[Match] = []
    measured, launches = 0, 0
    for path, slots in ours.items():
        if places := theirs.get(path):
            matches = match(slots, [kinds[position] for position in places])
            found += [replace(m, position=places[m.position]) for m in matches]
            measured, launches = measured + len(places), launches + len(slots)
    return _placed(operators, found), measured / max(launches, 1)


def _aligned(estimates: pd.DataFrame, operators: pd.DataFrame) -> Found:
    """Matches of a phase as one sequence, whatever the paths are."""
    slots, kinds = slots_of(estimates), operators["kind"].tolist()
    return _placed(operators, of_whole_rows(slots, kinds, align_kinds(slots, kinds)))


def _left(
    estimates: pd.DataFrame, operators: pd.DataFrame, found: Found
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and operators that found no counterpart."""
    places, rows = {m[0] for m in found}, {m[1] for m in found}
    return estimates[~estimates.index.isin(rows)], operators[~operators.index.isin(places)]


def _placed(operators: pd.DataFrame, matches: Sequence[Match]) -> Found:
    seconds = operators["total_s"].to_numpy()
    return [
        (operators.index[m.position], m.row, float(seconds[m.position]), m.kind_differs)
        for m in matches
    ]


def _module_seconds(measured: Mapping[str, np.ndarray], path: str) -> np.ndarray | None:
    """Seconds of every repeat at ``path``, or of the outermost modules below it; None if none."""
    if path in measured:
        return measured[path]
    below = sorted((p for p in measured if p.startswith(f"{path}.")), key=lambda p: p.count("."))
    outermost: list[str] = []
    for candidate in below:
        if not any(candidate.startswith(f"{p}.") for p in outermost):
            outermost.append(candidate)
    return np.sum([measured[p] for p in outermost], axis=0) if outermost else None


def _quartiles(seconds: Any) -> tuple[float, float, float]:
    if seconds is None or len(seconds) == 0:
        return (float("nan"),) * 3
    first, middle, third = np.percentile(np.asarray(seconds, dtype=float), (25, 50, 75))
    return float(first), float(middle), float(third)
