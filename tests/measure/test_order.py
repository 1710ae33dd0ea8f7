"""A card's order of work, on a simulated card: torch first, then the model, then our kernels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
from simulated_gpu import KernelBench, SimulatedCard, Trace

from calib.hardware.datasheet import load_hardware
from calib.measure.clock import StopRule
from calib.measure.cuda.instrument import CudaInstrument
from calib.measure.sweep.design import adaptive, design, plain
from calib.measure.sweep.order import DESIGN_SHARE, by_worth
from calib.measure.sweep.plan import DESIGN, MODEL, Point, State, spent_s
from calib.measure.sweep.sweep import Sweep
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from model import ops

H200 = load_hardware("h200")
COMPARE_S, COMPILE_S = 0.3, 0.8
"""What a comparison and a compilation took on an H200, where they stood between two samples."""
LIMITS = StopRule(0.01, 0.12, 10, 100)


@dataclass
class Workers:
    """Four processes that compile, each 0.8 s an operator, by the card's own clock."""

    card: SimulatedCard
    free: list[float] = field(default_factory=lambda: [0.0] * 4)
    done: dict[ops.Operator, float] = field(default_factory=dict)

    def begin(self, op, implementation):
        if implementation == "triton" and op not in self.done:
            self.free.sort()
            self.free[0] = max(self.free[0], self.card.host) + COMPILE_S
            self.done[op] = self.free[0]

    def ready(self, op, implementation):
        return implementation != "triton" or self.done.get(op, np.inf) <= self.card.host


class SlowBench(KernelBench):
    """Kernels that take no time; a comparison takes 0.3 s of the host, and what was not compiled
    ahead 0.8."""

    def __init__(self, card, workers):
        super().__init__(card, cold_s=0.0, hot_s=0.0)
        self.workers, self.events, self.compiled = workers, [], set()

    def cases(self, op, implementation, copies):
        late = not self.workers.ready(op, implementation) and op not in self.compiled
        if late:
            self.events.append(("compile", op))
            self.compiled.add(op)
            self.card.host += COMPILE_S
        return super().cases(op, implementation, copies)

    def error(self, op, implementation):
        self.events.append(("compare", op))
        self.card.host += COMPARE_S
        return super().error(op, implementation)


class Listed(CudaInstrument):
    """Writes down what it measures."""

    def measure(self, op, implementation, cache, rule):
        self.bench.events.append((implementation, op))
        return super().measure(op, implementation, cache, rule)


def opened():
    card = SimulatedCard()
    bench = SlowBench(card, Workers(card))
    return card, bench, Listed(H200, card, Trace(card), bench)


def swept(tmp_path, budget_s, models=(), good=lambda samples: False):
    card, bench, instrument = opened()
    instrument.prove(op for op, _ in itertools.islice(design(0, reach=4), 400))
    proved = len(bench.events)
    store = SampleStore(tmp_path, "h200", "a card")
    order = by_worth(bench.workers, good)
    sweep = Sweep(
        instrument, store, budget_s, instrument.rule(LIMITS), order=order, clock=lambda: card.host
    )
    sweep.run(list(models), plain(0, reach=4))
    return store.samples(), bench.events[proved:], card


def test_a_card_gives_twenty_samples_of_torch_a_second_and_nothing_comes_between(tmp_path):
    samples, events, _ = swept(tmp_path, 10.0)
    design_s = DESIGN_SHARE * 10.0
    first = list(itertools.takewhile(lambda event: event[0] != "triton", events))
    assert {name for name, _ in first} == {"torch"}, "no compilation and no comparison"
    assert len(first) / design_s >= 20
    torch = [s for s in samples if s.implementation == "torch"][: len(first)]
    assert len(torch) / spent_s(torch) >= 20
    assert all(s.status == "ok" for s in torch)


