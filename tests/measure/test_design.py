"""The design: what it holds in which shares, and that all of it runs."""

import itertools
from collections import Counter

import pytest
import torch

from calib.measure.cases.arena import Arena
from calib.measure.cases.torch_cases import build
from calib.measure.sweep.design import design
from model import ops

ARENA = Arena(2**25)


def test_design_repeats_itself_and_keeps_its_shares():
    first, again = (list(itertools.islice(design(3), 400)) for _ in range(2))
    assert first == again
    kinds = [Counter(op.operator for op, _ in some) for some in (first[:200], first)]
    for kind in ("matmul", "attention", "conv2d"):
        assert kinds[0][kind] == pytest.approx(kinds[1][kind] / 2, rel=0.25)


def test_design_leaves_out_what_is_not_worth_its_time():
    short = list(itertools.islice(design(0, lambda op: op.flops < 1e9), 400))
    assert max(op.flops for op, _ in short) < 1e9
    share = [sum(op.operator == "matmul" for op, _ in some) / 400 for some in (short,)]
    assert share[0] == pytest.approx(0.27, abs=0.05)
    assert list(itertools.islice(design(0, lambda op: op.operator == "none"), 5)) == []


def test_design_reaches_the_edges_of_tiles_and_further_on_a_card():
    some = [op for op, _ in itertools.islice(design(0, reach=4), 2000) if op.operator == "matmul"]
    long = [op.m for op in some if op.m >= 512]
    at_edge = [m for m in long if min(m % 128, -m % 128) <= 1]
    assert len(at_edge) / len(long) > 0.15 > 3 / 128
    assert {m % 128 for m in at_edge} == {0, 1, 127}
    assert max(long) > 2 * 4096


def test_every_supported_operator_of_the_design_runs():
    shapes = {}
    for op, cache in itertools.islice(design(), 1500):
        small = op.bytes < 2**22 and op.flops < 2**30
        if small:
            shapes.setdefault((op.operator, getattr(op, "name", op.dtype)), (op, cache))
    assert {"matmul", "grouped_matmul", "attention", "conv2d", "norm"} <= {k for k, _ in shapes}
    for op, cache in shapes.values():
        build(op, ARENA, cache)()


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
