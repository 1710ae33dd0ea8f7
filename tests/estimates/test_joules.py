"""Joules in the tables: they add up, over operators, modules, phases and passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.energy.fitted import Energy
from calib.cards.shipped import load_card
from calib.estimates.energy.joules import energy_use, with_joules
from calib.estimates.energy.power import executions, power_of, timed
from calib.estimates.modules import module_table
from calib.estimates.sums import JOULES, component_table
from calib.estimates.tables import operator_table
from calib.estimates.timeline import timeline_table
from calib.hardware.datasheet import load_hardware
from calib.samples.host_costs import host_costs
from model.architectures import build
from model.layer import Call, Layer
from model.ops import Copy, Matmul
from model.workload import Phase, Workload

H200 = load_hardware("h200")
CARD, COSTS = load_card(H200), host_costs([], "h200")
ENERGY = Energy("h200", 100.0, (900.0, 3000.0, 500.0, 120.0), 550.0, 0.1, 0.03, 40, 0.02)


def rows(phases, energy=ENERGY, execution="eager", costs=COSTS):
    repeats = {name: phase.repeat for name, phase in phases.items()}
    table = operator_table(phases, CARD, None, "torch", {"model": "", "workload": ""})
    ops = [call.op for phase in phases.values() for call in phase.layer.calls()]
    power = power_of(ops, executions(table, repeats), energy, H200)
    return with_joules(timed(table, power, repeats, costs, execution)[0], power), repeats


@pytest.fixture(scope="module")
def llama():
    return build("llama", layers=2).phases(Workload("text", prompt_tokens=64, decode_steps=8))


def test_operators_modules_phases_and_the_whole_agree(llama) -> None:
    table, repeats = rows(llama)
    modules, components = module_table(llama, table), component_table(table)
    total = components[components["component"] == "total"].iloc[0]
    roots = modules[modules["path"] == ""].set_index("phase")
    times = timeline_table(table, repeats).set_index("phase")
    for name in JOULES:
        assert table[name].sum() == pytest.approx(total[name], rel=1e-12)
        for phase, some in table.groupby("phase"):
            assert some[name].sum() == pytest.approx(roots.loc[phase, name], rel=1e-12)
            assert some[name].sum() / repeats[phase] == pytest.approx(times.loc[phase, name])


def test_a_phase_is_idle_watts_and_what_its_operators_draw(llama) -> None:
    table, _ = rows(llama)
    for _, some in table.groupby("phase"):
        wall_s, joules = some["wall_s"].sum(), some["joules"].sum()
        assert ENERGY.idle_w * wall_s < joules
        assert joules < (ENERGY.idle_w + ENERGY.ceiling_w) * wall_s
        assert (some["joules"] >= ENERGY.idle_w * some["wall_s"] * (1 - 1e-12)).all()


def test_the_interval_holds_the_estimate_and_widens_with_the_host(llama) -> None:
    eager, _ = rows(llama)
    graph, _ = rows(llama, execution="graph")
    for table in (eager, graph):
        assert (table["joules_low"] <= table["joules"]).all()
        assert (table["joules"] <= table["joules_high"]).all()
        assert (table["joules_low"] >= 0).all()
    wide = [float(t["joules_high"].sum() / t["joules"].sum()) for t in (eager, graph)]
    assert wide[0] > wide[1]


def test_waiting_costs_the_idle_card(llama) -> None:
    """And no more, where no ceiling holds the graph back."""
    free = replace(ENERGY, ceiling_w=1e9)
    eager, _ = rows(llama, free)
    graph, _ = rows(llama, free, execution="graph")
    waits_s = eager["wall_s"].sum() - graph["wall_s"].sum()
    more = eager["joules"].sum() - graph["joules"].sum()
    assert more == pytest.approx(ENERGY.idle_w * waits_s, rel=1e-6)


def test_nothing_counted_is_null(llama) -> None:
    table, _ = rows(llama, None)
    assert table[JOULES].isna().all().all()
    components = component_table(table)
    assert components[JOULES].isna().all().all()
    assert energy_use(table, ENERGY, 8, 1, "request") is None


def test_tables_without_joules_are_read_as_null(llama) -> None:
    table, _ = rows(llama)
    older = component_table(table.drop(columns=JOULES))
    assert older[JOULES].isna().all().all()
    assert older["estimate_s"].tolist() == component_table(table)["estimate_s"].tolist()


class One(Layer):
    def __init__(self, op):
        self.op = op

    def forward(self):
        yield Call("", self.op)


@pytest.mark.parametrize("op", [Matmul(64, 4096, 4096), Copy(2**24)])
def test_n_passes_draw_n_times_one(op) -> None:
    """Where n passes take n times as long: without a host that runs ahead."""
    once, _ = rows({"decode": Phase(One(op), 1)}, costs=None)
    often, _ = rows({"decode": Phase(One(op), 7)}, costs=None)
    for name in JOULES:
        assert often[name].sum() == pytest.approx(7 * once[name].sum(), rel=1e-9)


def test_more_bytes_draw_more() -> None:
    joules = [
        float(rows({"pass": Phase(One(Copy(2**n)), 1)}, execution="graph")[0]["joules"].sum())
        for n in range(14, 31, 2)
    ]
    assert np.all(np.diff(joules) > 0)


def test_a_token_and_a_request(llama) -> None:
    table, _ = rows(llama)
    use = energy_use(table, ENERGY, decoded=8 * 4, batch=4, request="page")
    decode = table.loc[table["phase"] == "decode", "joules"].sum()
    assert use["joules_a_token"] == pytest.approx(decode / 32)
    assert use["joules_a_request"] == pytest.approx(table["joules"].sum() / 4)
    assert use["joules_low_a_token"] < use["joules_a_token"] < use["joules_high_a_token"]
    assert use["watts"] == pytest.approx(table["joules"].sum() / table["wall_s"].sum())
    assert use["idle_share"] == pytest.approx(100 * table["idle_s"].sum() / table["joules"].sum())
    assert "joules_a_token" not in energy_use(table, ENERGY, 0, 1, "image")