def test_our_kernels_wait_for_their_compilation_while_torch_is_measured(tmp_path):
    samples, events, _ = swept(tmp_path, 10.0)
    assert not [op for name, op in events if name == "compile"], "none compiled in line"
    ours = [s for s in samples if s.implementation == "triton"]
    assert len(ours) >= 4 * (10.0 - 2 * COMPILE_S) / COMPILE_S * 0.8, "four workers are kept busy"
    after = [name for name, _ in events]
    switches = sum(a != b for a, b in itertools.pairwise(after[after.index("triton") :]))
    assert switches > 10, "torch is measured wherever nothing is compiled yet"


def test_the_model_s_shapes_follow_the_design_and_lead_our_kernels(tmp_path):
    models = [Point(ops.Matmul(m, 64, 64), "cold", MODEL) for m in (3, 5, 7)]
    own = {point.op for point in models}
    _, events, _ = swept(tmp_path, 6.0, models)
    measured = [event for event in events if event[0] in ("torch", "triton")]
    where = [i for i, (name, op) in enumerate(measured) if op in own and name == "torch"]
    assert where == list(range(where[0], where[0] + 3))
    assert where[0] > 40 and all(name == "torch" for name, _ in measured[: where[0]])
    ours = [op in own for name, op in measured if name == "triton"]
    assert sum(ours) == 3 and all(ours[:3]), "the model's own first, once they are compiled"


def test_the_design_ends_where_its_fit_is_good(tmp_path):
    models = [Point(ops.Matmul(3, 64, 64), "cold", MODEL)]
    _, events, _ = swept(tmp_path, 10.0, models, good=lambda samples: len(samples) >= 20)
    measured = [event for event in events if event[0] in ("torch", "triton")]
    before = measured.index(("torch", models[0].op))
    assert 20 <= before < 60, "blocks are stored every 0.8 s"


def test_a_comparison_for_each_kind_and_dtype_and_not_for_each_shape():
    _, bench, instrument = opened()
    some = [ops.Matmul(m, 64, 64) for m in (64, 8, 512)] + [ops.Matmul(4, 8, 8, dtype="float32")]
    assert instrument.prove(some) == 2
    assert bench.events == [("compare", some[1]), ("compare", some[3])], "the smallest of each"
    rule = instrument.rule(LIMITS)
    for op in some:
        assert instrument.measure(op, "torch", "hot", rule).status == "ok"
    assert sum(name == "compare" for name, _ in bench.events) == 2
    instrument.measure(some[0], "triton", "hot", rule)
    instrument.measure(some[2], "triton", "hot", rule)
    assert sum(name == "compare" for name, _ in bench.events) == 3


class Slow:
    """A fit that is ready after so many questions."""

    def __init__(self, questions):
        self.left, self.asked = questions, 0

    def ready(self):
        self.left -= 1
        return self.left <= 0

    def result(self):
        self.asked += 1
        return lambda some: np.ones(len(some))


@pytest.mark.parametrize("questions", [1, 50])
def test_the_design_goes_on_while_a_fit_is_under_way(questions):
    fits = []

    def refit(samples):
        fits.append(Slow(questions))
        return fits[-1]

    taken: list[Point] = []
    state = State([], lambda: len(taken) / 400)
    plan = adaptive(refit, 0, reach=4, part=0.5)(state)
    first = list(itertools.islice(plain(0, reach=4)(state), 150))
    for point in plan:
        taken.append(point)
        if len(taken) == 150:
            break
    assert taken[:100] == first[:100], "rounds begin at half of the design's own half"
    assert [p.op for p in taken[100 : 100 + questions - 1]] == [
        p.op for p in first[100 : 100 + questions - 1]
    ], "what follows in the design meanwhile"


def test_a_fit_that_takes_longer_than_its_round_ends_it():
    """The clock runs on while a fit is made; it once asked for a negative number of points."""
    spent = [0.6]

    def refit(samples):
        spent[0] = 0.9
        return lambda some: np.ones(len(some))

    known = [
        Sample(p.op, [1e-3], "card", "torch", origin=DESIGN)
        for p in itertools.islice(plain(0)(State([], lambda: 0.0)), 40)
    ]
    plan = adaptive(refit, 0)(State(known, lambda: spent[0]))
    assert len(list(itertools.islice(plan, 5))) == 5
