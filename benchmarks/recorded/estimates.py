"""Every recorded phase beside its estimate, by several calibrations.

Ours and theirs are matched within a module path by order (``calib.compare.clock.measured``): a call
takes as many recorded operators as it launches. Sums compare all kernels of both sides, matched or
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmarks.recorded.record import Record, Recorded
from calib.cards.energy.fitted import Energy
from calib.compare.clock.measured import join_operators
from calib.estimates.energy.power import executions, power_of, timed
from calib.estimates.replay.first_time import Extra, of_new_length, plans_of
from calib.estimates.sums import WALL, Ends
from calib.estimates.tables import operator_table
from calib.estimates.timeline import with_wall
from calib.fit.calibration import Estimator
from calib.measure.reference.measurement import Measurement
from calib.samples.host_costs import EAGER, HostCosts, slowed
from model.workload import Phase

PAIR = ("model", "workload", "phase")


@dataclass(frozen=True)
class Way:
    """A calibration, the host costs and the joules that are known with it. ``name``: its column."""

    name: str
    calibration: Estimator
    costs: HostCosts
    energy: Energy | None = None


@dataclass(frozen=True)
class Compared:
    """``phases``: a row a recorded phase and way: PAIR, way, kernel_s, graph_s, wall_s, again_s and
    their estimates, while_s, known_host (as ``Recorded`` has them), new_length_s (what the wall's
    estimate holds of planning), matched (the share of the recorded kernel time that went to a call
    of ours), all of one pass. ``operators``: a row a call,
    way and phase: kind, shape, path, estimate_s, measured_s (null where not matched), roofline_s,
    of one pass; recorded operators without a call are rows whose ``estimate_s`` is 0."""

    phases: pd.DataFrame
    operators: pd.DataFrame


def compared(
    record: Record, phases: Mapping[tuple[str, str], Mapping[str, Phase]], ways: Sequence[Way]
) -> Compared:
    rows, operators = [], []
    for one in record.phases:
        passes = phases[one.model, one.workload]
        for way in ways:
            table, row = estimated(one, passes, way)
            rows.append(row)
            operators.append(table)
    return Compared(pd.DataFrame(rows), pd.concat(operators, ignore_index=True))


def estimated(
    one: Recorded, passes: Mapping[str, Phase], way: Way
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The calls of one phase with their recorded seconds; and its row of ``phases``.

    ``passes``: every phase of its model, which say what grows.
    """
    repeat = passes[one.phase].repeat
    names = {"model": one.model, "workload": one.workload}
    asked = {one.phase: passes[one.phase]}
    table = operator_table(asked, way.calibration, None, "torch", names)
    ops, repeats = [call.op for call in passes[one.phase].layer.calls()], {one.phase: repeat}
    power = power_of(ops, executions(table, repeats), way.energy, way.calibration.hardware)
    table, _ = timed(table, power, repeats, way.costs, EAGER)
    below, above = Ends(table).distances(slice(None))
    joined, share = matched(table, one, repeat)
    seconds = ["estimate_s", "low_s", "high_s", "roofline_s", "measured_s", "graph_s", "wall_s"]
    joined[seconds] = joined[seconds].astype(float) / repeat
    found = {name: float(joined[name].sum(skipna=False)) for name in seconds}
    row = {
        **names,
        **{"phase": one.phase, "way": way.name, "matched": share},
        **{"kernel_s": one.kernel_s, "kernel_estimate_s": found["estimate_s"]},
        **{"low_s": found["estimate_s"] - below / repeat},
        **{"high_s": found["estimate_s"] + above / repeat},
        **{"graph_s": one.graph_s, "graph_estimate_s": found["graph_s"]},
        **walls(one, table, passes, way),
    }
    columns = [*PAIR, "path", "kind", "shape", "dtype", "count", *seconds[:5], "provenance"]
    return pd.concat([joined[columns], unmatched(one, joined)]).assign(way=way.name), row


