"""Estimates beside the clock: components, the machine's drift, and the error with and without it.

The sweep and the model run minutes apart on a machine that others share. Probes around both say how
fast it was each time; the error is that of the estimate against the measured time brought to the
sweep's machine state. Raw values, raw error and drift stand beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib.estimates.sums import COMPONENTS
from calib.samples.host_costs import ORIGIN
from calib.samples.sample import Sample

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.probes import Speed
    from calib.measure.reference.measurement import Measurement

UNSTABLE_DRIFT = 0.15
"""A drift above this marks a run as unstable."""


def compare(
    operators: pd.DataFrame,
    modules: pd.DataFrame,
    components: pd.DataFrame,
    measurement: Measurement,
    speeds: Mapping[str, Speed],
    samples: Sequence[Sample],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The three tables with their measured columns, and what the report says of the measurement.

    ``speeds``: what the probes said before each pass, under the names that ``measure_reference``
    gives its passes, in order.
    """
    from calib.compare.clock.measured import join_modules, join_operators, phase_gaps

    slowdown = slowdowns(operators, measurement, speeds, samples)
    steady = steady_seconds(measurement, slowdown)
    typical = {phase: measurement.phase_seconds(phase) / s for phase, s in steady.items()}
    operators, coverage = join_operators(operators, measurement, typical)
    modules = join_modules(modules, measurement, typical)
    components = with_measured(components, measurement, steady)
    total = components.iloc[-1]
    drift = max(abs(s - 1) for repeats in slowdown.values() for s in repeats)
    return (
        operators,
        modules,
        components,
        {
            "repeats": {phase: list(s) for phase, s in measurement.phases.items()},
            "slowdown": slowdown,
            "drift": drift,
            "host_drift": host_drift(samples, speeds),
            "lengths": measurement.lengths,
            "spread": spread(measurement),
            "unstable": bool(drift > UNSTABLE_DRIFT or spread(measurement) > UNSTABLE_DRIFT),
            "raw_total_error": float(total["estimate_s"] / total["measured_s"] - 1),
            "experts_touched": measurement.experts_touched,
            "decoder_layers": measurement.decoder_layers,
            "parameters": measurement.parameters,
            "memory_bytes": measurement.memory_bytes,
            "threads": measurement.threads,
            "overheads": measurement.overheads,
            "coverage": coverage,
            "clocks": clocks(operators, coverage, steady, typical),
            "gaps": phase_gaps(measurement).to_dict("records"),
            "probes": {name: s.as_dict() for name, s in speeds.items()},
        },
    )


def clocks(
    operators: pd.DataFrame,
    coverage: Mapping[str, Any],
    steady: Mapping[str, float],
    slowdown: Mapping[str, float],
) -> list[dict[str, Any]]:
    """By phase, sums of the one table of operators, each beside its own clock: of the operators
    alone beside the profiler's of all that ran, and of the wall time beside the host's clock.

    ``steady``, ``slowdown``: the phase's wall time at the sweep's machine state [s], and the factor
    that was taken out of it. (A graph has no clock here; ``benchmarks.card.graph_decode`` is one.)
    """
    found = []
    column = "wall_s" if "wall_s" in operators else "estimate_s"  # a CPU's are the same
    for phase, rows in operators.groupby("phase", sort=False):
        name = str(phase)
        profiled = coverage["phases"].get(name, {}).get("operators_s")
        measured = {
            "operators": (rows["estimate_s"].sum(), profiled and profiled / slowdown[name]),
            "wall": (rows[column].sum(), steady[name]),
        }
        found += [
            {
                "phase": name,
                "what": what,
                "estimate_s": float(estimate),
                "measured_s": clock or None,
                "error": float(estimate / clock - 1) if clock else None,
            }
            for what, (estimate, clock) in measured.items()
        ]
    return found


def spread(measurement: Measurement) -> float:
    """(slowest - fastest) / median of the whole workload over its repeats."""
    totals = [sum(s) for s in zip(*measurement.phases.values(), strict=True)]
    return (max(totals) - min(totals)) / statistics.median(totals)


