"""What else could be: the same model run in another way, by times, tokens and provenance.

Operators of all cases that share a calibration are asked for at once, since most of what an
estimate costs it costs once a call. Sums, intervals and replays are those of the run itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calib.cards.energy.fitted import Energy
from calib.estimates.energy.power import AT_REST_S, power_of
from calib.estimates.replay.layout import Layout, filled, narrowed_ends
from calib.estimates.replay.schedule import rates
from calib.estimates.sums import WEAK_SHARE
from calib.estimates.tables import found_in_cache
from calib.fit.calibration import ROOFLINE, WEAKEST_FIRST, Estimates, Estimator
from calib.samples.host_costs import HostCosts
from model.layer import Call
from model.ops import Operator
from model.workload import Phase, Workload

DECODE = "decode"
ENDS = {"": "estimate_s", "low_": "low_s", "high_": "high_s"}


@dataclass(frozen=True)
class Case:
    """One way to run a model.

    ``calls``: by phase, in place of the layers' own; ``passes``: how often each phase runs.
    ``costs`` None: a CPU, which has ``module_code_s`` [s] beside each launch instead. ``energy``:
    by whose power the card's clock falls, None where none is known.
    """

    calls: Mapping[str, Sequence[Call]]
    passes: Mapping[str, int]
    workload: Workload
    execution: str
    estimator: Estimator
    costs: HostCosts | None
    module_code_s: float = 0.0
    energy: Energy | None = None


def case_calls(phases: Mapping[str, Phase]) -> dict[str, list[Call]]:
    """The calls of one pass of each phase; their paths do not matter here."""
    return {name: list(phase.layer.launched()) for name, phase in phases.items()}


def outcomes(cases: Sequence[Case], implementation: str) -> list[dict[str, Any]]:
    """One row a case: ``first_s`` (all phases but decode), ``token_s`` (a decode step), the ends of
    their intervals ``first_low_s`` and so on, ``rate`` (tokens that decode makes in a second, or
    inputs where nothing is decoded), ``provenance``.
    """
    known: dict[int, _Known] = {}
    for estimator in {id(case.estimator): case.estimator for case in cases}.values():
        same = [case for case in cases if case.estimator is estimator]
        known[id(estimator)] = _Known(estimator, implementation, same)
    return [_outcome(case, known[id(case.estimator)]) for case in cases]


@dataclass(frozen=True)
class _Rows:
    """The calls of a phase by column, [rows], with ends that add up, and ``each`` with its own;
    their launches in order."""

    ops: list[Operator]
    columns: dict[str, Any]
    layout: Layout
    passes: int
    each: dict[str, Any]

    def slowed(self, factors: np.ndarray) -> _Rows:
        """The same whose kernels take ``factors`` [rows] as long."""
        each = self.each | {name: self.each[name] * factors for name in ENDS.values()}
        columns = self.columns | each | {**narrowed_ends(each), "kind": self.columns["kind"]}
        return replace(self, columns=columns, layout=Layout(columns, self.passes), each=each)


@dataclass
class _Known:
    """Seconds of every operator of ``cases`` by one estimator."""

    estimator: Estimator
    implementation: str
    cases: Sequence[Case]
    ops: list[Operator] = field(init=False)
    place: dict[int, int] = field(init=False)
    kinds: list[str] = field(init=False)
    kind_of: np.ndarray = field(init=False)
    seconds: Estimates = field(init=False)
    whole: dict[tuple[int, int], _Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        calls = (c for case in self.cases for some in case.calls.values() for c in some)
        # Layers that are equal share their operators: by identity first, which costs a tenth.
        objects = {id(call.op): call.op for call in calls}
        number: dict[Operator, int] = {}
        self.place = {i: number.setdefault(op, len(number)) for i, op in objects.items()}
        self.ops = list(number)
        hot = [found_in_cache(op, self.estimator.hardware) for op in self.ops]
        self.kinds = [op.operator for op in self.ops]
        numbers = {kind: i for i, kind in enumerate(dict.fromkeys(self.kinds))}
        self.kind_of = np.array([numbers[kind] for kind in self.kinds])
        self.seconds = self.estimator.estimates(self.ops, self.implementation, hot)

    def rows(self, calls: Sequence[Call], passes: int) -> _Rows:
        """Of a phase; made once for cases that share its calls."""
        key = (id(calls), passes)
        if key not in self.whole:
            self.whole[key] = self._rows(calls, passes)
        return self.whole[key]

    def _rows(self, calls: Sequence[Call], passes: int) -> _Rows:
        """What sums and replays need: the columns of the run's operators."""
        index = np.array([self.place[id(call.op)] for call in calls])
        count = np.array([call.count for call in calls])
        times, found = count * passes, self.seconds
        seconds = {
            "estimate_s": found.seconds[index] * times,
            "low_s": found.low[index] * times,
            "high_s": found.high[index] * times,
        }
        what = {"kind": self.kind_of[index], "dtype": np.zeros_like(index), "shape": index}
        what["provenance"] = found.known_as[index]
        each = seconds | what
        columns = seconds | {
            **narrowed_ends(each),
            "kind": [self.kinds[i] for i in index.tolist()],
            "count": count,
            "launches": np.array([call.launches for call in calls]),
            "sync": np.array([call.sync for call in calls]),
            "provenance": what["provenance"],
        }
        ops = [self.ops[i] for i in index.tolist()]
        return _Rows(ops, columns, Layout(columns, passes), passes, each)


