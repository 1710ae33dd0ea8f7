"""What a card's power makes of a phase that keeps it busy: its clock falls until it holds the draw.

With c the clock as a share of the one that samples of milliseconds ran at, t an operator's seconds
there, and a the part of them that the clock sets, its arithmetic over its bytes at the datasheet's
rates and all of them where the cache serves it,

    seconds at c           = max(t, a t / c)
    joules above idle at c = c^2.5 * above idle

and c is the highest at which a phase draws no more than the ceiling that was fitted to what was
counted (:mod:`calib.cards.energy.fitted`). Main memory keeps its clock, so what it bounds takes as
long as before. For a while (``AT_REST_S``) a card that was idle draws more than it may:

    seconds = t + (share of the wall time beyond that) * (seconds at c - t)

Joules of a switch go with the voltage squared, and what is left to the clock draws less by itself:
of powers of 1 to 5, by half steps, 2.5 errs least on products that were run for a second, 3 half a
point more (``python -m benchmarks.energy``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calib.cards.energy.fitted import Energy, work_of
from calib.estimates.sums import WALL_OF
from calib.estimates.tables import found_in_cache
from calib.estimates.timeline import with_wall
from calib.hardware.datasheet import Hardware
from calib.samples.host_costs import GRAPH, HostCosts
from model.ops import Operator

if TYPE_CHECKING:
    import pandas as pd

FALL = 2.5
AT_REST_S = 0.1
"""Of a prefill of 8,192 tokens on two H200s the layers were as fast as the first until 70 and 90 to
150 milliseconds had gone, then slower by 6 and 9% (``python -m benchmarks.energy``)."""
_LEAST = 0.02
"""By which a pass has to be longer for a note."""
_CLOCKS = np.linspace(0.2, 1.0, 401)
"""Where a clock is looked for; watts rise with it."""


@dataclass(frozen=True)
class Power:
    """Of rows of operators, [rows]: ``work`` [rows, 4], seconds of one execution at the datasheet's
    rates (:func:`calib.cards.energy.fitted.work_of`); ``times``: executions in all passes."""

    energy: Energy
    work: np.ndarray
    times: np.ndarray

    def of(self, rows: np.ndarray) -> Power:
        """Of some of the rows, by place."""
        return replace(self, work=self.work[rows], times=self.times[rows])

    def above(self, seconds: np.ndarray) -> np.ndarray:
        """[rows] joules above idle at the full clock. ``seconds`` [rows]: of all executions."""
        return self.energy.above(self.work, seconds / self.times) * self.times

    def by_clock(self) -> np.ndarray:
        """[rows] the part of an operator's seconds that the clock sets."""
        core, memory = self.work[:, :2].max(axis=1), self.work[:, 2]
        share = core / np.where(memory > 0, memory, 1.0)
        return np.where(memory > 0, np.minimum(share, 1.0), 1.0)

    def clock(self, seconds: np.ndarray, wall_s: float) -> float:
        """The clock's share that the ceiling leaves when work goes on and on."""
        above, ceiling = float(self.above(seconds).sum()), self.energy.ceiling_w
        if not above > ceiling * wall_s:
            return 1.0
        part = self.by_clock()[:, None]
        later = seconds @ (np.maximum(1.0, part / _CLOCKS) - 1.0)
        drawn = above * _CLOCKS**FALL / (wall_s + later)
        return float(np.interp(ceiling, drawn, _CLOCKS))

    def longer(
        self, seconds: np.ndarray, wall_s: float, rest_s: float = AT_REST_S
    ) -> tuple[np.ndarray, float]:
        """By what factor kernels take longer than ``seconds`` [rows] in a phase that takes
        ``wall_s`` with them, [rows], 1 where not all is known; and what is left of ``rest_s``, for
        which the card may draw more. 0 of it: the phase is run on and on.
        """
        unheld = np.ones(len(seconds))
        if not wall_s > 0 or not np.isfinite(seconds).all():
            return unheld, rest_s
        clock = self.clock(seconds, wall_s)
        if clock == 1.0:
            return unheld, rest_s
        at_clock = np.maximum(1.0, self.by_clock() / clock)
        late = max(0.0, 1.0 - rest_s / wall_s)
        return 1.0 + late * (at_clock - 1.0), max(0.0, rest_s - wall_s)


