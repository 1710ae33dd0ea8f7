"""The sweep for real on this CPU, small; cases against float64; the design's prefixes."""

import itertools

import pytest
import torch

from calib.measure import sweep as module
from calib.measure.cases import Arena, Unsupported, build
from calib.measure.clock import StopRule
from calib.measure.design import design
from calib.measure.sweep import Point, interleave, sweep
from calib.samples import SampleStore
from model import ops

FAST = StopRule(0.5, 0.01, 2, 3)
ARENA = Arena(2**25)


@pytest.fixture
def store(tmp_path):
    return SampleStore(tmp_path, "cpu", "a CPU")


def plan(count):
    return [Point(ops.Matmul(m, 64, 64), "cold", "design") for m in range(1, count + 1)]


def test_every_supported_operator_of_the_design_runs():
    shapes = {}
    for op, cache in itertools.islice(design(), 400):
        small = op.bytes < 2**22 and op.flops < 2**30
        if small:
            shapes.setdefault((op.operator, getattr(op, "name", op.dtype)), (op, cache))
    assert {"matmul", "grouped_matmul", "attention", "conv2d", "norm"} <= {k for k, _ in shapes}
    for op, cache in shapes.values():
        build(op, ARENA, cache)()


def test_product_is_the_product():
    op = ops.Matmul(7, 96, 64, bias=True)
    arena = Arena(2**22)
    out = build(op, arena, "hot")()
    assert out.shape == (7, 96) and out.dtype == torch.bfloat16 and out.isfinite().all()


def test_grouped_product_touches_the_experts_it_says():
    op = ops.GroupedMatmul(12, 16, 2, 32, 64, active_experts=5)
    out = build(op, ARENA, "hot")()
    assert out.shape == (24, 32)


def test_cold_case_walks_through_more_than_a_cache():
    arena = Arena(2**28)
    starts = set()
    original = torch.nn.functional.linear

    def spy(x, w, b):
        starts.add(w.data_ptr())
        return original(x, w, b)

    torch.nn.functional.linear = spy
    try:
        run = build(ops.Matmul(1, 2048, 2048), arena, "cold")
        for _ in range(64):
            run()
    finally:
        torch.nn.functional.linear = original
    assert len(starts) * 2048 * 2048 * 2 >= 2**27


def test_unsupported_shape_is_recorded_and_skipped(store):
    window = ops.Attention(1, 8, 8, 2, 2, 64, causal=True, window=4)
    with pytest.raises(Unsupported):
        build(window, ARENA)
    assert sweep([Point(window, "hot", "design")], store, 10, FAST, {}) == 1
    assert [s.status for s in store.samples()] == ["unsupported"]


def test_interrupted_sweep_keeps_its_samples_and_resumes(store):
    seen = []

    def interrupt(elapsed, label):
        seen.append(label)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan(6), store, 60, FAST, {}, interrupt)
    kept = store.samples()
    assert len(kept) == 3 and all(s.probe_flops and s.probe_bandwidth for s in kept)
    assert sweep(plan(6), store, 60, FAST, {}) == 3
    assert sorted(s.op.m for s in store.samples()) == [1, 2, 3, 4, 5, 6]


def test_budget_and_count_end_a_sweep(store):
    assert sweep(plan(50), store, 0.0, FAST, {}) == 0
    assert sweep(plan(50), store, 60, FAST, {}, most=2) == 2


def test_blocks_are_closed_in_time(store, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_S", 0.0)
    sweep(plan(3), store, 60, FAST, {})
    assert len(list(store.folder.glob("*.parquet"))) == 3


def test_design_repeats_itself_and_models_are_interleaved():
    first, again = (list(itertools.islice(design(3), 60)) for _ in range(2))
    assert first == again
    points = interleave(plan(2), (Point(op, c, "design") for op, c in design()))
    assert [p.origin for p in itertools.islice(points, 5)] == ["design"] * 5
