"""Some sixty operators: FLOPs of products equal to torch's counter where it counts, and to a count
by hand where it does not, or where it is known to be wrong; and what no rule knows is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from does import Does
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.utils.flop_counter import FlopCounterMode

from calib.trace import trace, unknown
from model.layer import total

warnings.filterwarnings("ignore", category=UserWarning, module="torch.nn.*")
BF16, F8, I8 = torch.bfloat16, torch.float8_e4m3fn, torch.int8
COUNTED = None
"""What torch's counter says is expected."""


def x(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype).requires_grad_(grad)


@dataclass
class One:
    """``flops``: by hand; COUNTED: by torch's counter. ``at_least``: the rest is said unknown."""

    run: Callable[..., Any]
    inputs: tuple[Any, ...]
    flops: int | None = COUNTED
    at_least: bool = False
    backward: bool = False
    card: str | None = None

    @property
    def module(self) -> nn.Module:
        return self.run if isinstance(self.run, nn.Module) else Does(self.run)


def sdpa(**how: Any) -> Callable[..., Any]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **how)


def encoder(**how: Any) -> nn.Module:
    """[3, 7, 32], 4 heads of 8, 64 inside."""
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **how).eval()


ATTENDED = 2 * 2 * 3 * 4 * 7 * 7 * 8
"""Of [3, 4 heads, 7, 8]."""
ENCODED = 2 * 21 * 32 * (3 * 32 + 32 + 2 * 64) + ATTENDED
Q, K2, V16 = x(2, 4, 5, 24), x(2, 2, 5, 24), x(2, 4, 5, 16)
TOKENS = x(20, 4, 16, dtype=BF16)
STARTS = torch.tensor([0, 8, 14, 20], dtype=torch.int32)
WIDE, NARROW = x(16, 32, dtype=F8), x(8, 32, dtype=F8)
ONE_SCALE, ENDS = torch.ones(1), torch.full((6,), 2, dtype=torch.int32)
TENSORWISE = F.ScalingType.TensorWise


def lstm(inputs: int, hidden: int, steps: int, rows: int, gates: int = 4, kept: int = 0) -> int:
    state = 2 * rows * gates * hidden * (kept or hidden) + (2 * rows * hidden * kept)
    return steps * (2 * rows * inputs * gates * hidden + state)


