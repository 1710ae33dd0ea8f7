"""Joins what was measured on the reference model to the tables of estimates, on the module path.

Operators: within one path the profiler's operators and our calls are two sequences of the same
execution. Where they are equally long, they are matched by order: a row takes as many operators as
its launches. Where they are not, the longest common subsequence by kind is matched (a row of
several launches a call takes operators of any kind), and a row that does not find all of its own
keeps a null. What is left over on either side is counted and reported, never dropped.

Times in the tables are totals of the whole phase: of one pass through it times its ``repeat``;
``count`` and ``launches`` are those of one pass. Measured times stay as they were; errors are
against the time brought to the machine's speed during the sweep, measured / slowdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib.errors import CalibError

if TYPE_CHECKING:
    from calib.measure.reference.measurement import Measurement

_UNMATCHED_SHOWN = 20
"""Unmatched (phase, path, operator) that a coverage lists, the longest first."""


@dataclass(frozen=True)
class _Slot:
    """A place for one measured operator: a launch of a row of estimates. ``kind`` None: any."""

    row: Any
    kind: str | None


@dataclass(frozen=True)
class _Match:
    """Position of a measured operator within its path, and the row it went to."""

    position: int
    row: Any
    kind_differs: bool


def join_operators(
    estimates: pd.DataFrame,
    measurement: Measurement,
    slowdown: Mapping[str, float] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A copy of ``estimates`` with ``measured_s`` and the errors filled, and its coverage.

    ``slowdown``: by phase, how much slower the machine was than during the sweep (None: as fast).
    A row is null where not all of its operators were found. The coverage, ready for JSON:
    ``share`` of measured operator time that went to a row, the same by phase with counts, and the
    operators that no row took. Raises ``CalibError`` for a missing column.
    """
    _require(estimates, ("phase", "path", "kind", "count", "launches", "estimate_s"))
    matched, operators = _matched(estimates, measurement)
    joined = estimates.copy()
    joined["measured_s"] = matched.groupby("row")["seconds"].sum().reindex(estimates.index)
    return _with_errors(joined, slowdown), _coverage(estimates, matched, operators)


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
) -> pd.DataFrame:
    """A copy of ``modules`` with ``measured_s``, its quartiles, ``steady_s`` (the median with the
    machine's drift taken out) and the errors filled.

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
    named = {k: v if v in modules else k for k, v in walls.items()}
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


def _matched(
    estimates: pd.DataFrame, measurement: Measurement
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Matches (operator, row, seconds, kind_differs); the operators with ``total_s``."""
    operators = measurement.operators.copy()
    operators["total_s"] = operators["seconds"] * operators["phase"].map(measurement.repeat)
    # Labels by (phase, path), each list in the order of the table, which is that of execution.
    theirs: dict[Any, Any] = operators.groupby(["phase", "path"], sort=False).groups
    ours: dict[Any, Any] = estimates.groupby(["phase", "path"], sort=False).groups
    found = []
    for key, rows in ours.items():
        if key not in theirs:
            continue
        places = theirs[key]
        kinds = operators.loc[places, "kind"].tolist()
        for match in _match(_slots(estimates.loc[rows]), kinds):
            place = places[match.position]
            seconds = operators.at[place, "total_s"]
            found.append((place, match.row, seconds, match.kind_differs))
    columns = ["operator", "row", "seconds", "kind_differs"]
    return pd.DataFrame(found, columns=columns), operators


def _slots(rows: pd.DataFrame) -> list[_Slot]:
    """A slot for each launch of one pass; of a call of several launches they are of any kind."""
    slots: list[_Slot] = []
    columns = (rows.index, rows["kind"], rows["count"], rows["launches"])
    for row, kind, count, launches in zip(*columns, strict=True):
        slots += [_Slot(row, kind if launches == 1 else None)] * int(count * launches)
    return slots


def _match(slots: Sequence[_Slot], kinds: Sequence[str]) -> list[_Match]:
    """Operators matched to slots, only those of rows whose slots are all filled."""
    by_order = [(i, i) for i in range(len(kinds))]
    pairs = by_order if len(slots) == len(kinds) else _align(slots, kinds)
    wanted = Counter(slot.row for slot in slots)
    filled = Counter(slots[i].row for i, _ in pairs)
    return [
        _Match(position, slots[i].row, slots[i].kind not in (None, kinds[position]))
        for i, position in pairs
        if filled[slots[i].row] == wanted[slots[i].row]
    ]


def _align(slots: Sequence[_Slot], kinds: Sequence[str]) -> list[tuple[int, int]]:
    """The longest common subsequence of slots and operators by kind, as pairs of indices."""
    longest = np.zeros((len(slots) + 1, len(kinds) + 1), dtype=int)
    for i in range(len(slots) - 1, -1, -1):
        for j in range(len(kinds) - 1, -1, -1):
            fits = slots[i].kind in (None, kinds[j])
            taken = longest[i + 1, j + 1] + 1 if fits else 0
            longest[i, j] = max(taken, longest[i + 1, j], longest[i, j + 1])
    pairs, i, j = [], 0, 0
    while i < len(slots) and j < len(kinds):
        if slots[i].kind in (None, kinds[j]) and longest[i, j] == longest[i + 1, j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1, j] >= longest[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs


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
