"""Host costs: measured where there are samples, else a published range that says so."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from benchmarks.eager_steps import published as published_steps
from calib.errors import CalibError
from calib.samples.files import read_samples, write_samples
from calib.samples.host_costs import (
    ATTENTION_PLAN,
    CLASS_OPERATORS,
    EAGER_OPERATOR,
    MODULE_CODE,
    NODE_GAP,
    REPLAYED,
    SYNC,
    _published,
    host_class,
    host_costs,
    published,
    ratios,
    slowed,
    speeds,
)
from calib.samples.sample import Sample
from model.ops import Matmul, Other


def test_published_ranges_are_complete_and_have_sources() -> None:
    costs = host_costs([], "rtx5090")
    assert costs.published == REPLAYED
    for _, cost in costs:
        assert 0 < cost.low_s <= cost.estimate_s <= cost.high_s < 1e-3
        assert cost.source
    # An operator is launched too, and a graph's nodes follow no slower than queued kernels.
    assert costs.eager_operator.low_s > costs.launch.low_s
    assert costs.graph_node.high_s <= costs.dependent_gap.low_s


def test_the_range_of_an_eager_operator_is_that_of_published_steps() -> None:
    seconds = [each for _, each in published_steps()]
    cost = published()["eager_operator"]
    assert cost.low_s == pytest.approx(min(seconds), rel=0.01)
    assert cost.high_s == pytest.approx(max(seconds), rel=0.01)
    assert cost.estimate_s == pytest.approx(statistics.median(seconds), rel=0.01)


def test_a_sample_takes_the_place_of_the_range(tmp_path) -> None:
    repeats = [4e-6, 5e-6, 6e-6, 5e-6, 5e-6]
    path = write_samples(
        tmp_path / "h200.parquet",
        [
            Sample(EAGER_OPERATOR, repeats, "h200", "torch", origin="host"),
            Sample(MODULE_CODE, [0.0] * 5, "h200", "torch", origin="host"),
            Sample(SYNC, [], "h200", "torch", status="unsupported"),
        ],
    )
    samples = read_samples(path)
    costs = host_costs(samples, "h200")
    assert costs.eager_operator.known_by == "measured"
    assert costs.eager_operator.estimate_s == pytest.approx(5e-6)
    assert 4e-6 <= costs.eager_operator.low_s < 5e-6 < costs.eager_operator.high_s <= 6e-6
    assert costs.published == tuple(n for n in REPLAYED if n != "eager_operator")
    # Another card has another host.
    assert host_costs(samples, "rtx5090") == host_costs([], "rtx5090")
    assert costs.launch == published()["launch"]


@pytest.mark.parametrize("entry", [{"low": 2e-6, "high": 1e-6, "source": "x"}, {"low": 1e-6}])
def test_a_range_that_is_none_is_refused(entry: dict) -> None:
    with pytest.raises(CalibError, match=r"sync = .*expected low <= middle <= high"):
        _published("sync", entry)


def test_measured_operators_carry_the_module_code_around_them() -> None:
    bare = Sample(EAGER_OPERATOR, [4e-6] * 3, "h200", "torch")
    code = Sample(MODULE_CODE, [3e-6] * 3, "h200", "torch")
    assert host_costs([bare, code], "h200").eager_operator.estimate_s == pytest.approx(7e-6)
    assert host_costs([code], "h200") == host_costs([bare], "h200") == host_costs([], "h200")


def test_classes_are_measured_or_go_by_the_ratio_of_a_pointwise_operator() -> None:
    bare = Sample(EAGER_OPERATOR, [4e-6] * 3, "h200", "torch")
    code = Sample(MODULE_CODE, [3e-6] * 3, "h200", "torch")
    norm = Sample(CLASS_OPERATORS["norm"], [9e-6] * 3, "h200", "torch")
    classes = host_costs([bare, code, norm], "h200").classes
    assert classes["pointwise"].estimate_s == pytest.approx(7e-6)
    assert classes["norm"].estimate_s == pytest.approx(12e-6)
    product = ratios().of_class["product"]
    assert classes["product"].estimate_s == pytest.approx(4e-6 * product + 3e-6)


def test_published_classes_have_a_decode_steps_mean() -> None:
    costs = host_costs([], "h200")
    kinds = {"matmul": 96, "grouped_matmul": 22, "attention": 12, "copy": 152, "other": 515}
    counted = sum(n * costs.classes[host_class(k)].estimate_s for k, n in kinds.items())
    assert counted / 797 == pytest.approx(costs.eager_operator.estimate_s, rel=0.01)


def test_samples_of_the_first_way_to_measure_module_code_are_read_no_more() -> None:
    """They hold attention's plans: 165 microseconds a launch where 12 are spent."""
    old = Sample(Other("module code", dtype="int64"), [165e-6] * 3, "h200", "torch", origin="host")
    bare = Sample(EAGER_OPERATOR, [9e-6] * 3, "h200", "torch", origin="host")
    assert host_costs([bare, old], "h200").eager_operator.high_s < 50e-6


def test_a_plan_is_measured_or_published() -> None:
    plan = Sample(ATTENTION_PLAN, [60e-3, 62e-3, 61e-3], "h200", "torch", origin="host")
    cost = host_costs([plan], "h200").attention_plan
    assert cost and (cost.known_by, cost.estimate_s) == ("measured", 61e-3)
    cost = host_costs([], "h200").attention_plan
    assert cost and cost.known_by == "published" and 0.03 < cost.low_s < cost.high_s < 0.08


def test_an_interval_holds_the_speeds_that_the_host_had_beside() -> None:
    """Costs read at 100,000 operators a second, on a host that had 50,000 to 125,000 besides; what
    is the card's does not move."""
    costs = [
        replace(s, probe_host=1e5)
        for op in (EAGER_OPERATOR, MODULE_CODE, SYNC, NODE_GAP)
        for s in [Sample(op, [4e-6] * 3, "h200", "torch", origin="host")]
    ]
    asked = [5e4] * 10 + [1e5] * 80 + [1.25e5] * 10
    blocks = [
        Sample(Matmul(8, 8, 8), [1e-5], "h200", "torch", probe_host=speed + i / 1e3)
        for i, speed in enumerate(asked)
    ]
    found = host_costs([*costs, *blocks], "h200")
    for cost, alone in ((found.sync, 4e-6), (found.eager_operator, 8e-6)):
        assert cost.estimate_s == pytest.approx(alone)
        assert cost.low_s == pytest.approx(alone / 1.25, rel=1e-4)
        assert cost.high_s == pytest.approx(alone * 2, rel=1e-4)
    assert found.node_gap.low_s == found.node_gap.high_s
    assert speeds(costs) == speeds([]) == (1.0, 1.0)
    assert speeds([replace(s, probe_host=None) for s in costs] + blocks) == (1.0, 1.0)


def test_a_slower_host_takes_longer_for_what_was_measured_of_it_alone() -> None:
    ops = (EAGER_OPERATOR, MODULE_CODE, SYNC, NODE_GAP)
    costs = host_costs([Sample(op, [4e-6] * 3, "h200", "torch") for op in ops], "h200")
    found = slowed(costs, 2.0)
    assert found.eager_operator.estimate_s == pytest.approx(16e-6)
    assert found.classes["norm"].estimate_s == 2 * costs.classes["norm"].estimate_s
    assert found.sync.high_s == 2 * costs.sync.high_s
    assert found.node_gap == costs.node_gap
    assert found.launch == costs.launch and found.attention_plan == costs.attention_plan
    assert slowed(host_costs([], "h200"), 2.0) == host_costs([], "h200")