TABLE: dict[str, One] = {
    # products
    "mm": One(torch.mm, (x(5, 3), x(3, 7))),
    "addmm": One(torch.addmm, (x(7), x(5, 3), x(3, 7))),
    "bmm": One(torch.bmm, (x(4, 5, 3), x(4, 3, 7))),
    "baddbmm": One(torch.baddbmm, (x(4, 5, 7), x(4, 5, 3), x(4, 3, 7))),
    "addbmm": One(torch.addbmm, (x(5, 7), x(4, 5, 3), x(4, 3, 7)), 2 * 4 * 5 * 3 * 7),
    "mv": One(torch.mv, (x(5, 3), x(3)), 2 * 15),
    "addmv": One(torch.addmv, (x(5), x(5, 3), x(3)), 2 * 15),
    "dot": One(torch.dot, (x(9), x(9)), 2 * 9),
    "vdot": One(torch.vdot, (x(9), x(9)), 2 * 9),
    "addr": One(torch.addr, (x(5, 7), x(5), x(7)), 0),  # pointwise
    "linear": One(nn.Linear(3, 7), (x(2, 5, 3),)),
    "linear, gradient": One(nn.Linear(3, 7), (x(2, 5, 3, grad=True),), backward=True),
    "matmul, broadcast": One(torch.matmul, (x(2, 3, 5, 4), x(4, 6))),
    "einsum": One(lambda a, b: torch.einsum("bhd,hkd->bhk", a, b), (x(4, 5, 3), x(5, 6, 3))),
    "multi_dot": One(lambda *a: torch.linalg.multi_dot(a), (x(3, 4), x(4, 5), x(5, 6))),
    "bilinear": One(nn.Bilinear(5, 6, 7), (x(3, 5), x(3, 6)), 7 * 3 * 2 * (5 * 6 + 6)),
    "cdist of few": One(torch.cdist, (x(2, 5, 3), x(2, 7, 3)), 0),  # differences, no product
    "cdist of many": One(torch.cdist, (x(50, 3), x(70, 3)), 2 * 50 * 70 * (3 + 2)),
    "complex": One(torch.mm, (x(5, 3, dtype=torch.complex64), x(3, 7, dtype=torch.complex64))),
    "float64": One(torch.mm, (x(5, 3, dtype=torch.float64), x(3, 7, dtype=torch.float64))),
    # narrow products
    "_scaled_mm": One(
        lambda a, b, s: torch._scaled_mm(a, b.t(), s, s, out_dtype=BF16),
        (WIDE, x(16, 32, dtype=F8), torch.ones(())),
    ),
    "_scaled_mm_v2": One(
        lambda a, b, s: F.scaled_mm(a, b.t(), s, TENSORWISE, s, TENSORWISE, output_dtype=BF16),
        (WIDE, x(48, 32, dtype=F8), ONE_SCALE),
        2 * 16 * 32 * 48,
    ),
    "_scaled_grouped_mm": One(
        lambda a, b, s, t: torch._scaled_grouped_mm(
            a, b.transpose(1, 2), s, t, offs=ENDS, out_dtype=BF16
        ),
        (x(12, 16, dtype=F8), x(6, 32, 16, dtype=F8), torch.ones(12), torch.ones(6, 32)),
        2 * 12 * 16 * 32,
    ),
    "_grouped_mm": One(
        lambda a, b: F.grouped_mm(a, b, offs=ENDS),
        (x(12, 8, dtype=BF16), x(6, 8, 16, dtype=BF16)),
        2 * 12 * 8 * 16,
    ),
    "_int_mm": One(torch._int_mm, (x(32, 16, dtype=I8), x(16, 24, dtype=I8)), 2 * 32 * 16 * 24),
    "_weight_int8pack_mm": One(
        torch._weight_int8pack_mm,
        (x(32, 64, dtype=BF16), x(48, 64, dtype=I8), x(48, dtype=BF16)),
        2 * 32 * 64 * 48,
    ),
    "_weight_int4pack_mm": One(
        lambda a, b, s: torch._weight_int4pack_mm_for_cpu(a, b, 32, s),
        (x(32, 64, dtype=BF16), x(48, 32, dtype=torch.uint8), x(2, 48, 2, dtype=BF16)),
        2 * 32 * 64 * 48,
    ),
    "quantised linear": One(
        torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 16)), dtype=torch.qint8),
        (x(3, 8),),
        2 * 3 * 8 * 16,
    ),
    # convolutions
    "conv1d": One(nn.Conv1d(4, 6, 3, padding=1, groups=2), (x(3, 4, 17),)),
    "conv2d": One(nn.Conv2d(4, 6, 3, stride=2, padding=1), (x(2, 4, 9, 11),)),
    "conv2d, gradient": One(nn.Conv2d(4, 6, 3), (x(2, 4, 9, 11, grad=True),), backward=True),
    "conv2d, depthwise": One(nn.Conv2d(6, 6, 7, padding=3, groups=6), (x(2, 6, 9, 11),)),
    "conv2d, grouped, gradient": One(  # the counter forgets the groups in the weights' gradient
        nn.Conv2d(4, 6, 3, groups=2),
        (x(2, 4, 9, 11, grad=True),),
        3 * 2 * 2 * 6 * 7 * 9 * 2 * 9,
        backward=True,
    ),
    "conv3d": One(nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)), (x(2, 3, 4, 8, 12),)),
    "transposed": One(nn.ConvTranspose2d(4, 6, 3, stride=2), (x(2, 4, 5, 7),)),
    "transposed, grouped, gradient": One(  # here too
        nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        (x(2, 4, 5, 7, grad=True),),
        3 * 2 * 2 * 5 * 7 * 4 * 3 * 9,
        backward=True,
    ),
    # attention
    "attention": One(sdpa(), (Q, Q, Q), 2 * 2 * 4 * 25 * 48),
    "attention, causal": One(sdpa(is_causal=True), (Q, Q, Q), 2 * 2 * 4 * 25 * 48),
    "attention, on meta": One(sdpa(), tuple(t.to("meta") for t in (Q, Q, Q))),
    "attention, grouped": One(sdpa(enable_gqa=True), (Q, K2, K2), 2 * 2 * 4 * 25 * 48),
    "attention, narrow values": One(sdpa(), (Q, Q, V16)),
    "attention, narrow values, card": One(sdpa(), (Q, Q, V16), card="9.0"),
    "attention, gradient, card": One(  # five products: scores are computed again
        sdpa(),
        tuple(t.to(BF16).requires_grad_() for t in (Q, Q, V16)),
        2 * 2 * 4 * 25 * (24 + 16 + 24 + 16 + 16 + 24 + 24),
        backward=True,
        card="9.0",
    ),
    "attention in float64, card": One(sdpa(), (Q.double(),) * 3, 2 * 2 * 4 * 25 * 48, card="9.0"),
    "flex_attention": One(
        lambda q: flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: s + i - j),
        (x(2, 4, 128, 16),),
        4 * 2 * 4 * 128 * 128 * 16,
    ),
    "varlen_attn": One(
        lambda q, cu: varlen_attn(q, q, q, cu, cu, 8, 8),
        (TOKENS, STARTS),
        round(4 * 4 * 16 * 20 * 20 / 3),  # if all were equally long
        at_least=True,
    ),
    # layers as one operator
    "encoder layer": One(encoder(), (x(3, 7, 32),), ENCODED),
    "encoder layer, card": One(encoder(), (x(3, 7, 32),), ENCODED, card="9.0"),
    "encoder layer, norm first": One(encoder(norm_first=True), (x(3, 7, 32),), ENCODED),
    "encoder layer, training": One(encoder().train(), (x(3, 7, 32),)),
    "MultiheadAttention": One(
        nn.MultiheadAttention(32, 4, batch_first=True).eval(),
        (x(3, 7, 32),) * 3,
        2 * 21 * 32 * 4 * 32 + ATTENDED,
    ),
    "cross attention": One(
        nn.MultiheadAttention(32, 4, batch_first=True).eval(), (x(3, 7, 32), *(x(3, 9, 32),) * 2)
    ),
    "LSTM": One(nn.LSTM(8, 16, 2), (x(7, 3, 8),), lstm(8, 16, 7, 3) + lstm(16, 16, 7, 3)),
    "LSTM, both ways": One(
        nn.LSTM(8, 16, bidirectional=True), (x(7, 3, 8),), 2 * lstm(8, 16, 7, 3)
    ),
    "LSTM, card": One(
        nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True),
        (x(3, 7, 8),),
        2 * (lstm(8, 16, 7, 3) + lstm(32, 16, 7, 3)),
        card="9.0",
    ),
    "LSTM, gradient": One(
        nn.LSTM(8, 16), (x(7, 3, 8, grad=True),), 3 * lstm(8, 16, 7, 3), backward=True
    ),
    "LSTM, projected": One(nn.LSTM(8, 16, proj_size=4), (x(7, 3, 8),)),
    "LSTM, projected, card": One(
        nn.LSTM(8, 16, proj_size=4), (x(7, 3, 8),), lstm(8, 16, 7, 3, kept=4), card="9.0"
    ),
    "GRU": One(nn.GRU(8, 16), (x(7, 3, 8),)),
    "GRU, card": One(nn.GRU(8, 16), (x(7, 3, 8),), lstm(8, 16, 7, 3, gates=3), card="9.0"),
    "RNN, card": One(nn.RNN(8, 16), (x(7, 3, 8),), lstm(8, 16, 7, 3, gates=1), card="9.0"),
    "LSTMCell": One(nn.LSTMCell(8, 16), (x(3, 8),)),
    # what has no products
    "embedding bag": One(nn.EmbeddingBag(9, 8), (torch.zeros(2, 3, dtype=torch.long),), 0),
    "fft": One(torch.fft.rfft, (x(3, 16),), 0),
    "cholesky": One(torch.linalg.cholesky_ex, (x(5, 5),), 0, at_least=True),
    "svd": One(torch.linalg.svd, (x(3, 8, 8),), 0, at_least=True),
    "sparse product": One(torch.sparse.mm, (x(3, 4).to_sparse(), x(4, 5)), 0, at_least=True),
}


