"""Whole phases of models, counted: by the clock's seconds of their operators, and by calib's own.

``phases.parquet``: passes, seconds and joules of each, eager and as a graph. A row of
``phase_operators.parquet`` is an operator of one shape in one pass: executions, the profiler's
seconds, and what its work takes at the datasheet's rates (``calib.cards.energy.fitted``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.card.asked import plan
from benchmarks.recorded.routing import of_random_weights
from benchmarks.recorded.workloads import model_of
from calib.cards.energy.fitted import RESOURCES, SHARP, Energy
from calib.cards.shipped import load_card
from calib.errors import CalibError
from calib.estimates.energy.joules import SECONDS, of_phase, with_joules
from calib.estimates.energy.power import executions, power_of, timed
from calib.estimates.sums import JOULES
from calib.estimates.tables import operator_table
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.host_costs import EAGER, GRAPH, host_costs
from model.workload import Phase

NAMES = ("model", "workload", "phase")
WORK = [f"{name}_s" for name in RESOURCES]


@dataclass(frozen=True)
class CountedPhase:
    """One pass. ``work`` [n, 4], ``seconds`` [n], ``executions`` [n]: of its operators; ``wall_s``
    and ``joules``: off the counter. ``flops``, ``bytes``: of all of it."""

    model: str
    workload: str
    phase: str
    execution: str
    wall_s: float
    joules: float
    work: np.ndarray
    seconds: np.ndarray
    executions: np.ndarray
    flops: float
    bytes: float

    @property
    def name(self) -> str:
        return f"{self.model} {self.workload} {self.phase}"

    @property
    def kernel_s(self) -> float:
        return float(self.seconds.sum())

    def above(self, energy: Energy) -> float:
        """Joules above idle of all executions, no ceiling."""
        return float((self._each(energy) * self.executions).sum())

    def held_each(self, energy: Energy) -> float:
        """Joules with a ceiling of each operator in place of the phase's."""
        each = self._each(energy)
        drawn = each * energy.drawn(each, self.seconds / self.executions)
        return float((drawn * self.executions).sum()) + energy.idle_w * self.wall_s

    def _each(self, energy: Energy) -> np.ndarray:
        """[n] joules above idle of one execution."""
        return energy.above(self.work / self.executions[:, None], self.seconds / self.executions)


@dataclass(frozen=True)
class Predicted:
    """Joules of one pass, and the ends of their interval."""

    joules: float
    low: float
    high: float


def read_phases(folder: Path) -> list[CountedPhase]:
    counted = pd.read_parquet(folder / "phases.parquet").to_dict("records")
    operators = pd.read_parquet(folder / "phase_operators.parquet")
    by = {tuple(map(str, key)): rows for key, rows in operators.groupby(list(NAMES), sort=False)}
    return [_phase(row, by[tuple(str(row[n]) for n in NAMES)]) for row in counted]


def _phase(row: Mapping[Any, Any], operators: pd.DataFrame) -> CountedPhase:
    hardware = load_hardware(str(row["hardware"]))
    peaks = operators["dtype"].map(hardware.peak_flops).fillna(hardware.cuda_core_flops)
    arithmetic = operators["tensor_s"] * peaks + operators["vector_s"] * hardware.cuda_core_flops
    moved = (operators["memory_s"] + operators["cache_s"]) * hardware.bandwidth
    return CountedPhase(
        *(str(row[n]) for n in NAMES),
        str(row["execution"]),
        row["seconds"] / row["passes"],
        row["joules"] / row["passes"],
        operators[WORK].to_numpy(dtype=float),
        operators["seconds"].to_numpy(dtype=float),
        operators["executions"].to_numpy(dtype=float),
        float(arithmetic.sum()),
        float(moved.sum()),
    )


def at_wall(above: float, kernel_s: float, wall_s: float, energy: Energy) -> Predicted:
    """Of a pass that takes ``wall_s``, whose operators draw ``above`` idle before the ceiling."""
    wall = np.array([wall_s])
    seconds = dict(zip(SECONDS, (np.array([kernel_s]), wall, wall, wall), strict=True))
    found = of_phase(np.array([above]), seconds, energy)
    return Predicted(*(float(column[0]) for column in found))


def by_clock(one: CountedPhase, energy: Energy) -> Predicted:
    """With the clock's seconds, of each operator and of the wall."""
    return at_wall(one.above(energy), one.kernel_s, one.wall_s, energy)


def own(hardware: Hardware, energy: Energy) -> dict[tuple[str, str, str, str], pd.DataFrame]:
    """By model, workload, phase and execution, calib's own rows of one pass."""
    card, costs = load_card(hardware), host_costs([], hardware.name)
    if card is None:
        raise CalibError(f"{hardware.name} ships no calibration: expected one")
    found = {}
    for model, workload, phase, passes in described():
        names = {"model": model, "workload": workload}
        alone = {phase: passes}
        table = operator_table(alone, card, None, "torch", names)
        ops, repeats = [call.op for call in passes.layer.calls()], {phase: passes.repeat}
        power = power_of(ops, executions(table, repeats), energy, hardware)
        for execution in (EAGER, GRAPH):
            # They were counted over a while of passes, one after the other.
            walled, _ = timed(table, power, repeats, costs, execution, rest_s=0.0)
            rows = with_joules(walled, power)
            columns = ["estimate_s", "wall_s", *JOULES]
            rows[columns] = rows[columns].astype(float) / passes.repeat
            found[model, workload, phase, execution] = rows
    return found


def described() -> Iterator[tuple[str, str, str, Phase]]:
    """What ``benchmarks.card.models`` runs, as calib describes it without a card."""
    for asked in plan():
        model = model_of(asked.model)
        if model is None:
            continue
        for phase, passes in model.phases(asked.workload).items():
            yield asked.model, asked.workload.name, phase, of_random_weights(asked.model, passes)


def predicted(rows: pd.DataFrame) -> Predicted:
    return Predicted(*(float(rows[name].sum(skipna=False)) for name in JOULES))


def own_kernels(rows: pd.DataFrame, one: CountedPhase, energy: Energy) -> Predicted:
    """calib's kernels within the clock's wall time: the host as it was. What rows draw above idle
    before the ceiling follows from what they draw."""
    drawn = rows["joules"].sum() - energy.idle_w * rows["wall_s"].sum()
    above = without_ceiling(float(drawn), float(rows["wall_s"].sum()), energy)
    return at_wall(above, float(rows["estimate_s"].sum()), one.wall_s, energy)


def without_ceiling(drawn: float, wall_s: float, energy: Energy) -> float:
    share = drawn / wall_s / energy.ceiling_w
    return float(drawn * (1 - share**SHARP) ** (-1 / SHARP))
