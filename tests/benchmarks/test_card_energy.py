"""Energy of operators on a simulated card whose watts are known: its counter moves in steps."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_gpu import NODE_GAP_S, Kernel, SimulatedCard

from benchmarks.card import energy
from calib.cards.energy.counted import read_counted
from calib.errors import CalibError
from model import ops

STEP_S, IDLE_W = 0.02, 80.0


class SteppedCounter:
    """Joules of a card that takes ``watts`` while it works; read in steps of 20 ms."""

    def __init__(self, card, watts):
        self.card, self.watts = card, watts

    def joules(self):
        self.card.host += 2e-6
        return self.watts * (self.card.host // STEP_S) * STEP_S


def make(card, seconds):
    def runs(copies):
        return [card.call(Kernel(str(i), seconds, seconds)) for i in range(copies)]

    return runs


@pytest.mark.parametrize("seconds", [3e-6, 400e-6, 20e-3])
@pytest.mark.parametrize("cache", ["hot", "cold"])
def test_watts_and_rates_are_those_that_were_put_in(seconds, cache):
    card, op = SimulatedCard(), ops.Matmul(64, 64, 64)
    found = energy.energy_of(op, cache, make(card, seconds), SteppedCounter(card, 412.0), card)
    assert found.watts == pytest.approx(412.0, rel=0.01)
    assert found.seconds >= energy.LEAST_S
    each = found.seconds / found.repeats
    assert each == pytest.approx(seconds + (NODE_GAP_S if seconds < 1e-3 else 0.0), rel=0.03)
    assert found.flops_rate == pytest.approx(op.flops / each)


def test_a_counter_that_stands_still_or_is_not_there_is_said():
    card = SimulatedCard()
    with pytest.raises(CalibError, match="stands still"):
        energy.counted(make(card, 1e-3)(1)[0], SteppedCounter(card, 0.0), card)

    class Without:
        def joules(self):
            return None

    with pytest.raises(CalibError, match="no energy counter"):
        energy.counted(make(card, 1e-3)(1)[0], Without(), card)


def test_operators_are_some_forty_and_spread_over_intensity():
    plan = energy.operators()
    assert 36 <= len(plan) == len(set(plan)) <= 44
    intensity = np.array([float(op.flops) / float(op.bytes) for op, _ in plan])
    filled, _ = np.histogram(np.log10(np.maximum(intensity, 0.1)), np.arange(-1, 4, 0.5))
    assert (filled > 0).sum() >= 8


def test_what_was_measured_is_kept_and_what_is_refused_has_its_reason(tmp_path):
    path, asked = tmp_path / "energy.jsonl", []

    def measure(op, cache):
        asked.append(op)
        if op.m == 2:
            raise RuntimeError("no such kernel\nhere")
        if op.m == 3 and len(asked) == 3:
            raise KeyboardInterrupt
        return energy.Energy("matmul", energy.op_to_json(op), cache, 1, 1.0, 99.0, 99.0, 1, 1, 1)

    plan = [(ops.Matmul(m, 8, 8), "hot") for m in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        list(energy.all_of_them(path, plan, measure))
    rows = list(energy.all_of_them(path, plan, measure))
    assert [op.m for op in asked] == [1, 2, 3, 3]
    assert [r.get("watts") for r in rows] == [99.0, None, 99.0]
    assert rows[1]["refused"] == "no such kernel"


def test_what_is_written_is_what_a_run_reads(tmp_path):
    """With a row that the card refused, whose numbers are null."""
    card = SimulatedCard()

    def measure(op, cache):
        if op.operator == "gather":
            raise RuntimeError("no such kernel")
        return energy.energy_of(op, cache, make(card, 1e-4), SteppedCounter(card, 412.0), card)

    rows = list(energy.all_of_them(tmp_path / "energy.jsonl", energy.operators(), measure))
    energy.table_of(rows, "h200", IDLE_W).to_parquet(tmp_path / "energy.parquet")
    found = read_counted(tmp_path / "energy.parquet", "h200")
    assert (found.idle_w, len(found.operators)) == (IDLE_W, len(rows) - 1)
    one = found.operators[0]
    assert one.joules / one.seconds == pytest.approx(412.0, rel=0.01)
    assert one.seconds == pytest.approx(1e-4 + NODE_GAP_S, rel=0.03)


def test_a_plane_through_the_watts_gives_joules_a_flop_and_a_byte():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0, 1, (40, 2)) * [8e14, 4e12]
    rows = [
        {"flops_rate": f, "bytes_rate": b, "watts": IDLE_W + 0.4e-12 * f + 60e-12 * b}
        for f, b in rates
    ]
    found = energy.figures([*rows, {"refused": "x"}], IDLE_W)
    assert found["joules_a_flop"] == pytest.approx(0.4e-12)
    assert found["joules_a_byte"] == pytest.approx(60e-12)
    assert (found["operators"], found["median_off_w"]) == (40, pytest.approx(0.0, abs=1e-9))