def power_of(
    ops: Sequence[Operator], times: np.ndarray, energy: Energy | None, hardware: Hardware
) -> Power | None:
    """Of rows whose operators are ``ops`` [rows], each executed ``times`` [rows]; None where
    ``energy`` is."""
    if energy is None:
        return None
    different = list(dict.fromkeys(ops))
    place = {op: i for i, op in enumerate(different)}
    hot = [found_in_cache(op, hardware) for op in different]
    work = work_of(different, hot, hardware)[[place[op] for op in ops]]
    return Power(energy, work, np.asarray(times, dtype=float))


def executions(operators: pd.DataFrame, repeats: Mapping[str, int]) -> np.ndarray:
    """[rows] in all passes. ``repeats``: passes of each phase."""
    times = operators["count"] * operators["phase"].map(dict(repeats))
    return times.to_numpy(dtype=float)


def timed(
    operators: pd.DataFrame,
    power: Power | None,
    repeats: Mapping[str, int],
    costs: HostCosts | None,
    execution: str,
    module_code_s: float = 0.0,
    rest_s: float = AT_REST_S,
) -> tuple[pd.DataFrame, list[str]]:
    """``operators`` with wall time (:func:`calib.estimates.timeline.with_wall`, whose arguments
    these are), their kernels as long as the card's power makes them; and a note of each phase that
    would take longer if it were run on and on. ``power`` None: nothing holds the card back;
    ``rest_s`` 0: it is run on and on."""
    found = with_wall(operators, repeats, costs, execution, module_code_s)
    if power is None or costs is None:
        return found, []
    own, graph = (longer(found, power, wall, rest_s) for wall in ("wall_s", "graph_s"))
    notes = power_notes(found, power, own)
    if (own > 1).any():
        found = with_wall(scaled(operators, own), repeats, costs, execution, module_code_s)
    if (graph != own).any():
        found["graph_s"] = with_wall(scaled(operators, graph), repeats, costs, GRAPH)["graph_s"]
    return found, notes


def longer(
    operators: pd.DataFrame, power: Power, wall: str, rest_s: float = AT_REST_S
) -> np.ndarray:
    """[rows] the factor of every kernel, by the column ``wall``; phases follow one another."""
    factors, phases = np.ones(len(operators)), operators["phase"].to_numpy()
    seconds, walls = (operators[n].to_numpy(dtype=float) for n in ("estimate_s", wall))
    for phase in dict.fromkeys(phases):
        at = np.flatnonzero(phases == phase)
        each, wall_s = power.of(at), float(walls[at].sum())
        factors[at], rest_s = each.longer(seconds[at], wall_s, rest_s)
    return factors


def scaled(operators: pd.DataFrame, factors: np.ndarray) -> pd.DataFrame:
    """``operators`` whose kernels take ``factors`` [rows] as long."""
    kernels = [*WALL_OF, "triton_s"]
    return operators.assign(
        **{name: operators[name].to_numpy(dtype=float) * factors for name in kernels},
        efficiency=operators["efficiency"].to_numpy(dtype=float) / factors,
    )


def power_notes(operators: pd.DataFrame, power: Power, own: np.ndarray) -> list[str]:
    """``operators``: with wall time, at the full clock; ``own`` [rows]: the factors of this run."""
    seconds = operators["estimate_s"].to_numpy(dtype=float)
    later = {
        "here": seconds * (own - 1.0),
        "on": seconds * (longer(operators, power, "wall_s", rest_s=0.0) - 1.0),
    }
    notes = []
    for phase in operators["phase"].unique():
        rows = (operators["phase"] == phase).to_numpy()
        wall_s = operators.loc[rows, "wall_s"].sum()
        here, on = (float(s[rows].sum() / wall_s) for s in later.values())
        if on > _LEAST:
            notes.append(
                f"{phase} asks for more power than the card draws ({power.energy.ceiling_w:.0f} W "
                f"above idle), so its clock falls: its time here is {here:.1%} longer than at the "
                f"full clock, run on and on {on:.1%} (the first {AT_REST_S:g} s from rest are not)."
            )
    return notes
