"""The pool of a card on a simulated one: what is drawn, in pieces, kept at once."""

from __future__ import annotations

from collections import Counter

from simulated_gpu import KernelBench, SimulatedCard, Trace

from benchmarks.card.pool import COUNT, LONG_S, at_random, measure
from calib.hardware.datasheet import floor, load_hardware
from calib.measure.cuda.instrument import CudaInstrument
from calib.samples.files import read_samples

H200 = load_hardware("h200")


def opened():
    card = SimulatedCard()
    return card, CudaInstrument(H200, card, Trace(card), KernelBench(card, 2e-5, 2e-5))


def test_the_draw_has_its_numbers_and_is_the_same_each_time():
    drawn = list(at_random(H200))
    assert Counter(op.operator for op, _ in drawn) == COUNT
    assert len({op for op, _ in drawn}) == sum(COUNT.values()) == 1000
    assert all(float(floor(op, H200)) < LONG_S for op, _ in drawn)
    assert drawn == list(at_random(H200)) != list(at_random(H200, seed=1))


def test_pieces_go_on_and_every_one_is_kept(tmp_path):
    card, instrument = opened()
    first, samples = measure(instrument, tmp_path, H200, "a card", 4.0, clock=lambda: card.host)
    assert 40 < first == len(samples) < 1000
    assert len(read_samples(tmp_path / "pool.parquet")) == first
    card, instrument = opened()
    card.host = 100.0
    second, samples = measure(instrument, tmp_path, H200, "a card", 8.0, clock=lambda: card.host)
    assert second > 40 and len(samples) == first + second
    assert {s.implementation for s in samples} == {"torch"}
    assert len({(s.op, s.cache) for s in samples}) == len(samples)
    assert len(read_samples(tmp_path / "pool.parquet")) == len(samples)
