"""Costs of host and queue on a simulated card: what was put in comes out."""

from __future__ import annotations

import statistics

import pytest
from simulated_gpu import NODE_GAP_S, SPIN_OVERHEAD_S, Kernel, SimulatedCard

from calib.measure.cuda.costs import (
    REPEATS,
    class_costs,
    miniature_costs,
    operators_seconds,
    queue_costs,
)
from calib.measure.cuda.timer import Timer
from calib.measure.reference.miniature import Rounds, two_rounds
from calib.samples.host_costs import (
    ATTENTION_PLAN,
    CLASS_OPERATORS,
    DEPENDENT_GAP,
    EAGER_OPERATOR,
    GRAPH_LAUNCH,
    GRAPH_NODE,
    LAUNCH,
    MODULE_CODE,
    SYNC,
    host_class,
)
from model.layer import Call
from model.ops import Attention, Elementwise, Matmul, Norm

KERNEL_S = SPIN_OVERHEAD_S - 0.5e-6


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
        (DEPENDENT_GAP, KERNEL_S),
        (SYNC, 7e-6),
        (GRAPH_NODE, KERNEL_S + NODE_GAP_S),
        (GRAPH_LAUNCH, 10e-6),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_each_cost_is_what_the_card_was_given(costs, cost, seconds):
    assert costs[0][cost] == pytest.approx(seconds, rel=0.02)


def test_costs_are_raw_repeats(costs):
    assert all(len(seconds) >= REPEATS for seconds in costs[1].values())


CLASSES = {"pointwise": 5e-6, "move": 7e-6, "product": 14e-6, "norm": 12e-6}
CLASSES |= {"attention": 30e-6, "convolution": 29e-6}


def test_a_class_costs_the_host_what_the_card_was_given():
    card = SimulatedCard()
    runs = {n: card.call(Kernel(n, 1e-6, 1e-6, host_s=s)) for n, s in CLASSES.items()}
    for op, seconds in class_costs(card, runs).items():
        name = next(n for n, o in CLASS_OPERATORS.items() if o == op)
        assert statistics.median(seconds) == pytest.approx(CLASSES[name], rel=0.01)


CALLS = [
    Call("mlp", Elementwise(4), count=30),
    Call("mlp", Matmul(1, 8, 8), count=8),
    Call("norm", Norm(1, 8), launches=8),
    Call("attn", Attention(1, 1, 40, 2, 2, 64), count=4),
]
LAUNCHES, CODE_S, PLAN_S = 50, 9e-6, 60e-3


def step_on(card):
    """A decode step of ``CALLS`` on a host whose attention plans every new length; how long it
    took. The first element is the length."""
    length = [36]

    def step():
        start = card.host
        for call in CALLS:
            for _ in range(call.count * call.launches):
                host_s = CLASSES[host_class(call.op.operator, call.launches)] + CODE_S
                new = length[0] if call.op.operator == "attention" else None
                card.call_planned(Kernel(call.path, 1e-6, 1e-6, host_s), new, PLAN_S)()
        length[0] += 1
        card.host = max(card.host, card.free)
        return card.host - start

    def begin():
        length[0] = 36

    return begin, step


def test_module_code_and_a_plan_are_told_apart_within_one_percent():
    """The first round, which was taken for module code before, holds a plan a step."""
    costs = {op: [CLASSES[name]] for name, op in CLASS_OPERATORS.items()}

    def measure(estimate):
        first, again = two_rounds(*step_on(SimulatedCard()), 60)
        return Rounds(first, again, LAUNCHES, estimate(CALLS), shapes=1)

    found = miniature_costs(measure, costs)
    assert statistics.median(found[MODULE_CODE]) == pytest.approx(CODE_S, rel=0.01)
    assert statistics.median(found[ATTENTION_PLAN]) == pytest.approx(PLAN_S, rel=0.01)
    first, _ = two_rounds(*step_on(SimulatedCard()), 60)
    before = (statistics.median(first) - operators_seconds(costs, CALLS)) / LAUNCHES
    assert before > 100 * CODE_S


def test_where_nothing_is_planned_a_plan_costs_nothing():
    rounds = Rounds([2e-3, 1.9e-3], [2e-3, 2e-3], 10, 1e-3, shapes=1)
    assert rounds.plans == [0.0, 0.0]
    assert rounds.module_code == [pytest.approx(1e-4)] * 2
