"""Operators that strangers timed: what is read, what is built of it, and what comes of a few."""

from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.public_operators import (
    FULL,
    KERNELS,
    PUBLISHED,
    calls_of,
    passes,
    published,
    shape_of,
)
from benchmarks.published_times import compared, described, told
from calib.hardware.datasheet import load_hardware
from model.ops import Matmul, Norm, Softmax

A_FEW = ("layer_norm", "swiglu", "rope")


def test_every_row_names_a_kernel_a_card_and_where_it_stands() -> None:
    rows = published()
    assert len(rows) == 201 and {row.kernel for row in rows} == set(KERNELS)
    assert all(row.seconds >= 30e-6 for row in rows)
    assert all(load_hardware(row.card) for row in rows)
    keys = [(r.card, r.kernel, r.mode, r.shape) for r in rows]
    assert len(set(keys)) == len(keys)
    source = PUBLISHED.with_suffix(".md").read_text("utf-8")
    assert "BSD-2-Clause" in source
    assert shape_of("rows=3;cols=5") == (("rows", 3), ("cols", 5))


def test_more_of_a_kernel_takes_longer() -> None:
    """Within a series only one size changes; a row mistyped would stand out."""
    rows = published()
    for a, b in pairwise(rows):
        same = (a.card, a.kernel, a.mode, len(a.shape)) == (b.card, b.kernel, b.mode, len(b.shape))
        grown = [y >= x for (_, x), (_, y) in zip(a.shape, b.shape, strict=False)]
        if same and all(grown):
            assert b.seconds > a.seconds, (a, b)


def test_a_pass_is_what_was_timed() -> None:
    forward = calls_of(
        "linear_cross_entropy", "forward", shape_of("rows=64;hidden=8;vocab=32"), "bfloat16"
    )
    assert [type(call.op) for call in forward[:2]] == [Matmul, Softmax]
    sizes = shape_of("rows=64;hidden=32;intermediate=48")
    full = calls_of("swiglu", FULL, sizes, "bfloat16")
    products = sum(call.count for call in full if isinstance(call.op, Matmul))
    assert products == 9  # three forward, and for each the gradients of its factors
    assert len(full) == len(calls_of("geglu", FULL, sizes, "bfloat16"))
    (norm,) = calls_of("layer_norm", "forward", shape_of("rows=4;cols=8"), "float32")
    assert isinstance(norm.op, Norm) and norm.op.cols == 8
    assert (
        len(
            calls_of(
                "rope", "forward", shape_of("tokens=4;heads=4;kv_heads=2;head_dim=8"), "bfloat16"
            )
        )
        == 10
    )


def test_a_few_rows_are_told_and_summed_up() -> None:
    some = [r for r in published() if r.card in ("h100", "h100_nvl") and r.kernel in A_FEW]
    few = [r for r in some if r.mode == "forward"][::4]
    rows = list(compared(passes(few)))
    assert len(rows) == len(few) >= 4
    assert all(abs(r["error"]) < 0.5 and r["roofline"] < r["error"] for r in rows)
    assert all(r["older"] is not None for r in rows)
    text = described(rows)
    assert "h100 swiglu forward" in text and "mean |error|" in text
    assert max(map(len, text.splitlines())) <= 110


def test_what_ships_knows_no_older_kernels_of_an_a100_and_the_interval_holds_the_estimate() -> None:
    few = passes([r for r in published() if r.card == "a100" and r.kernel == "swiglu"][:2])
    assert all(row["older"] is None for row in compared(few))
    for found in told(few, load_hardware("a100")):
        assert found.roofline < found.low <= found.seconds <= found.high
    twice = [replace(few[0], seconds=2 * few[0].seconds)]
    assert next(compared(twice))["error"] == pytest.approx(
        (next(compared(few[:1]))["error"] + 1) / 2 - 1
    )
