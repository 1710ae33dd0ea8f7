"""Estimates beside a trace that was recorded elsewhere: no probes, no drift, and doubts.

A phase that the recording lacks stays unknown, and so does then the total; likewise a phase whose
operators are not the model's (:mod:`calib.compare.clock.identity`), and wall times that were
recorded with Python's frames. What the device did is a clock of its own: that of the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calib.compare.clock.identity import judge
from calib.compare.clock.measured import join_modules, match_operators, with_operators
from calib.compare.clock.recorded import Recording
from calib.estimates.sums import COMPONENTS

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.reference.measurement import Measurement

NAN = float("nan")


def compare_recorded(
    operators: pd.DataFrame,
    modules: pd.DataFrame,
    components: pd.DataFrame,
    recording: Recording,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The three tables with their measured columns, and what the report says of the trace."""
    measurement, device_s = recording.measurement, recording.device_s
    joined = match_operators(operators, measurement, by_order=True)
    judged = judge(joined, device_s, recording.backward)
    believed = [phase for phase in measurement.phases if phase not in judged.refused]
    operators, coverage = with_operators(joined)
    unknown = ~operators["phase"].isin(believed)
    operators.loc[unknown, ["measured_s", "error", "error_unseen"]] = NAN
    modules = _modules(modules, _only(measurement, believed), recording)
    walls = {
        phase: NAN if recording.stacked else measurement.phase_seconds(phase) for phase in believed
    }
    about = {
        "trace": measurement.device,
        "card": recording.card,
        "stacked": recording.stacked,
        "refused": judged.refused,
        "remarks": judged.remarks,
        "modules": "wall" if device_s is None else "kernels",
        "repeats": {phase: list(s) for phase, s in measurement.phases.items()},
        "device_s": device_s,
        "coverage": coverage,
        "clocks": _clocks(operators, walls, device_s),
    }
    return operators, modules, _components(components, modules, walls), about


def _only(measurement: Measurement, phases: list[str]) -> Measurement:
    """The measurement of some of its phases."""

    def some(of: Mapping[str, Any]) -> dict[str, Any]:
        return {phase: of[phase] for phase in phases}

    kept = measurement.modules[measurement.modules["phase"].isin(phases)]
    return replace(
        measurement,
        phases=some(measurement.phases),
        hooked=some(measurement.hooked),
        repeat=some(measurement.repeat),
        modules=kept,
    )


def _modules(modules: pd.DataFrame, measurement: Measurement, recording: Recording) -> pd.DataFrame:
    """By kernels where a device was recorded; on the host unknown if frames were recorded too."""
    device_s = recording.device_s
    if device_s is None and recording.stacked:
        return join_modules(modules, _only(measurement, []))
    if device_s is None:
        return join_modules(modules, measurement)
    kernels = {phase: [device_s[phase]] for phase in measurement.phases}
    return join_modules(modules, replace(measurement, phases=kernels), of_kernels=True)


def _clocks(
    operators: pd.DataFrame, walls: Mapping[str, float], device_s: Mapping[str, float] | None
) -> list[dict[str, Any]]:
    """By phase: kernels beside all that the device did, the wall time beside the host's clock."""
    column = "wall_s" if "wall_s" in operators else "estimate_s"
    found = []
    for phase, wall in walls.items():
        rows = operators[operators["phase"] == phase]
        kernels = device_s[phase] if device_s else NAN
        for what, estimate, clock in (
            ("operators", rows["estimate_s"].sum(), kernels),
            ("wall", rows[column].sum(), wall),
        ):
            known = clock > 0
            found.append(
                {
                    "phase": phase,
                    "what": what,
                    "estimate_s": float(estimate),
                    "measured_s": clock if known else None,
                    "error": float(estimate / clock - 1) if known else None,
                }
            )
    return found


def _components(
    components: pd.DataFrame, modules: pd.DataFrame, walls: Mapping[str, float]
) -> pd.DataFrame:
    """Wall times; a part of a phase takes that share of it which its module takes of the modules'
    clock."""
    seconds = dict(walls)
    by = modules.set_index(["phase", "path"])["measured_s"]
    for name, (phase, path) in COMPONENTS.items():
        if phase in walls and (phase, path) in by.index:
            seconds[name] = walls[phase] * by[phase, path] / by[phase, ""]
    if "vision" in seconds:
        parts = [seconds[n] for n, (p, _) in COMPONENTS.items() if p == "vision" and n in seconds]
        seconds["vision (rest)"] = seconds["vision"] - sum(parts)
    table = components.copy()
    known = [seconds.get(name, NAN) for name in table["component"]]
    table["measured_s"] = [*known[:-1], sum(known[:-1])]
    for error, estimate_s in (
        ("error", "estimate_s"),
        ("error_unseen", "estimate_unseen_s"),
        ("roofline_error", "roofline_s"),
    ):
        table[error] = table[estimate_s] / table["measured_s"].where(table["measured_s"] > 0) - 1
    return table
