"""The pool of random shapes, and what visits to them are worth, over a law that is made up."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import visits
from benchmarks.pool import KINDS, MOST_BYTES, MOST_FLOPS, at_random
from calib.hardware.datasheet import floor, load_hardware
from calib.measure.sweep.domains import domains
from calib.samples.sample import Sample

H200 = load_hardware("h200")


def shapes(kind, count, seed=0):
    return list(itertools.islice(at_random(kind, seed), count))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_of_the_kind_short_and_the_same_for_every_piece(kind):
    drawn = shapes(kind, 60)
    assert len({op for op, _ in drawn}) == 60
    assert {(op.operator, op.dtype) for op, _ in drawn} == {(kind, "bfloat16")}
    assert all(op.flops < MOST_FLOPS and op.bytes < MOST_BYTES for op, _ in drawn)
    assert drawn[:30] == shapes(kind, 30) != shapes(kind, 30, seed=1)


def test_dimensions_are_log_uniform_over_their_domain():
    (gemv,) = (d for d in domains() if d.name == "vector product")
    rng = np.random.default_rng(0)
    axis = gemv.axes["n"]
    u = np.log([gemv.at_random(rng).n for _ in range(2000)])
    u = (u - np.log(axis.low)) / np.log(axis.high / axis.low)
    assert np.mean(u) == pytest.approx(0.5, abs=0.03)
    assert np.std(u) == pytest.approx(12**-0.5, abs=0.02)


def test_visits_are_drawn_and_compared_with_what_all_of_them_tell(monkeypatch):
    rng = np.random.default_rng(0)
    samples = []
    for op, cache in shapes("matmul", 60):
        true = 4e-6 + float(floor(op, H200)) / 0.7
        once = Sample(op, [true], "h200", "torch", cache)
        samples += [replace(once, seconds=[true * np.exp(rng.normal(0, 0.15))]) for _ in range(8)]
    pool = visits.pool_of(samples, H200)
    assert len(pool) == 60 and {len(some) for some in pool} == {9}
    monkeypatch.setattr(visits, "DESIGNS", ((40, 1), (40, 8)))
    found = [visits.errors(pool, H200, seed=seed) for seed in range(3)]  # twenty shapes asked each
    one, eight = (np.mean([draw[i]["median"] for draw in found]) for i in range(2))
    assert eight < one
    single = np.mean([draw[1]["against one"] for draw in found])
    assert single > 1.3 * eight  # a single visit is noise on top