def _outcome(case: Case, known: _Known) -> dict[str, Any]:
    walls: dict[str, dict[str, float]] = {}
    carried: dict[str, float] = {}
    rest_s = AT_REST_S
    for phase, calls in case.calls.items():
        rows = known.rows(calls, case.passes[phase])
        walls[phase], rest_s = wall_seconds(rows, case, rest_s)
        how, seconds = rows.columns["provenance"], rows.columns["estimate_s"]
        for name in WEAKEST_FIRST:
            carried[name] = carried.get(name, 0.0) + float(seconds[how == name].sum())
    return {**figures(walls, case.workload), "provenance": weakest(carried)}


def wall_seconds(rows: _Rows, case: Case, rest_s: float) -> tuple[dict[str, float], float]:
    """Wall time of all passes of a phase, and the ends of its interval [s]; and what is left of
    ``rest_s`` (:meth:`calib.estimates.energy.power.Power.longer`)."""
    columns = rows.columns
    if case.costs is None:
        launches = float((columns["launches"] * columns["count"]).sum()) * rows.passes
        code_s = case.module_code_s * launches
        ends = ENDS.items()
        return {end: float(filled(columns, name).sum()) + code_s for end, name in ends}, rest_s
    walls = replayed(rows, case.execution, case.costs)
    times = columns["count"] * rows.passes
    power = power_of(rows.ops, times, case.energy, case.estimator.hardware)
    if power is None:
        return walls, rest_s
    factors, rest_s = power.longer(columns["estimate_s"], walls[""], rest_s)
    if (factors > 1).any():
        walls = replayed(rows.slowed(factors), case.execution, case.costs)
    return walls, rest_s


def replayed(rows: _Rows, execution: str, costs: HostCosts) -> dict[str, float]:
    """Wall time of all passes of a phase, and the ends of its interval [s]."""
    return {
        end: float(rows.layout.wall(column, execution, rates(costs, column)).sum())
        for end, column in ENDS.items()
    }


def figures(walls: Mapping[str, Mapping[str, float]], workload: Workload) -> dict[str, float]:
    """What a user asks for, out of the phases' wall times [s]."""
    found: dict[str, float] = {}
    for end in ENDS:
        first = sum(ends[end] for phase, ends in walls.items() if phase != DECODE)
        found[f"first_{end}s"] = first
        if DECODE in walls:
            found[f"token_{end}s"] = walls[DECODE][end] / workload.decode_steps
    found["rate"] = workload.batch / (found["token_s"] if DECODE in walls else found["first_s"])
    return found


def weakest(carried: Mapping[str, float]) -> str:
    """The weakest provenance that carries more than a twentieth of the seconds."""
    whole = max(sum(carried.values()), 1e-30)
    weak = (how for how in WEAKEST_FIRST if carried.get(how, 0.0) > WEAK_SHARE * whole)
    return next(weak, ROOFLINE)
