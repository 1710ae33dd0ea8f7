"""Operators against torch's FLOP counter, brute force and closed forms."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ops import (
    OPERATORS,
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    AttentionBackward,
    ChannelNorm,
    Conv2d,
    Convolution,
    Copy,
    Elementwise,
    Gather,
    GroupedMatmul,
    Matmul,
    MoeMlp,
    Norm,
    Operator,
    Other,
    ReduceScatter,
    Reduction,
    SendRecv,
    Softmax,
    distinct_experts,
    grid,
    grid_points,
    is_grid,
    item_bytes,
)

size = st.integers(1, 200)
SAMPLES: dict[str, Operator] = {
    "matmul": Matmul(7, 5, 3, batch=2, bias=True),
    "grouped_matmul": GroupedMatmul(11, 8, 2, n=6, k=4),
    "moe_mlp": MoeMlp(11, 8, 2, hidden=6, intermediate=4),
    "attention": Attention(2, 5, 9, heads=4, kv_heads=2, head_dim=8, causal=True),
    "conv2d": Conv2d(2, 6, 4, 9, 11, kernel=3, stride=2, padding=1, groups=2, bias=True),
    "convolution": Convolution(2, 6, 4, 99, 180, taps=5, groups=2, transposed=True, bias=True),
    "norm": Norm(5, 7, kind="layernorm"),
    "channel_norm": ChannelNorm(35, 7, kind="groupnorm", vectors=2),
    "reduction": Reduction(5, 7, dtype="float32"),
    "softmax": Softmax(5, 7, dtype="float32", out_dtype="bfloat16"),
    "elementwise": Elementwise(35, inputs=2, broadcast=7),
    "gather": Gather(5, 7),
    "copy": Copy(35, dtype="float32", out_dtype="bfloat16"),
    "other": Other("topk", read=70, written=12, arithmetic=35),
    "all_reduce": AllReduce(64, 4),
    "all_gather": AllGather(64, 4),
    "reduce_scatter": ReduceScatter(64, 4, dtype="float32"),
    "all_to_all": AllToAll(64, 8, nodes=2),
    "send_recv": SendRecv(64),
}


def counted(run: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@given(m=size, n=size, k=size, batch=st.integers(1, 4))
def test_matmul_by_hand(m: int, n: int, k: int, batch: int) -> None:
    op = Matmul(m, n, k, batch=batch)
    assert op.flops == op.tensor_core_flops == 2 * batch * m * n * k
    assert op.bytes_read == 2 * batch * (m * k + k * n)
    assert op.bytes_written == 2 * batch * m * n
    assert op.cuda_core_flops == 0


def test_a_bias_is_read_once_and_added_everywhere() -> None:
    plain, biased = Matmul(7, 5, 3), Matmul(7, 5, 3, bias=True)
    assert biased.bytes - plain.bytes == 5 * 2
    assert biased.cuda_core_flops == 7 * 5
    assert biased.flops == plain.flops


@pytest.mark.parametrize(
    ("weight_dtype", "bytes_a_weight"),
    [(None, 2), ("float8_e4m3fn", 1), ("int8", 1), ("int4", 0.5)],
)
def test_narrow_weights(weight_dtype: str | None, bytes_a_weight: float) -> None:
    op = Matmul(1, 128, 64, weight_dtype=weight_dtype)
    assert op.weight_bytes_read == 128 * 64 * bytes_a_weight
    assert op.bytes_read == 64 * 2 + op.weight_bytes_read
    grouped = GroupedMatmul(1, 8, 2, 128, 64, weight_dtype=weight_dtype)
    assert grouped.weight_bytes_read == pytest.approx(2 * 128 * 64 * bytes_a_weight)


@pytest.mark.parametrize(("m", "n", "k", "batch"), [(7, 5, 3, 1), (1, 33, 17, 4)])
def test_matmul_flops_are_those_of_the_counter(m: int, n: int, k: int, batch: int) -> None:
    import torch

    a = torch.empty(batch, m, k, device="meta", requires_grad=True)
    b = torch.empty(batch, k, n, device="meta", requires_grad=True)
    op = Matmul(m, n, k, batch=batch)
    assert counted(lambda: torch.bmm(a, b)) == op.flops
    both = counted(lambda: torch.bmm(a, b).sum().backward())
    assert both == op.flops + sum(g.tensor_core_flops for g in op.backward())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding"),
    [(9, 11, 3, 1, 1), (10, 7, 3, 2, 1), (16, 16, 4, 4, 0), (5, 5, 1, 1, 0)],
)
def test_convolution_flops_and_shapes_are_torchs(
    height: int, width: int, kernel: int, stride: int, padding: int, groups: int
) -> None:
    import torch

    op = Conv2d(2, 6, 4, height, width, kernel, stride, padding, groups, bias=True)
    image = torch.empty(2, 6, height, width, device="meta", requires_grad=True)
    with torch.device("meta"):
        layer = torch.nn.Conv2d(6, 4, kernel, stride, padding, groups=groups)
    out = layer(image)
    assert out.shape == (2, 4, op.out_height, op.out_width)
    assert counted(lambda: layer(image)) == op.flops
    assert op.bytes_written == 2 * out.numel()
    assert op.weight_bytes_read == 2 * sum(p.numel() for p in layer.parameters())
    inputs, weights = op.backward()[:2]
    both = counted(lambda: layer(image).sum().backward())
    # The counter forgets that a group's weights see the channels of that group only.
    assert both == op.flops + inputs.flops + weights.flops * groups


def test_a_square_convolution_is_one_of_any_form() -> None:
    square = Conv2d(2, 6, 4, 9, 11, kernel=3, stride=2, padding=1, groups=2, bias=True)
    positions = square.out_height * square.out_width
    same = Convolution(2, 6, 4, 99, positions, taps=9, groups=2, bias=True)
    for name in ("flops", "cuda_core_flops", "weight_bytes_read", "bytes_read", "bytes_written"):
        assert getattr(same, name) == getattr(square, name)
    # Transposed, the roles of input and output are exchanged.
    back = Convolution(2, 4, 6, positions, 99, taps=9, groups=2, transposed=True)
    assert back.flops == same.flops
    assert back.bytes == replace(same, bias=False).bytes


@pytest.mark.parametrize(("q_len", "kv_len", "kv_heads"), [(5, 9, 4), (1, 33, 2), (17, 17, 1)])
def test_attention_flops_are_those_of_the_counter(q_len: int, kv_len: int, kv_heads: int) -> None:
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    op = Attention(2, q_len, kv_len, heads=4, kv_heads=kv_heads, head_dim=8)
    query, key = (2, 4, q_len, 8), (2, 4, kv_len, 8)
    assert op.flops == sdpa_flop_count(query, key, key)
    (gradient,) = op.backward()
    assert isinstance(gradient, AttentionBackward)
    assert gradient.flops == 2 * op.flops
    fused = replace(gradient, recompute=True)
    assert fused.flops == sdpa_backward_flop_count(query, query, key, key)


@given(q_len=st.integers(1, 12), past=st.integers(0, 12), window=st.integers(1, 30) | st.none())
def test_masked_scores_are_counted_as_by_hand(q_len: int, past: int, window: int | None) -> None:
    kv_len = q_len + past
    op = Attention(1, q_len, kv_len, 1, 1, 8, causal=True, window=window)
    pairs = [
        (q, k)
        for q in range(q_len)
        for k in range(kv_len)
        if k <= past + q and (window is None or k > past + q - window)
    ]
    assert op.keys_seen == len(pairs)
    assert op.min_flops == 4 * 8 * len(pairs)
    assert op.keys_read == len({k for _, k in pairs})
    assert op.flops == 4 * 8 * q_len * kv_len


def test_attention_reads_shared_keys_once_and_a_bias_whole() -> None:
    op = Attention(2, 5, 9, heads=4, kv_heads=2, head_dim=8)
    elements = 2 * (5 * 4 + 2 * 9 * 2) * 8
    assert op.bytes_read == 2 * elements
    assert op.bytes_written == 2 * 2 * 5 * 4 * 8
    assert replace(op, bias=True).bytes_read - op.bytes_read == 2 * 2 * 4 * 5 * 9
    assert replace(op, mask=True).bytes_read - op.bytes_read == 2 * 2 * 5 * 9


def test_the_gradient_of_a_grouped_product_is_twice_it() -> None:
    op = GroupedMatmul(83, 64, 6, n=1792, k=1280)
    inputs, weights = op.backward()
    assert inputs.flops + weights.flops == 2 * op.flops
    assert inputs.bytes_read == 83 * 6 * 1792 * 2 + op.weight_bytes_read
    assert weights.bytes_written == op.weight_bytes_read


@given(experts=st.integers(1, 300), tokens=st.integers(1, 500), data=st.data())
def test_distinct_experts_lie_between_one_token_and_all(
    experts: int, tokens: int, data: Any
) -> None:
    top_k = data.draw(st.integers(1, experts))
    touched = distinct_experts(experts, top_k, tokens)
    assert top_k <= touched * (1 + 1e-9)
    assert touched <= min(experts, tokens * top_k) * (1 + 1e-9)
    assert touched <= distinct_experts(experts, top_k, tokens + 1) * (1 + 1e-9)


def test_distinct_experts_of_deepseek_ocr() -> None:
    found = [distinct_experts(64, 6, tokens) for tokens in (1, 8, 32, 100)]
    assert found == pytest.approx([6, 34.9, 61.3, 64], abs=0.05)


def test_an_explicit_routing_goes_before_the_expectation() -> None:
    op = GroupedMatmul(83, 64, 6, n=4, k=4, active_experts=27, max_load=40)
    assert op.experts_read == 27
    assert op.flops == replace(op, active_experts=64).flops


@pytest.mark.parametrize("name", SAMPLES)
def test_every_gradient_is_made_of_operators(name: str) -> None:
    for gradient in SAMPLES[name].backward():
        assert gradient.flops >= 0
        assert gradient.bytes > 0


@given(ranks=st.integers(1, 64), part=st.integers(1, 10_000))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(ranks: int, part: int) -> None:
    """On the link and in adds; every card sends all but its own part, and all sums are whole."""
    elements = part * ranks
    whole, scatter, gather = (
        kind(elements, ranks) for kind in (AllReduce, ReduceScatter, AllGather)
    )
    assert whole.link_bytes == scatter.link_bytes + gather.link_bytes
    assert whole.link_bytes == 2 * 2 * part * (ranks - 1)
    assert whole.flops == scatter.flops == part * (ranks - 1)
    assert gather.flops == AllToAll(elements, ranks).flops == 0
    assert (scatter.bytes_written, gather.bytes_read) == (2 * part, 2 * part)
    assert ranks * scatter.flops == elements * (ranks - 1), "every sum of n terms is n - 1 adds"


def test_padding_and_casting_move_what_is_read_and_what_is_written() -> None:
    padded = Copy(64 * 64, out_elements=70 * 70)
    assert (padded.bytes_read, padded.bytes_written) == (2 * 4096, 2 * 4900)
    (back,) = padded.backward()
    assert (back.bytes_read, back.bytes_written) == (2 * 4900, 2 * 4096)
    wider = Copy(10, dtype="bfloat16", out_dtype="float32")
    assert (wider.bytes_read, wider.bytes_written) == (20, 40)


def test_every_kind_is_listed_once() -> None:
    assert set(SAMPLES) <= set(OPERATORS)
    assert all(cls.operator == kind for kind, cls in OPERATORS.items())


# Grids


@pytest.mark.parametrize("name", SAMPLES)
def test_a_grid_is_its_points(name: str) -> None:
    op = SAMPLES[name]
    first = next(f.name for f in fields(op) if isinstance(getattr(op, f.name), int))
    values = np.array([getattr(op, first) + step for step in (0, 3, 40)])
    whole = grid(type(op), **{**vars(op), first: values})
    assert is_grid(whole)
    assert not is_grid(op)
    points = list(grid_points(whole))
    assert points == [replace(op, **{first: int(value)}) for value in values]
    for cost in ("flops", "min_flops", "bytes_read", "bytes_written", "weight_bytes_read"):
        of_points = [getattr(point, cost) for point in points]
        assert np.broadcast_to(getattr(whole, cost), 3).tolist() == pytest.approx(of_points)


def test_a_grid_of_a_million_is_one_operator() -> None:
    m, n = np.arange(1, 1001)[:, None], np.arange(1, 1001)[None, :]
    op = grid(Matmul, m=m, n=n, k=512)
    assert op.flops.shape == (1_000_000,)
    assert op.flops.dtype == np.int64
    assert op.flops.sum() == 2 * 512 * sum(range(1001)) ** 2


def test_a_formula_is_the_same_line_for_a_symbol() -> None:
    sympy = pytest.importorskip("sympy")
    m, n, k = sympy.symbols("m n k", positive=True, integer=True)
    op = Matmul(m, n, k)
    assert sympy.simplify(op.flops - 2 * m * n * k) == 0
    s, d = sympy.symbols("s d", positive=True, integer=True)
    attention = Attention(1, s, s, 1, 1, d, causal=True)
    assert (
        sympy.simplify(attention.flops / attention.min_flops - 2 * s / (s + 1))
        .subs({s: 7})
        .equals(
            attention.flops.subs({s: 7, d: 3}) / attention.min_flops.subs({s: 7, d: 3}) - 14 / 8
        )
    )


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matmul(0, 5, 3), "Matmul.m = 0: expected a positive number"),
        (lambda: Matmul(4, -5, 3), "Matmul.n = -5"),
        (lambda: Matmul(4, 5, 3, dtype="bf16"), "dtype = 'bf16': expected one of float64"),
        (lambda: Conv2d(1, 3, 4, 8, 8, 3, padding=-1), "Conv2d.padding = -1: expected zero or"),
        (lambda: Norm(4, 4, kind="batchnorm"), "Norm.kind = 'batchnorm': expected rmsnorm or"),
        (lambda: Attention(1, 4, 4, 1, 1, 8, window=2), "window = 2: expected causal=True"),
        (lambda: grid(Matmul, m=[1, 0], n=2, k=2), "Matmul.m = .*: expected a positive number"),
    ],
)
def test_bad_shapes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_item_bytes_are_torchs() -> None:
    import torch

    for name in ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "int64", "bool"):
        assert item_bytes(name) == getattr(torch, name).itemsize
    assert math.isclose(item_bytes("int4"), 0.5)