def walls(
    one: Recorded, table: pd.DataFrame, passes: Mapping[str, Phase], way: Way
) -> dict[str, Any]:
    """The recorded walls beside their estimates, like with like: over new lengths with what torch
    plans of them, over the same again without; each at the speed that its host had.

    ``table``: the rows of the phase's operators.
    """
    new, again = (
        replayed(table, passes[one.phase].repeat, at_speed(one, way, slower))
        for slower in (one.slower, one.again_slower)
    )
    extra = first_time(one, passes, way)
    return {
        **{"wall_s": one.wall_s, "wall_estimate_s": new["wall_s"] + extra.estimate_s},
        **{"wall_low_s": new["wall_low_s"] + extra.low_s},
        **{"wall_high_s": new["wall_high_s"] + extra.high_s},
        **{"again_s": one.again_s, "again_estimate_s": again["wall_s"]},
        **{"while_s": one.while_s, "known_host": one.known_host},
        **{"new_length_s": extra.estimate_s},
    }


def at_speed(one: Recorded, way: Way, slower: float) -> HostCosts:
    return slowed(way.costs, slower) if one.known_host else way.costs


def replayed(table: pd.DataFrame, repeat: int, costs: HostCosts) -> dict[str, float]:
    """Of one pass: the wall time and both ends."""
    walled = with_wall(table, dict.fromkeys(table["phase"], repeat), costs, EAGER)
    return {n: float(walled[n].sum(skipna=False)) / repeat for n in WALL[:3]}


def first_time(one: Recorded, passes: Mapping[str, Phase], way: Way) -> Extra:
    """What the recorded runs of a phase hold of planning: those over new lengths alone do."""
    if not one.new_lengths:
        return Extra()
    capability = way.calibration.hardware.compute_capability
    return of_new_length(plans_of(passes, capability), at_speed(one, way, one.slower))


def matched(table: pd.DataFrame, one: Recorded, repeat: int) -> tuple[pd.DataFrame, float]:
    """Ours with the recorded seconds, and the share of the recorded time that found its call.

    Some recorded operators launched no kernel (a constant made on the host). Whether ours have
    them too differs, so they are tried with and without: the larger share is right.
    """
    ran = one.operators[one.operators["seconds"] > 0].reset_index(drop=True)
    tried = [one, replace(one, operators=ran)]
    found = [join_operators(table, measurement(t, repeat)) for t in tried]
    joined, coverage = max(found, key=lambda pair: pair[1]["share"] or 0.0)
    return joined, float(coverage["share"] or 0.0)


def unmatched(one: Recorded, joined: pd.DataFrame) -> pd.DataFrame:
    """The recorded time that no call took, by kind and as one row each."""
    theirs = one.operators.groupby("kind")["seconds"].sum()
    rest = one.kernel_s - float(joined["measured_s"].sum())
    row = {
        **dict(zip(PAIR, (one.model, one.workload, one.phase), strict=True)),
        **{"path": "", "kind": NOT_MATCHED, "shape": "", "dtype": "", "count": 1},
        **{"estimate_s": 0.0, "low_s": 0.0, "high_s": 0.0, "roofline_s": 0.0},
        **{"measured_s": rest, "provenance": ""},
    }
    return pd.DataFrame([row] if len(theirs) and rest > 1e-12 else [], columns=list(row))


NOT_MATCHED = "(not matched)"


def measurement(one: Recorded, repeat: int) -> Measurement:
    """The recorded operators as the join takes them."""
    return Measurement(
        workload={},
        device="",
        phases={one.phase: [one.wall_s or 0.0]},
        hooked={},
        repeat={one.phase: repeat},
        modules=pd.DataFrame(),
        operators=one.operators.assign(phase=one.phase),
        experts_touched={},
        decoder_layers=0,
        parameters=0,
        memory_bytes=0,
        threads=0,
        overheads={},
        versions={},
    )
