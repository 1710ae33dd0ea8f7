"""Over which shapes processes died, told by the files that they left."""

import json
from dataclasses import replace

import pytest
from simulated_machine import Machine, given, products, sweep

from calib.errors import CalibError
from calib.measure.instrument import LOST, UNSUPPORTED
from calib.measure.sweep.attempts import Attempts
from calib.measure.sweep.design import plain
from calib.samples.files import op_to_json
from calib.samples.store import SampleStore


@pytest.fixture
def store(tmp_path):
    return SampleStore(tmp_path / "samples", "card", "a card")


def left_behind(store, point, times):
    """The file that so many processes leave, each killed while it measured ``point``."""
    for _ in range(times):
        Attempts(store.folder).begin(point.op, "torch", point.cache, point.origin)


def test_a_shape_that_a_process_was_killed_over_is_tried_once_more(store):
    machine, points = Machine(), products(4)
    left_behind(store, points[2], 1)
    sweep(machine, store).run([], given(points))
    assert [s.status for s in store.samples()] == ["ok"] * 4
    assert not Attempts(store.folder).before


def test_a_shape_that_two_processes_were_killed_over_is_lost(store):
    machine, points = Machine(), products(4)
    left_behind(store, points[2], 2)
    sweep(machine, store).run([], given(points))
    by_size = {s.op.m: s.status for s in store.samples()}
    assert by_size == {1: "ok", 2: "ok", 3: LOST, 4: "ok"}
    assert points[2].op not in [op for op, _, _ in machine.measured]
    again = Machine()
    sweep(again, store).run([], given(points))
    assert again.measured == []


def test_kills_over_different_shapes_are_not_added_up(store):
    first, second = products(2)
    left_behind(store, first, 1)
    left_behind(store, second, 1)
    assert [each.times for each in Attempts(store.folder).before.values()] == [1]


def test_an_end_that_was_chosen_leaves_no_attempt(store):
    with pytest.raises(KeyboardInterrupt):
        sweep(Machine(kill_at=2), store).run([], plain())
    assert not Attempts(store.folder).before


def test_a_live_process_is_no_death(store):
    """Two sweeps that measure the same shape at once, and a third that is started beside them."""
    (point,) = products(1)
    live = [Attempts(store.folder), Attempts(store.folder)]
    for each in live:
        each.begin(point.op, "torch", point.cache, point.origin)
    assert not Attempts(store.folder).before
    sweep(Machine(), store).run([], given([point]))
    assert [s.status for s in store.samples()] == ["ok"]
    for each in live:
        each.end()
    assert not list(store.folder.glob("measuring*"))


def test_two_that_die_at_once_over_a_shape_are_one_death(store):
    (point,) = products(1)
    live = [Attempts(store.folder), Attempts(store.folder)]
    for each in live:
        each.begin(point.op, "torch", point.cache, point.origin)
    del live, each  # their files are closed, as death closes them
    assert [each.times for each in Attempts(store.folder).before.values()] == [1]


def test_what_an_older_version_left_is_read(store):
    (point,) = products(1)
    store.folder.mkdir(parents=True)
    row = ["matmul", op_to_json(point.op), "torch", point.cache, point.origin, 2]
    (store.folder / "measuring.json").write_text(json.dumps(row))
    sweep(Machine(), store).run([], given([point]))
    assert [s.status for s in store.samples()] == [LOST]
    assert not list(store.folder.glob("measuring*"))


def test_an_attempt_that_cannot_be_written_is_one_error_and_leaves_no_file(store):
    store.folder.parent.mkdir(exist_ok=True)
    store.folder.write_text("in the way")
    (point,) = products(1)
    with pytest.raises(CalibError, match=f"cannot write {store.folder}"):
        Attempts(store.folder).begin(point.op, "torch", point.cache, point.origin)


def test_a_store_that_is_full_ends_the_sweep_and_leaves_no_attempt(store, monkeypatch):
    """The block cannot be stored, neither in its turn nor at the end."""

    def full(samples):
        raise CalibError("samples: cannot write")

    monkeypatch.setattr(store, "append", full)
    with pytest.raises(CalibError, match="cannot write"):
        sweep(Machine(), store).run([], given(products(9)))
    assert not list(store.folder.glob("measuring*"))


def test_a_second_interrupt_while_the_block_is_stored_leaves_no_attempt(store, monkeypatch):
    def interrupted(samples):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(Machine(kill_at=2), store).run([], given(products(9)))
    assert not list(store.folder.glob("measuring*"))


@pytest.mark.parametrize("seconds", [(0.0,), (1e-3, float("nan")), (-1e-6,), (4e3,)])
def test_seconds_that_cannot_be_are_no_sample_and_the_sweep_goes_on(store, monkeypatch, seconds):
    machine = Machine()
    fine = machine.measure

    def measure(op, *some):
        return replace(fine(op, *some), **({"seconds": seconds} if op.m == 2 else {}))

    monkeypatch.setattr(machine, "measure", measure)
    sweep(machine, store).run([], given(products(3)))
    found = {s.op.m: (s.status, len(s.seconds)) for s in store.samples()}
    assert found == {1: ("ok", 2), 2: (UNSUPPORTED, 0), 3: ("ok", 2)}


def test_a_torn_file_of_attempts_is_none(store):
    store.folder.mkdir(parents=True)
    (store.folder / "measuring.json").write_text('["matmul", "{')
    assert not Attempts(store.folder).before
