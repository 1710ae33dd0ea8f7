"""Estimates beside the clock: components, the machine's drift, and the error with and without it.

The sweep and the model run minutes apart on a machine that others share. Probes around both say how
fast it was each time; the error is that of the estimate against the measured time brought to the
sweep's machine state. Raw values, raw error and drift stand beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calib.estimate import COMPONENTS, component_names
from calib.samples import Sample

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.probes import Speed
    from calib.measure.reference import Measurement

UNSTABLE_DRIFT = 0.15
"""A drift above this marks a run as unstable."""


def compare(
    operators: pd.DataFrame,
    modules: pd.DataFrame,
    components: pd.DataFrame,
    measurement: Measurement,
    speeds: Sequence[Speed],
    samples: Sequence[Sample],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The three tables with their measured columns, and what the report says of the measurement."""
    from calib.measured import join_modules, join_operators

    slowdown = slowdowns(operators, speeds, samples)
    operators, coverage = join_operators(operators, measurement, slowdown)
    modules = join_modules(modules, measurement, slowdown)
    components = with_measured(components, operators, modules, measurement, slowdown)
    total = components.iloc[-1]
    drift = max(abs(s - 1) for s in slowdown.values())
    return (
        operators,
        modules,
        components,
        {
            "repeats": {phase: list(s) for phase, s in measurement.phases.items()},
            "slowdown": slowdown,
            "drift": drift,
            "unstable": bool(drift > UNSTABLE_DRIFT or spread(measurement) > UNSTABLE_DRIFT),
            "spread": spread(measurement),
            "raw_total_error": float(total["estimate_s"] / total["measured_s"] - 1),
            "experts_touched": measurement.experts_touched,
            "decoder_layers": measurement.decoder_layers,
            "parameters": measurement.parameters,
            "memory_bytes": measurement.memory_bytes,
            "threads": measurement.threads,
            "overheads": measurement.overheads,
            "coverage": coverage,
            "probes": [s.as_dict() for s in speeds],
        },
    )


def spread(measurement: Measurement) -> float:
    """(slowest - fastest) / median of the whole workload over its repeats."""
    totals = [sum(s) for s in zip(*measurement.phases.values(), strict=True)]
    return (max(totals) - min(totals)) / statistics.median(totals)


def slowdowns(
    operators: pd.DataFrame, speeds: Sequence[Speed], samples: Sequence[Sample]
) -> dict[str, float]:
    """Phase -> how much slower the machine was while the model ran than during the sweep.

    The compute probe's and the bandwidth probe's slowdown, blended by which of the two bounds the
    time of the phase's operators.
    """
    flops = statistics.median(s.probe_flops for s in samples if s.probe_flops)
    bandwidth = statistics.median(s.probe_bandwidth for s in samples if s.probe_bandwidth)
    compute = flops / statistics.median(s.flops for s in speeds)
    memory = bandwidth / statistics.median(s.bandwidth for s in speeds)
    found = {}
    for phase, rows in operators.groupby("phase", sort=False):
        bounded = rows.loc[rows["bound"] == "compute", "estimate_s"].sum()
        share = bounded / rows["estimate_s"].sum()
        found[str(phase)] = float(share * compute + (1 - share) * memory)
    return found


def with_measured(
    components: pd.DataFrame,
    operators: pd.DataFrame,
    modules: pd.DataFrame,
    measurement: Measurement,
    slowdown: dict[str, float],
) -> pd.DataFrame:
    """Measured seconds of each component: whole phases, and the named parts of the vision phase."""
    phase_of = dict(zip(component_names(operators), operators["phase"], strict=True))
    seconds = {phase: measurement.phase_seconds(phase) for phase in measurement.phases}
    parts: dict[str, float] = {}
    for name, (phase, path) in COMPONENTS.items():
        row = modules[(modules["phase"] == phase) & (modules["path"] == path)]
        parts[name] = float(row["measured_s"].iloc[0])
    rest = seconds["vision"] - sum(parts.values())
    known = {**parts, "vision (rest)": rest, **seconds}
    table = components.copy()
    names = table["component"]
    table["measured_s"] = [known.get(n, sum(seconds.values())) for n in names]
    steady = {n: known[n] / slowdown[phase_of[n]] for n in names if n in phase_of}
    at_rest = [steady.get(n, sum(steady.values())) for n in names]
    table["normalised_s"] = at_rest
    table["error"] = table["estimate_s"] / at_rest - 1
    table["error_unseen"] = table["estimate_unseen_s"] / at_rest - 1
    table["roofline_error"] = table["roofline_s"] / at_rest - 1
    return table
