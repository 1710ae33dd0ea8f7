"""Costs of host and queue on a simulated card: what was put in comes out."""

from __future__ import annotations

import statistics

import pytest
from simulated_gpu import EMPTY_S, NODE_GAP_S, STREAM_GAP_S, Kernel, SimulatedCard

from calib.measure.cuda.costs import REPEATS, module_code, queue_costs
from calib.measure.cuda.timer import Timer
from calib.samples.host_costs import (
    DEPENDENT_GAP,
    EAGER_OPERATOR,
    GRAPH_LAUNCH,
    GRAPH_NODE,
    LAUNCH,
    NODE_GAP,
    STREAM_GAP,
    SYNC,
)
from model.layer import Call
from model.ops import Copy


@pytest.fixture(scope="module")
def costs():
    card = SimulatedCard()
    tiny = card.call(Kernel("tiny", 1e-6, 1e-6, host_s=7e-6))

    def read():
        card._enqueue(4e-6, 3e-6)
        card.host = max(card.host, card.free)

    found = queue_costs(Timer(card), tiny, read)
    return {op: statistics.median(seconds) for op, seconds in found.items()}, found


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        (EAGER_OPERATOR, 7e-6),
        (LAUNCH, 2e-6),
        (DEPENDENT_GAP, EMPTY_S + STREAM_GAP_S),
        (STREAM_GAP, STREAM_GAP_S),
        (SYNC, 7e-6),
        (GRAPH_NODE, EMPTY_S + NODE_GAP_S),
        (NODE_GAP, NODE_GAP_S),
        (GRAPH_LAUNCH, 10e-6),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_each_cost_is_what_the_card_was_given(costs, cost, seconds):
    assert costs[0][cost] == pytest.approx(seconds, rel=0.02)


def test_costs_are_raw_repeats(costs):
    gaps = (STREAM_GAP, NODE_GAP)  # of medians
    assert all(len(some) >= REPEATS for op, some in costs[1].items() if op not in gaps)


def test_without_a_profiler_no_gap_is_claimed():
    card = SimulatedCard(profiler=False)
    tiny = card.call(Kernel("tiny", 1e-6, 1e-6))
    assert STREAM_GAP not in queue_costs(Timer(card), tiny, tiny)


def test_module_code_is_what_a_step_takes_beyond_its_operators():
    calls = [Call("a", Copy(4), count=3, launches=2), Call("b", Copy(4))]

    def step(operators):
        return [1e-4 / 7 - operators(calls) / 7]

    assert module_code(step, 5e-6) == [pytest.approx((1e-4 - 7 * 5e-6) / 7)]