def slowdowns(
    operators: pd.DataFrame,
    measurement: Measurement,
    speeds: Mapping[str, Speed],
    samples: Sequence[Sample],
) -> dict[str, list[float]]:
    """Phase -> for each repeat, how much slower the machine was than during the sweep.

    The compute probe's and the bandwidth probe's slowdown, each the mean over the probes before, in
    and after the pass, blended by which of the two bounds the time of the phase's operators. Of a
    phase that a card's host bounds, that part goes by the host's probe, against the one beside the
    measured host costs.
    """
    flops = statistics.median(s.probe_flops for s in samples if s.probe_flops)
    bandwidth = statistics.median(s.probe_bandwidth for s in samples if s.probe_bandwidth)
    issued = host_speed(samples)
    found: dict[str, list[float]] = {}
    for phase, rows in operators.groupby("phase", sort=False):
        bounded = rows.loc[rows["bound"] == "compute", "estimate_s"].sum()
        share = bounded / rows["estimate_s"].sum()
        paced = host_share(rows) if issued else 0.0
        for repeat in range(len(measurement.phases[str(phase)])):
            around = _around(speeds, f"timed {repeat} {phase}")
            compute = statistics.fmean(flops / s.flops for s in around)
            memory = statistics.fmean(bandwidth / s.bandwidth for s in around)
            slower = float(share * compute + (1 - share) * memory)
            if issued and paced and all(s.host for s in around):
                host = statistics.fmean(issued / s.host for s in around if s.host)
                slower = paced * host + (1 - paced) * slower
            found.setdefault(str(phase), []).append(slower)
    return found


def host_speed(samples: Sequence[Sample]) -> float | None:
    """Tiny operators a second that the host issued when its costs were measured; None: unknown."""
    known = [s.probe_host for s in samples if s.origin == ORIGIN and s.probe_host]
    return statistics.median(known) if known else None


def host_share(rows: pd.DataFrame) -> float:
    """Of a phase's wall time, that of the launches for which the device waited: the host's pace."""
    if "idle_s" not in rows or not rows["wall_s"].sum():
        return 0.0
    return float(rows.loc[rows["idle_s"] > 0, "wall_s"].sum() / rows["wall_s"].sum())


def host_drift(samples: Sequence[Sample], speeds: Mapping[str, Speed]) -> dict[str, float] | None:
    """How far the host was from its speed when its costs were measured: the ``slowest`` and the
    ``fastest`` probe, in the sweep or beside the model, over that one; None where no one asked."""
    typical = host_speed(samples)
    if not typical:
        return None
    asked = [s.probe_host for s in samples if s.probe_host]
    asked += [s.host for s in speeds.values() if s.host]
    return {"slowest": min(asked) / typical, "fastest": max(asked) / typical}


def steady_seconds(
    measurement: Measurement, slowdown: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Phase -> median of its repeats [s], each brought to the machine's speed in the sweep."""
    return {
        phase: statistics.median(t / s for t, s in zip(times, slowdown[phase], strict=True))
        for phase, times in measurement.phases.items()
    }


def _around(speeds: Mapping[str, Speed], begin: str) -> list[Speed]:
    """The probes from the beginning of a pass to the next one that is not within it."""
    names = list(speeds)
    first = names.index(begin)
    last = first + 1
    while names[last].startswith(begin + " "):
        last += 1
    return [speeds[name] for name in names[first : last + 1]]


def with_measured(
    components: pd.DataFrame,
    measurement: Measurement,
    steady: Mapping[str, float],
) -> pd.DataFrame:
    """Measured seconds of each component: whole phases, and the named parts of the vision phase.

    Parts are measured between hooks, on passes of their own; their share of those passes, times the
    phase without hooks, is what the table shows.
    """
    raw = {phase: measurement.phase_seconds(phase) for phase in measurement.phases}
    shares: dict[str, tuple[str, float]] = {phase: (phase, 1.0) for phase in raw}
    for name, (phase, path) in COMPONENTS.items():
        shares[name] = (phase, hooked_share(measurement, phase, path))
    shares["vision (rest)"] = ("vision", 1.0 - sum(shares[name][1] for name in COMPONENTS))

    def column(seconds: Mapping[str, float]) -> list[float]:
        parts = {name: seconds[phase] * share for name, (phase, share) in shares.items()}
        return [parts.get(n, sum(seconds.values())) for n in components["component"]]

    table = components.copy()
    table["measured_s"] = column(raw)
    table["normalised_s"] = column(steady)
    table["error"] = table["estimate_s"] / table["normalised_s"] - 1
    table["error_unseen"] = table["estimate_unseen_s"] / table["normalised_s"] - 1
    table["roofline_error"] = table["roofline_s"] / table["normalised_s"] - 1
    return table


def hooked_share(measurement: Measurement, phase: str, path: str) -> float:
    """Share of a phase's hooked passes that a module takes, over all repeats together.

    One quotient of sums: the shares of modules side by side then never exceed their phase.
    """
    table = measurement.modules
    row = table[(table["phase"] == phase) & (table["path"] == path)].iloc[0]
    return float(sum(row["seconds"])) * measurement.repeat[phase] / sum(measurement.hooked[phase])
