"""The sweep under a budget, on a simulated device with a clock of its own, and once for real."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from simulated_machine import PROBE_S, SAMPLE_S, Machine, given, products, sweep

from calib.errors import CalibError, DeviceLost
from calib.measure.instrument import LOST, OUT_OF_MEMORY, UNSUPPORTED, Reading
from calib.measure.probes import Speed, steady
from calib.measure.sweep.design import adaptive, design, in_shares, most_useful, plain
from calib.measure.sweep.plan import MODEL, Point, State, interleave, spent_s
from calib.measure.sweep.sweep import BLOCK_S, STRETCH_SHARE
from calib.samples.store import SampleStore
from model import ops


@pytest.fixture
def store(tmp_path):
    return SampleStore(tmp_path / "samples", "card", "a card")


def test_budget_is_kept_and_used(store):
    machine = Machine()
    done = sweep(machine, store, 20.0).run([], plain())
    taken = machine.now - 1e9
    assert 20.0 <= taken <= 20.0 + SAMPLE_S + 2 * PROBE_S
    assert done == len(store.samples()) == len(machine.measured) > 20 / (SAMPLE_S + PROBE_S) * 0.9
    assert machine.warm == 1


def test_budget_counts_what_is_stored_and_not_the_pause(store):
    machine = Machine()
    sweep(machine, store, 10.0).run([], plain())
    assert spent_s(store.samples()) == pytest.approx(10.0, abs=2 * SAMPLE_S)
    machine.now += 3600
    assert sweep(machine, store, 10.0).run([], plain()) <= 2
    began = machine.now = machine.now + 3600
    sweep(machine, store, 30.0).run([], plain())
    assert machine.now - began == pytest.approx(20.0, abs=1.0)


def test_models_are_measured_when_the_budget_is_spent(store):
    machine = Machine()
    sweep(machine, store, 6.0).run([], plain())
    machine.now += 60
    before = len(store.samples())
    assert sweep(machine, store, 6.0).run(products(5, MODEL), plain()) == 5
    assert {s.origin for s in store.samples()[before:]} == {MODEL}
    machine.now += 60
    many = [Point(replace(p.op, n=65), p.cache, MODEL) for p in products(100)]
    assert sweep(machine, store, 6.0).run(many, plain()) < 12  # a third of the budget, no more


@pytest.mark.parametrize("kill_at", [0, 3, 17, 40])
def test_killed_anywhere_it_resumes_without_repeating(store, kill_at):
    first = Machine(kill_at=kill_at)
    with pytest.raises(KeyboardInterrupt):
        sweep(first, store).run(products(10, MODEL), given(products(60)))
    assert len(store.samples()) == kill_at  # the block that was broken off is kept
    assert all(s.probe_flops and s.probe_bandwidth for s in store.samples())
    second = Machine(now=first.now + 100)
    sweep(second, store).run(products(10, MODEL), given(products(60)))
    assert Counter(first.measured + second.measured).most_common(1)[0][1] == 1
    assert {s.op.m for s in store.samples()} == set(range(1, 61))


def test_process_that_dies_loses_at_most_a_block(store, monkeypatch):
    """As if by SIGKILL: nothing runs after the last measurement."""
    machine = Machine(kill_at=40)
    sweeping = sweep(machine, store)
    kept = sweeping._store
    monkeypatch.setattr(sweeping, "_store", lambda *a: machine.kill_at and kept(*a))

    def die(*_):
        machine.kill_at = None
        raise KeyboardInterrupt

    sweeping.progress = lambda elapsed, label: die() if len(machine.measured) == 39 else None
    with pytest.raises(KeyboardInterrupt):
        sweeping.run([], given(products(60)))
    assert 39 - BLOCK_S / SAMPLE_S - 1 <= len(store.samples()) < 39
    again = Machine(now=machine.now)
    assert sweep(again, store).run([], given(products(60))) == 60 - len(store.samples()) + len(
        again.measured
    )


def test_what_cannot_run_is_recorded_once(store):
    machine = Machine()
    machine.implementations = ("torch", "triton")
    huge = Point(ops.Matmul(2**17, 2**17, 64), "cold")
    odd = Point(ops.Other("sort", 8, 16, dtype="int64"), "hot")
    assert sweep(machine, store).run([], given([huge, odd, *products(2)])) == 8
    status = {(s.op, s.implementation): s.status for s in store.samples()}
    assert status[huge.op, "torch"] == status[huge.op, "triton"] == OUT_OF_MEMORY
    assert (status[odd.op, "torch"], status[odd.op, "triton"]) == ("ok", UNSUPPORTED)
    assert sweep(machine, store).run([], given([huge, odd, *products(2)])) == 0


def test_a_sample_tells_its_circumstances(store):
    sweep(Machine(), store, versions={"torch": "2.13"}).run([], given(products(1)))
    (sample,) = store.samples()
    assert (sample.method, sample.power_w, sample.origin) == ("events", 300.0, "design")
    assert (sample.versions, sample.probe_flops) == ({"torch": "2.13"}, 1e12)
    assert sample.started.startswith("2001-09-09T01:46:40")


def test_block_between_probes_that_disagree_is_measured_again(store, caplog):
    caplog.set_level("INFO")
    machine = Machine(speeds=[1.0, 0.5])  # slower after the first block, and steady then
    sweep(machine, store).run([], given(products(20)))
    repeated = [entry for entry, n in Counter(machine.measured).items() if n > 1]
    assert len(repeated) == np.ceil(BLOCK_S / SAMPLE_S)
    assert caplog.text.count("\n") == 1 and f"{len(repeated)} samples were taken" in caplog.text
    assert sorted(s.op.m for s in store.samples()) == list(range(1, 21))
    assert {s.probe_flops for s in store.samples()} == {0.5e12}


def test_retries_are_bounded(store):
    machine = Machine(speeds=[1.0, 0.5] * 1000)
    sweep(machine, store, 60.0).run([], plain())
    repeated = len(machine.measured) - len(store.samples())
    assert 0 < repeated * SAMPLE_S <= 0.1 * 60.0 + 2 * BLOCK_S


def test_a_changed_machine_is_not_measured_twice_in_a_row_where_visits_follow(store):
    machine = Machine(speeds=[1.0, 0.5], visits=3)
    sweep(machine, store).run([], given(products(8)))
    assert len(machine.measured) == len(store.samples()) == 3 * 8


def test_steady_means_both_probes():
    fast = Speed(1e12, 1e11)
    assert steady(fast, Speed(1.1e12, 0.9e11))
    assert not steady(fast, Speed(1.2e12, 1e11)) and not steady(fast, Speed(1e12, 0.8e11))


def test_a_shape_that_is_a_model_s_own_too_is_marked_as_the_model_s(store):
    models, designs = products(12, MODEL)[6:], products(12)
    sweep(Machine(), store).run(models, given(designs))
    assert Counter(s.origin for s in store.samples()) == {MODEL: 6, "design": 6}
    assert {s.op.m for s in store.samples() if s.origin == MODEL} == set(range(7, 13))


def test_store_of_another_device_is_refused(store):
    sweep(Machine(), store).run([], given(products(3)))
    for other in (
        SampleStore(store.folder, "card", "another card"),
        SampleStore(store.folder, "b", "a card"),
    ):
        with pytest.raises(CalibError, match="expected"):
            sweep(Machine(), other).run([], given(products(5)))
    assert len(store.samples()) == 3


def test_two_sweeps_of_one_device_merge(store, tmp_path):
    sweep(Machine(), store).run([], given(products(3)))
    sweep(Machine(2e9), store).run([], given(products(6)))
    store.compact()
    assert sorted(s.op.m for s in store.samples()) == [1, 2, 3, 4, 5, 6]
    assert len(list(store.folder.glob("*.parquet"))) == 1


def test_models_and_design_take_turns():
    more = iter([True] * 4 + [False] * 9)
    points = interleave(products(3, MODEL), iter(products(99)), lambda: next(more))
    assert [p.origin for p in points] == [MODEL, "design", "design"] * 3 + ["design"]


def test_streams_merge_by_shares_until_all_have_ended():
    merged = list(in_shares([iter("aaaaaa"), iter("bb"), iter([])], [1.0, 0.5, 0.3]))
    assert "".join(merged[:6]) == "aabaab" and Counter(merged) == {"a": 6, "b": 2}


def test_adaptive_plan_goes_where_the_fit_is_unsure(store):
    fits = []

    def refit(samples):
        fits.append(len(samples))
        return lambda some: np.array(
            [0.4 if op.operator == "conv2d" and op.stride == 2 else 0.02 for op in some]
        )

    machine = Machine()
    sweep(machine, store, 100.0).run([], adaptive(refit))
    assert len(fits) == 2 and fits[0] < fits[1]  # at half of the budget and at three quarters
    strided = [getattr(op, "stride", 0) == 2 for op, *_ in machine.measured]
    assert np.mean(strided[fits[0] :]) > 3 * np.mean(strided[: fits[0]])
    assert len(set(machine.measured)) == len(machine.measured)


def test_adaptive_plan_resumes_in_its_round(store):
    """Killed past the first round, it does not begin with the plain design again."""
    machine = Machine()
    sweep(machine, store, 60.0).run([], plain())
    fits = []

    def refit(samples):
        fits.append(len(samples))
        return lambda some: np.full(len(some), 0.1)

    state = State(store.samples(), lambda: 0.6)
    next(adaptive(refit)(state))
    assert fits == [len(store.samples())]


def test_most_useful_keeps_the_shares_of_kinds_and_picks_within_them():
    pool = [Point(op, cache) for op, cache in itertools.islice(design(), 600)]

    def of_length(some):
        return np.array([0.5 if getattr(op, "q_len", 0) > 300 else 0.05 for op in some])

    chosen = most_useful(pool, [], of_length, 100)
    assert len(chosen) == len({p.op for p in chosen}) == 100
    share = [sum(p.op.operator == "attention" for p in some) / len(some) for some in (chosen, pool)]
    assert share[0] == pytest.approx(share[1], abs=0.05)
    long = [
        np.mean([p.op.q_len > 300 for p in some if p.op.operator == "attention"])
        for some in (chosen, pool)
    ]
    assert long[0] > 1.5 * long[1]


def visits_of(samples):
    return Counter((s.op, s.implementation, s.cache) for s in samples)


def test_visits_to_a_shape_are_apart_and_a_stretch_is_finished_before_the_next(store):
    machine = Machine(visits=3)
    sweep(machine, store, 50.0).run([], given(products(60)))
    assert set(visits_of(store.samples()).values()) == {3} and len(store.samples()) == 180
    order = [op.m for op, *_ in machine.measured]
    first = order[: order.index(1, 1)]  # the first pass over the first stretch
    assert order[: 3 * len(first)] == 3 * first
    most = STRETCH_SHARE * 50.0 / 3
    assert most / 2 < len(first) * SAMPLE_S < most + SAMPLE_S
    assert min(order[3 * len(first) :]) == len(first) + 1


def test_budget_holds_all_visits(store):
    machine = Machine(visits=3)
    sweep(machine, store, 20.0).run([], plain())
    taken = machine.now - 1e9
    assert 20.0 - 6 * SAMPLE_S <= taken <= 20.0 + 3 * (SAMPLE_S + 2 * PROBE_S)
    assert set(visits_of(store.samples()).values()) == {3}


@pytest.mark.parametrize("kill_at", [0, 3, 25, 70, 100])
def test_killed_anywhere_the_missing_visits_are_made_and_no_more(store, kill_at):
    first = Machine(kill_at=kill_at, visits=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(first, store).run(products(10, MODEL), given(products(60)))
    lacking = {op.m for (op, *_), n in visits_of(store.samples()).items() if n < 3}
    second = Machine(now=first.now + 100, visits=3)
    sweep(second, store).run(products(10, MODEL), given(products(40)))
    assert set(visits_of(store.samples()).values()) == {3}
    assert visits_of(store.samples()).total() == len(first.measured + second.measured)
    assert {s.op.m for s in store.samples() if s.origin == MODEL} == set(range(1, 11))
    assert lacking <= {op.m for op, *_ in second.measured[: len(lacking)]}  # before anything else


def test_a_shape_that_the_plan_no_longer_has_gets_its_visits(store):
    first = Machine(kill_at=30, visits=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(first, store).run([], given(products(40)))
    left = [op for (op, *_), n in visits_of(store.samples()).items() if n < 2]
    second = Machine(now=first.now + 1, visits=2)
    sweep(second, store).run([], given([]))
    assert left and [op for op, *_ in second.measured] == left


def test_missing_visits_keep_to_the_budget(store):
    machine = Machine()
    sweep(machine, store, 10.0).run([], plain())
    machine.visits = 3
    assert sweep(machine, store, 10.0).run([], plain()) <= 3


def test_what_fails_is_visited_once_and_what_is_planned_twice_is_measured_once(store):
    huge = Point(ops.Matmul(2**17, 2**17, 64), "cold")
    sweep(Machine(visits=3), store).run([], given([huge, *products(2), *products(2), huge]))
    assert sorted(visits_of(store.samples()).values()) == [1, 3, 3]


def test_a_lost_device_among_visits_is_stored_and_its_shape_left_alone(store, monkeypatch):
    machine = Machine(visits=3)
    fine = machine.measure

    def measure(op, *some):
        return Reading(status=LOST) if op.m == 3 else fine(op, *some)

    monkeypatch.setattr(machine, "measure", measure)
    with pytest.raises(DeviceLost):
        sweep(machine, store).run([], given(products(5)))
    assert [s.status for s in store.samples()] == ["ok", "ok", LOST]
    sweep(machine, store).run([], given(products(5)))
    assert sorted(visits_of(store.samples()).values()) == [1, 3, 3, 3, 3]


def test_adaptive_plan_counts_shapes_and_not_visits(store):
    machine = Machine(visits=3)
    sweep(machine, store, 60.0).run([], adaptive(lambda samples: lambda some: np.ones(len(some))))
    found = visits_of(store.samples())
    assert set(found.values()) == {3}
    assert len(found) == pytest.approx(60.0 / (SAMPLE_S + PROBE_S / 4) / 3, rel=0.1)
