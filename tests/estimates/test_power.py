"""What a card's power makes of a phase that keeps it busy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.energy.fitted import Energy
from calib.cards.shipped import load_card
from calib.estimates.energy.power import AT_REST_S, FALL, executions, power_of, timed
from calib.estimates.tables import operator_table
from calib.estimates.timeline import with_wall
from calib.hardware.datasheet import load_hardware
from calib.samples.host_costs import EAGER, GRAPH, host_costs
from model.layer import Call, Layer
from model.ops import Elementwise, Matmul
from model.workload import Phase

H200 = load_hardware("h200")
CARD, COSTS = load_card(H200), host_costs([], "h200")
ENERGY = Energy("h200", 125.0, (1100.0, 4800.0, 580.0, 50.0), 580.0, 0.1, 0.03, 40, 0.02)
PRODUCT, STREAM = Matmul(8192, 8192, 8192), Elementwise(2**28)
THIN = Matmul(1, 8192, 8192)


class Some(Layer):
    def __init__(self, counts):
        self.counts = counts

    def forward(self):
        for op, count in self.counts:
            yield Call("", op, count)


def two(*counts: tuple[Matmul | Elementwise, int]) -> dict[str, Phase]:
    """The same phase twice."""
    return {"prefill": Phase(Some(counts), 1), "decode": Phase(Some(counts), 1)}


def phase(*counts: tuple[Matmul | Elementwise, int]) -> dict[str, Phase]:
    return {"prefill": Phase(Some(counts), 1)}


def table_of(phases, energy=ENERGY):
    table = operator_table(phases, CARD, None, "torch", {"model": "", "workload": ""})
    ops = [call.op for p in phases.values() for call in p.layer.calls()]
    return table, power_of(ops, executions(table, REPEATS), energy, H200)


REPEATS = {"prefill": 1, "decode": 1}


def run(phases, energy=ENERGY, execution=GRAPH):
    """With power, without, and the notes."""
    table, power = table_of(phases, energy)
    found, notes = timed(table, power, REPEATS, COSTS, execution)
    return found, with_wall(table, REPEATS, COSTS, execution), notes


def test_products_of_a_second_take_longer_and_streams_do_not() -> None:
    found, free, notes = run(phase((PRODUCT, 500), (STREAM, 400)))
    factor = (found["estimate_s"] / free["estimate_s"]).to_numpy()
    assert factor[1] == pytest.approx(1.0)
    assert 1.02 < factor[0] < 1.3
    for name in ("low_s", "high_s"):
        assert (found[name] / free[name]).to_numpy() == pytest.approx(factor)
    assert found["wall_s"].sum() > free["wall_s"].sum() * 1.01
    assert found["graph_s"].sum() == found["wall_s"].sum()
    assert (found["efficiency"] * found["estimate_s"]).to_numpy() == pytest.approx(
        found["roofline_s"]
    )
    assert notes and notes[0].startswith("prefill asks for more power")


def test_the_clock_is_where_the_draw_meets_the_ceiling() -> None:
    table, power = table_of(phase((PRODUCT, 500), (STREAM, 100)))
    seconds = table["estimate_s"].to_numpy()
    wall_s = float(seconds.sum())
    clock = power.clock(seconds, wall_s)
    later = seconds * np.maximum(1.0, power.by_clock() / clock)
    drawn = float(power.above(seconds).sum()) * clock**FALL / later.sum()
    assert clock < 1.0
    assert drawn == pytest.approx(ENERGY.ceiling_w, rel=1e-4)
    factors, rest_s = power.longer(seconds, wall_s)
    assert rest_s == 0.0
    share = 1.0 - AT_REST_S / wall_s
    assert factors == pytest.approx(1.0 + share * (later / seconds - 1.0))


def test_from_rest_the_first_tenth_of_a_second_is_free() -> None:
    """And said all the same: a benchmark's loop is no rest."""
    found, free, notes = run(phase((PRODUCT, 20)))
    assert free["wall_s"].sum() < AT_REST_S
    assert found["estimate_s"].to_numpy() == pytest.approx(free["estimate_s"])
    assert len(notes) == 1
    table, power = table_of(phase((PRODUCT, 20)))
    on, _ = timed(table, power, REPEATS, COSTS, GRAPH, rest_s=0.0)
    assert (on["estimate_s"] > 1.05 * free["estimate_s"]).all()


def test_what_a_ceiling_does_not_meet_stays_as_it_is() -> None:
    busy = phase((PRODUCT, 500))
    for phases, energy in (
        (busy, replace(ENERGY, ceiling_w=5000.0)),
        (busy, None),
        (phase((THIN, 20000)), ENERGY),
    ):
        found, free, notes = run(phases, energy)
        assert found["wall_s"].sum() == free["wall_s"].sum()
        assert not notes


def test_a_card_that_waits_for_its_host_keeps_its_clock() -> None:
    """Short products draw as many watts, but not over the wall time; as a graph they would."""
    short = phase((Matmul(1024, 1024, 1024), 60_000))
    hot = replace(ENERGY, watts=(1500.0, 4800.0, 580.0, 50.0))
    found, free, notes = run(short, hot, EAGER)
    assert found["estimate_s"].sum() == free["estimate_s"].sum()
    assert found["wall_s"].sum() == free["wall_s"].sum()
    assert not notes
    assert found["graph_s"].sum() > free["graph_s"].sum() * 1.01
    as_graph, _, _ = run(short, hot, GRAPH)
    assert found["graph_s"].sum() == pytest.approx(as_graph["wall_s"].sum())


def test_a_longer_run_is_never_shorter() -> None:
    """By count, though the share beyond the first tenth of a second grows with it."""
    walls = [run(phase((PRODUCT, n)))[0]["wall_s"].sum() for n in (60, 75, 90, 200, 1000)]
    rates = np.array(walls) / [60, 75, 90, 200, 1000]
    assert (np.diff(rates) >= -1e-12).all()


def test_unknown_seconds_are_no_reason_to_slow() -> None:
    table, power = table_of(phase((PRODUCT, 500)))
    unknown = np.full(len(table), np.nan)
    for seconds, wall_s in ((unknown, 1.0), (table["estimate_s"].to_numpy(), float("nan"))):
        factors, rest_s = power.longer(seconds, wall_s)
        assert (factors == 1.0).all() and rest_s == AT_REST_S


def test_a_request_rests_once() -> None:
    """A phase that follows one at the ceiling has what that left; after one below it, all."""
    found, free, notes = run(two((PRODUCT, 50)))
    assert free.loc[free["phase"] == "prefill", "wall_s"].sum() < AT_REST_S
    factor = (found["estimate_s"] / free["estimate_s"]).to_numpy()
    assert factor[0] == pytest.approx(1.0) and factor[1] > 1.01
    assert [note.split()[0] for note in notes] == ["prefill", "decode"]
    thin = {"prefill": Phase(Some(((THIN, 20000),)), 1), "decode": Phase(Some(((PRODUCT, 60),)), 1)}
    after, alone, _ = run(thin)
    assert after["estimate_s"].to_numpy() == pytest.approx(alone["estimate_s"])