def counter(one: One) -> int:
    """Of the module as the CPU runs it, its gradient that of a sum."""
    with FlopCounterMode(display=False) as found, torch.set_grad_enabled(one.backward):
        out = one.module(*one.inputs)
        if one.backward:
            out.sum().backward()
    return found.get_total_flops()


@pytest.mark.parametrize("name", TABLE)
def test_flops_are_those_of_the_counter_or_of_a_count_by_hand(name: str) -> None:
    one = TABLE[name]
    calls = trace(one.module, *one.inputs, backward=one.backward, card=one.card)
    flops = total(calls, lambda op: op.tensor_core_flops)
    expected = counter(one) if one.flops is COUNTED else one.flops
    assert round(flops) == expected
    assert expected > 0 or one.flops == 0
    assert bool(unknown(calls)) == one.at_least
    assert all(call.op.bytes >= 0 for call in calls)


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 60


@pytest.mark.parametrize(("how", "name"), [({}, "topk_sorted"), ({"sorted": False}, "topk")])
def test_what_is_asked_for_in_order_is_told_from_what_is_not(how: Any, name: str) -> None:
    """A card sorts it in a kernel of its own."""
    (call,) = trace(Does(lambda t: torch.topk(t, 3, **how)), x(4, 16))
    assert getattr(call.op, "name", "") == name
    assert (call.op.bytes_read, call.op.bytes_written) == (4 * 16 * 4, 4 * 3 * (4 + 8))
