"""Cases against wider numbers: torch's on the CPU, our kernels under Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from calib.measure.cases import check
from calib.measure.cases.arena import Arena, Unsupported
from calib.measure.cases.check import error_of, pieces, reference_of
from calib.measure.cases.products import group_ends
from calib.measure.cases.torch_cases import torch_cases
from calib.measure.cases.triton_cases import triton_cases
from model import ops

ARENA = Arena(2**25)
PRODUCT = ops.Matmul(7, 96, 64, bias=True)
GROUPED = ops.GroupedMatmul(12, 16, 2, 32, 64, active_experts=5)
ATTENTION = ops.Attention(1, 33, 33, 4, 2, 64, causal=True)
CONVOLUTION = ops.Conv2d(1, 16, 24, 9, 11, 3, 2, 1, bias=True)
PATCHES = ops.Conv2d(1, 3, 32, 28, 28, 14, 14, bias=True)
BOTH = [
    PRODUCT,
    replace(PRODUCT, m=1, bias=False),
    GROUPED,
    ATTENTION,
    ops.Attention(2, 9, 9, 4, 4, 32, bias=True),
    ops.Attention(1, 1, 70, 4, 2, 64),
    CONVOLUTION,
    PATCHES,
    ops.Norm(5, 72),
    ops.Norm(5, 72, "layernorm"),
    ops.Softmax(9, 33),
    ops.Elementwise(1003),
    ops.Elementwise(1003, 2),
    ops.Copy(1003),
]
TORCH = [
    ops.Matmul(5, 6, 7, batch=3),
    ops.Attention(2, 9, 9, 4, 4, 32, mask=True),
    ops.Elementwise(1003, 1, 1, 4),
    ops.Elementwise(1003, 1, 1, 5),
    ops.Elementwise(640, 1, broadcast=64),
    ops.Elementwise(4 * 5 * 5, 0, broadcast=2 * 4 * 5),
    ops.Norm(6, 72, "layernorm", transposed=True),
    ops.Elementwise(640, 2, transposed=True),
    ops.Elementwise(640, 1, broadcast=64, transposed=True),
    ops.Gather(9, 33),
    ops.Copy(1003, "float32", "int64"),
    ops.Copy(1024),
    ops.Softmax(9, 33, out_dtype="float32"),
    ops.Other("topk", 64 * 4 * 9, 6 * 12 * 9, dtype="float32"),
    ops.Other("topk_sorted", 128 * 4 * 9, 8 * 12 * 9, dtype="float32"),
    ops.Other("sort", 80, 160, dtype="int64"),
    ops.Other("cumsum", 80, 80, dtype="float32"),
    ops.Reduction(128, 6, "float32"),
    ops.Convolution(1, 16, 24, 31, 16, taps=3, bias=True),
    ops.Convolution(2, 16, 24, 31, 31, taps=5, groups=2),
    ops.ChannelNorm(16 * 33, 16),
    ops.ChannelNorm(16 * 33, 16, "groupnorm", vectors=2),
    ops.Other("max_pool2d_with_indices", 64 * 81 * 2, 64 * 25 * 10),
    ops.Reduction(9, 257),
    ops.Reduction(2, 257, "float32", "int64"),
    ops.Other("arange", 0, 80, dtype="int64"),
    ops.Other("histc", 400, 40, dtype="float32"),
    ops.Other("empty_like", 0, 80, dtype="int64"),
    ops.Other("upsample_bicubic2d", 64 * 81 * 4, 64 * 25 * 4, dtype="float32"),
]


def name(op):
    return f"{getattr(op, 'name', op.operator)} {list(op.shape().values())}"


@pytest.mark.parametrize("op", [*BOTH, *TORCH], ids=name)
def test_torch_computes_what_wider_numbers_say(op):
    assert error_of(torch_cases(op, ARENA)[0]) == ""


@pytest.mark.parametrize("op", BOTH, ids=name)
def test_our_kernels_compute_what_their_references_say(op, device):
    dtype = "float16" if device == "cpu" else op.dtype  # the interpreter has no bfloat16
    arena = ARENA if device == "cpu" else Arena(2**25, device=device)
    assert error_of(triton_cases(replace(op, dtype=dtype), arena)[0]) == ""


@pytest.mark.parametrize(
    "op",
    [
        replace(PRODUCT, batch=2),
        replace(PRODUCT, weight_dtype="int8"),
        replace(ATTENTION, causal=False, mask=True),
        ops.Softmax(9, 33, out_dtype="float32"),
        ops.Copy(9, "float32", "bfloat16"),
        ops.Elementwise(9, 1, 1, 5),
        ops.Gather(9, 33),
        ops.Other("sort", 80, 160),
    ],
    ids=name,
)
def test_what_no_kernel_of_ours_does_is_said(op):
    with pytest.raises(Unsupported):
        triton_cases(op, ARENA)


def test_a_wrong_output_is_described():
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))

    def broken(values):
        if values.dtype == torch.float64:
            return values
        holes = values.clone()
        holes[1, 2] = torch.nan
        holes[3] += 1
        return holes

    assert error_of(partial(broken, x)) == "8 of 35 elements are not the reference's"
    transposed = partial(lambda v: v if v.dtype == torch.float64 else v.T, x)
    assert error_of(transposed) == "shape (7, 5): expected (5, 7)"
    nothing = partial(lambda v: v if v.dtype == torch.float64 else None, x)
    assert error_of(nothing) == "0 outputs: expected 1"


def test_a_rounding_is_forgiven_and_a_wrong_digit_is_not():
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    off = partial(lambda v: v if v.dtype == torch.float32 else (v * 1.01).to(v.dtype), x)
    far = partial(lambda v: v if v.dtype == torch.float32 else (v * 1.3).to(v.dtype), x)
    assert error_of(off) == "" and error_of(far) != ""


def test_copies_lie_apart_until_the_arena_ends():
    cases = torch_cases(ops.Matmul(1, 64, 64), ARENA, 32)
    starts = {case.args[1].data_ptr() for case in cases}
    assert len(starts) == 32 and min(abs(a - b) for a in starts for b in starts - {a}) >= 8192


def test_as_many_experts_are_touched_as_the_operator_says():
    loads = group_ends(GROUPED, ARENA).diff(prepend=torch.zeros(1, dtype=torch.int32))
    assert int(loads.sum()) == GROUPED.rows == 24
    assert int((loads > 0).sum()) == 5 and 5 < int(loads.max()) <= 12  # uniform: 12.8 of 16
    even = group_ends(replace(GROUPED, active_experts=13), ARENA)
    assert int(even.diff(prepend=torch.zeros(1, dtype=torch.int32)).max()) == 2


def test_products_of_narrow_types_need_a_card():
    for dtype in ("float8_e4m3fn", "int8", "tf32"):
        with pytest.raises(Unsupported, match="on a card"):
            torch_cases(ops.Matmul(64, 64, 64, dtype=dtype), ARENA)
    with pytest.raises(Unsupported, match="cannot fill tensors of "):
        torch_cases(ops.Copy(64, "int4"), ARENA)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "tf32"])
def test_products_of_narrow_types_on_a_card(dtype):
    arena = Arena(2**27, device="cuda")
    assert error_of(torch_cases(ops.Matmul(64, 128, 256, dtype=dtype), arena)[0]) == ""


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (ops.Elementwise(292, inputs=2, dtype="bool"), "of bool, torch's is a logical or"),
        (ops.Matmul(8, 8, 8, dtype="float32"), "multiply float32 as tf32"),
        (ops.Conv2d(1, 8, 8, 4, 4, 3, dtype="float32"), "multiply float32 as tf32"),
        (ops.Matmul(8, 8, 8, dtype="int8"), "of floating point"),
    ],
)
def test_what_our_kernels_do_not_do_is_refused_by_name(op, why):
    with pytest.raises(Unsupported, match=why):
        triton_cases(op, ARENA)


def test_our_product_of_tf32_takes_float32():
    (case,) = triton_cases(ops.Matmul(8, 16, 24, dtype="tf32"), ARENA)
    assert [x.dtype for x in case.args[:2]] == [torch.float32] * 2


def test_an_allocation_on_a_card_is_no_kernel():
    with pytest.raises(Unsupported, match="launches no kernel"):
        torch_cases(ops.Other("empty_like", dtype="int64"), Arena(2**20, device="meta"))


IN_PARTS = [
    (torch_cases, PRODUCT),
    (torch_cases, ops.Matmul(5, 6, 7, batch=3)),
    (torch_cases, ops.Attention(2, 9, 9, 4, 4, 32, bias=True)),
    (torch_cases, ops.Attention(1, 9, 9, 4, 2, 32, mask=True)),
    (torch_cases, replace(CONVOLUTION, batch=3)),
    (torch_cases, ops.Norm(5, 72, "layernorm")),
    (triton_cases, PRODUCT),
    (triton_cases, ATTENTION),
    (triton_cases, ops.Attention(1, 1, 70, 4, 2, 64)),
    (triton_cases, ops.Elementwise(1003, 2)),
]


@pytest.mark.parametrize(("make", "op"), IN_PARTS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_reference_in_pieces_is_the_whole_one(make, op):
    (case,) = make(op, ARENA)
    whole, seen = reference_of(case), 0
    for part, one in pieces(case, 3):
        expected = reference_of(one)
        torch.testing.assert_close(expected, whole[part], rtol=1e-4, atol=1e-4)
        seen += expected.numel()
    assert seen == whole.numel()


def test_what_does_not_fit_is_compared_in_ever_smaller_pieces(monkeypatch):
    """A card that holds a tenth of the reference; a wrong element is found all the same."""
    (case,) = torch_cases(ops.Matmul(640, 96, 64), ARENA)
    sizes, honest = [], check.reference_of

    def small(one):
        expected = honest(one)
        sizes.append(len(expected))
        if expected.numel() > 64 * 96:
            raise torch.OutOfMemoryError("no room")
        return expected

    monkeypatch.setattr(check, "reference_of", small)
    assert error_of(case) == ""
    assert sizes[:3] == [640, 160, 40] and sum(sizes[2:]) == 640
    monkeypatch.setitem(check.PIECES, wrong_somewhere, ((0,), ()))
    hole = partial(wrong_somewhere, *case.args[:2])
    monkeypatch.setitem(check.REFERENCES, wrong_somewhere, check._product_reference)
    assert "1 of 3840 elements" in error_of(hole)


def wrong_somewhere(x, w, b=None):
    out = x @ w.T
    out[333, 5] = 1e3
    return out
