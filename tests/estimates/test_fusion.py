"""Fusing: chains worked out by hand, and what no fusing may change."""

from __future__ import annotations

import pytest

from calib.estimates.fusion import POINTWISE, fuse
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call
from model.ops import Attention, Copy, Elementwise, Matmul, Norm, Other, Softmax


def call(op, path: str = "m", **fields) -> Call:
    return Call(path, op, **fields)


def test_a_chain_is_one_launch_without_its_intermediates() -> None:
    """x -> silu -> * y -> cast: reads x and y, writes the result; 2 tensors saved both ways."""
    n = 1000
    silu = call(Elementwise(n, flops_per_element=5))
    product = call(Elementwise(n, inputs=2))
    cast = call(Copy(n, out_dtype="float32"), path="m.last")
    done = fuse([silu, product, cast])
    (one,) = done.calls
    assert (one.path, one.launches, one.count) == ("m.last", 1, 1)
    assert one.op.bytes_read == 2 * n * 2
    assert one.op.bytes_written == n * 4
    assert one.op.flops == n * 6
    assert (done.launches_before, done.launches) == (3, 1)
    assert done.saved_bytes == 2 * (n * 2) * 2
    assert done.chains == {("elementwise", "elementwise", "copy"): 1}


def test_a_norm_becomes_one_kernel() -> None:
    """Eight launches of theirs, one of a compiler's, with the bytes that the norm has anyway."""
    norm = call(Norm(7, 64), launches=8)
    (one,) = fuse([norm]).calls
    assert one.launches == 1
    assert one.op.operator == "elementwise"
    assert one.op.bytes == norm.op.bytes
    assert one.op.flops == norm.op.flops


def test_products_and_waits_end_a_chain() -> None:
    add = call(Elementwise(64, inputs=2))
    waited = call(Elementwise(64), sync=True)
    product = call(Matmul(1, 64, 64))
    attention = call(Attention(1, 1, 8, 1, 1, 64))
    other = call(Other("sort", read=64 * 2, written=64 * 2))
    for between in (product, attention, other):
        assert [c.op for c in fuse([add, between, add]).calls] == [add.op, between.op, add.op]
    done = fuse([add, waited, add])
    assert len(done.calls) == 2
    assert done.calls[0].sync


def test_a_number_that_is_made_is_no_call_and_what_nobody_knows_is_one() -> None:
    add = call(Elementwise(64, inputs=2))
    number = call(Other("full", written=4, dtype="float32"))
    assert fuse([add, number, add]).calls == fuse([add, add]).calls
    for other in (Other("zeros", written=64 * 2), Other("ask", written=2, unknown=True)):
        assert len(fuse([add, call(other), add]).calls) == 3


def test_other_sizes_and_counts_end_a_chain() -> None:
    add = call(Elementwise(64, inputs=2))
    assert len(fuse([add, call(Elementwise(32))]).calls) == 1
    assert len(fuse([add, call(Elementwise(16))]).calls) == 2
    assert len(fuse([add, call(Elementwise(64), count=2)]).calls) == 2
    assert len(fuse([add, call(Softmax(8, 8)), call(Norm(4, 16))]).calls) == 1


@pytest.mark.parametrize(
    "calls",
    [
        DeepseekOCRModel().decode_step(494),
        DeepseekOCRModel().prefill(493),
        DeepseekOCRModel().vision(1024, (1, 2), 640),
    ],
    ids=["decode", "prefill", "vision"],
)
def test_a_model_keeps_its_work(calls: list[Call]) -> None:
    done = fuse(calls)
    assert sum(c.op.tensor_core_flops * c.count for c in done.calls) == sum(
        c.op.tensor_core_flops * c.count for c in calls
    )
    kept = [c for c in done.calls if c.op.operator not in POINTWISE]
    made = [c for c in calls if isinstance(c.op, Other) and not c.op.read]
    numbers = [c for c in made if c.op.written in (1, 8)]  # of bool and of int64
    assert kept == [c for c in calls if c.op.operator not in POINTWISE and c not in numbers]
    assert {c.path for c in done.calls} <= {c.path for c in calls}
    assert done.launches < done.launches_before * 0.8
    before, after = (sum(c.op.bytes * c.count for c in some) for some in (calls, done.calls))
    assert done.saved_bytes == before - after > 0
    # All chains are found at once.
    assert fuse(done.calls).launches == done.launches
