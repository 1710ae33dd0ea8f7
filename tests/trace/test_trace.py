"""A trace against torch's FLOP counter, against bytes counted by hand, and in what it must keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from does import Does
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from calib.errors import CalibError
from calib.trace import formula
from calib.trace.module import record, rows, trace, unknown
from calib.trace.rules.rows import dtype_name, row_of
from calib.trace.rules.table import RULES, operators_of
from model.layer import Call, total
from model.ops import (
    Attention,
    ChannelNorm,
    Conv2d,
    Convolution,
    Copy,
    Counted,
    Elementwise,
    Gather,
    GroupedMatmul,
    Matmul,
    Norm,
    Operator,
    Other,
    Reduction,
    Softmax,
    item_bytes,
)


def operators(run: Callable[..., Any], *inputs: Any) -> list[Operator]:
    return [call.op for call in trace(Does(run), *inputs)]


def flops(calls: list[Call]) -> int:
    return int(total(calls, lambda op: op.tensor_core_flops))


def counted(module: nn.Module, *inputs: Any, backward: bool = False) -> int:
    """On ``meta``; the gradient is that of a sum, as the trace's is of any."""
    module.to("meta")
    given = [x.detach().to("meta").requires_grad_(x.requires_grad) for x in inputs]
    with FlopCounterMode(display=False) as counter:
        out = module(*given)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


def x(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


CONVOLUTIONS: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "1d": (nn.Conv1d(4, 6, 3, padding=1, groups=2), x(3, 4, 17)),
    "1d dilated": (nn.Conv1d(4, 6, 3, stride=2, dilation=2, bias=False), x(3, 4, 17)),
    "2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), x(2, 4, 9, 11)),
    "2d oblong": (nn.Conv2d(4, 6, (3, 5), padding=(1, 2)), x(2, 4, 9, 11)),
    "2d depthwise": (nn.Conv2d(6, 6, 7, padding=3, groups=6), x(2, 6, 9, 11)),
    "3d": (nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4)), x(2, 3, 4, 8, 12)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2), x(3, 4, 9)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, (3, 2), stride=2, output_padding=1), x(2, 4, 5, 7)),
    "transposed 3d": (nn.ConvTranspose3d(4, 6, 2, stride=2), x(1, 4, 3, 5, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_cost_what_the_counter_counts(name: str) -> None:
    module, image = CONVOLUTIONS[name]
    image = image.requires_grad_()
    forward, both = trace(module, image), trace(module, image, backward=True)
    (call,) = forward
    weights = sum(p.nbytes for p in module.parameters())
    assert isinstance(call.op, Conv2d | Convolution)
    assert call.op.bytes_read == image.nbytes + weights
    assert call.op.bytes_written == module(image).nbytes
    assert flops(both) == 3 * flops(forward)
    assert flops(forward) == counted(module, image)
    if call.op.groups == 1:  # of grouped weights the counter forgets the groups in their gradient
        assert flops(both) == counted(module, image.detach().requires_grad_(), backward=True)


PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "mm": (torch.mm, (x(5, 3), x(3, 7))),
    "addmm": (torch.addmm, (x(7), x(5, 3), x(3, 7))),
    "addmm of a matrix": (torch.addmm, (x(5, 7), x(5, 3), x(3, 7))),
    "bmm": (torch.bmm, (x(4, 5, 3), x(4, 3, 7))),
    "bmm of a shared factor": (torch.matmul, (x(4, 5, 3), x(1, 3, 7).expand(4, 3, 7))),
    "bmm of a shared first": (torch.bmm, (x(1, 5, 3).expand(4, 5, 3), x(4, 3, 7))),
    "baddbmm": (torch.baddbmm, (x(4, 5, 7), x(4, 5, 3), x(4, 3, 7))),
    "linear": (F.linear, (x(2, 5, 3), x(7, 3), x(7))),
    "einsum": (lambda a, b: torch.einsum("bhd,hkd->bhk", a, b), (x(4, 5, 3), x(5, 6, 3))),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_cost_what_the_counter_counts(name: str) -> None:
    run, inputs = PRODUCTS[name]
    calls = trace(Does(run), *inputs)
    assert flops(calls) == counted(Does(run), *inputs) > 0
    if "einsum" not in name:  # which may copy a factor first
        read = sum(t.untyped_storage().nbytes() for t in inputs)
        assert total(calls, lambda op: op.bytes) == read + run(*inputs).nbytes


def heads(batch: int, count: int, length: int, width: int = 16) -> torch.Tensor:
    return x(batch, count, length, width, dtype=torch.bfloat16)


def test_fused_attention_is_one_operator() -> None:
    q, k = heads(2, 4, 5), heads(2, 4, 9)
    (op,) = operators(F.scaled_dot_product_attention, q, k, k)
    assert op == Attention(2, 5, 9, 4, 4, 16)
    assert op.flops == counted(Does(F.scaled_dot_product_attention), q, k, k)
    (op,) = operators(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), q)
    assert op == Attention(2, 5, 5, 4, 4, 16, causal=True)
    grouped = lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)  # noqa: E731
    assert operators(grouped, q, heads(2, 2, 9))[-1] == Attention(2, 5, 9, 4, 2, 16)
    biased = lambda q, k, b: F.scaled_dot_product_attention(q, k, k, attn_mask=b)  # noqa: E731
    bias = x(2, 4, 5, 9, dtype=torch.bfloat16)
    assert operators(biased, q, k, bias)[-1] == Attention(2, 5, 9, 4, 4, 16, bias=True)
    shared = x(2, 1, 5, 9, dtype=torch.bfloat16)
    assert operators(biased, q, k, shared)[-1] == Attention(2, 5, 9, 4, 4, 16, mask=True)


def test_attention_on_meta_is_what_a_card_makes_of_it() -> None:
    attend = Does(lambda q: F.scaled_dot_product_attention(q, q, q))
    (call,) = trace(attend, heads(2, 4, 5).to("meta"))
    assert call.op == Attention(2, 5, 5, 4, 4, 16)
    calls = trace(attend, heads(2, 4, 5).to("meta").double())  # which no fused kernel takes
    assert {"matmul", "softmax"} <= {call.op.operator for call in calls}
    assert flops(calls) == call.op.flops


def test_unlike_heads_are_one_kernel_of_a_card_and_ten_of_a_cpu() -> None:
    q, v = heads(2, 4, 5, 24), heads(2, 4, 5)
    attend = Does(lambda q, v: F.scaled_dot_product_attention(q, q, v, is_causal=True))
    (call,) = trace(attend, q, v, card="9.0")
    assert call.op == Attention(2, 5, 5, 4, 4, 24, causal=True, v_head_dim=16)
    assert call.op.flops == counted(attend, q, v) == 2 * 2 * 4 * 25 * (24 + 16)
    assert call.op.bytes == 2 * (2 * q.nbytes + 2 * v.nbytes) / 2
    on_cpu = trace(attend, q, v)
    assert len(on_cpu) > 5 and flops(on_cpu) == call.op.flops
    assert F.scaled_dot_product_attention.__module__ == "torch._C._nn"  # as it was


def test_experts_are_those_expected_of_the_routing_that_the_module_was_given() -> None:
    rows, weights = x(12, 8, dtype=torch.bfloat16), x(6, 8, 16, dtype=torch.bfloat16)
    ends = torch.full((6,), 2, dtype=torch.int32)

    class Experts(nn.Module):
        def forward(self, rows: Any, indices: Any) -> Any:
            return torch._grouped_mm(rows, weights, offs=ends)

    (call,) = trace(Experts(), rows, torch.zeros(4, 3, dtype=torch.long))
    assert call.op == GroupedMatmul(4, 6, 3, n=16, k=8)
    (call,) = trace(Experts(), rows, None)
    assert call.op == GroupedMatmul(12, 6, 1, n=16, k=8)


ONE: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Operator]] = {
    "layer norm": (nn.LayerNorm(8), (x(3, 8),), Norm(3, 8, "layernorm", "float32")),
    "group norm": (
        nn.GroupNorm(2, 8),
        (x(3, 8, 5),),
        ChannelNorm(120, 8, "groupnorm", "float32", 2),
    ),
    "batch norm": (
        nn.BatchNorm2d(8).eval(),
        (x(3, 8, 5, 4),),
        ChannelNorm(480, 8, "batchnorm", "float32", planes=24),
    ),
    "softmax": (lambda a: a.softmax(-1), (x(3, 4, 8),), Softmax(12, 8, "float32")),
    "embedding": (
        F.embedding,
        (torch.zeros(2, 3, dtype=torch.long), x(9, 8)),
        Gather(6, 8, "float32"),
    ),
    "index": (
        lambda t, i: t[i],
        (x(9, 8), torch.zeros(5, dtype=torch.long)),
        Gather(5, 8, "float32"),
    ),
    "add": (torch.add, (x(3, 8), x(3, 8)), Elementwise(24, 2, dtype="float32")),
    "add a row": (
        torch.add,
        (x(3, 8), x(8)),
        Elementwise(24, 1, dtype="float32", broadcast=8, axes=2),
    ),
    "outer": (
        torch.mul,
        (x(3, 1), x(1, 8)),
        Elementwise(24, 0, dtype="float32", broadcast=11, axes=2),
    ),
    "in place": (lambda a: a.mul_(2), (x(3, 8),), Elementwise(24, dtype="float32")),
    "widening": (
        torch.mul,
        (x(3, 8, dtype=torch.bfloat16), x(3, 1)),
        Elementwise(24, 1, broadcast=6, out_dtype="float32", axes=2),
    ),
    "where": (
        torch.where,
        (x(3, 8, dtype=torch.bool), x(3, 8), x(3, 8)),
        Elementwise(24, 2, dtype="float32", broadcast=6),
    ),
    "mean": (lambda a: a.mean(-1), (x(3, 8),), Reduction(3, 8, "float32")),
    "argmax": (lambda a: a.argmax(-1), (x(3, 8),), Reduction(3, 8, "float32", "int64")),
    "transpose": (
        lambda a: a.t().contiguous(),
        (x(3, 8),),
        Copy(24, "float32", transposed=True, axes=2),
    ),
    "cast": (lambda a: a.to(torch.float16), (x(3, 8),), Copy(24, "float32", "float16")),
    "cat": (lambda a, b: torch.cat([a, b]), (x(3, 8), x(2, 8)), Copy(40, "float32")),
    "cat to nothing": (
        lambda a, b: torch.cat([a, b]),
        (x(0), x(2, 8)),
        Copy(16, "float32", axes=6),
    ),
    "pad": (
        lambda a: F.pad(a, (1, 1)),
        (x(3, 8),),
        Copy(24, "float32", out_elements=30, axes=2),
    ),
    "item": (lambda a: a.sum(), (x(3, 8),), Reduction(1, 24, "float32")),
}


@pytest.mark.parametrize("name", ONE)
def test_one_operator_becomes_one(name: str) -> None:
    run, inputs, expected = ONE[name]
    module = run if isinstance(run, nn.Module) else Does(run)
    (call,) = trace(module, *inputs)
    assert call.op == expected
    assert call.launches == 1 and not call.sync


def test_views_are_free() -> None:
    def run(a: torch.Tensor) -> torch.Tensor:
        return a.view(4, 6).t()[1:].unsqueeze(0).expand(2, 5, 4).permute(0, 2, 1)

    assert trace(Does(run), x(3, 8)) == []


class RMSNorm(nn.Module):
    def __init__(self, plus_one: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        self.plus_one = plus_one

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        wide = value.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        if self.plus_one:
            return (wide * (1.0 + self.weight.float())).to(value.dtype)
        return self.weight * wide.to(value.dtype)


@pytest.mark.parametrize("shape", [(2, 3, 8), (8,)])
def test_a_written_out_rms_norm_is_one_norm(shape: tuple[int, ...]) -> None:
    calls = trace(nn.Sequential(RMSNorm(), RMSNorm()), x(*shape, dtype=torch.bfloat16))
    norm = Norm(6 if len(shape) > 1 else 1, 8)
    assert calls == [Call("0", norm, launches=8), Call("1", norm, launches=8)]


def test_what_a_norm_does_to_its_scale_is_apart() -> None:
    """Gemma's casts it and adds 1, two kernels more than those that fits have seen."""
    calls = trace(nn.Sequential(RMSNorm(plus_one=True)), x(2, 3, 8, dtype=torch.bfloat16))
    assert [(c.op, c.launches) for c in calls] == [
        (Norm(6, 8), 8),
        (Copy(8, out_dtype="float32"), 1),
        (Elementwise(8, dtype="float32"), 1),
    ]


def test_paths_forward_and_back() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, 4)))
    forward = trace(model, x(3, 8), path="m")
    assert [c.path for c in forward] == ["m.0", "m.1.0", "m.1.1"]
    back = trace(model, x(3, 8), backward=True)[len(forward) :]
    products = [c.path for c in back if isinstance(c.op, Matmul)]
    assert products == ["1.1", "1.1", "0"]  # the input itself needs no gradient
    assert {c.path for c in back} == {"0", "1.0", "1.1"}


@pytest.mark.parametrize("training", [False, True])
def test_a_transformer_costs_what_the_counter_counts(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).train(training)
    tokens = x(3, 7, 32)
    model = nn.Sequential(layer, nn.Linear(32, 5)).to("meta")
    assert flops(trace(model, tokens.to("meta"))) == counted(model, tokens)
    # In inference mode composite functions arrive whole.
    with torch.inference_mode():
        assert flops(trace(model, tokens.to("meta"))) == counted(model, tokens)
    both = trace(model.train(), tokens.to("meta"), backward=True)
    again = 2 * 3 * 4 * 7 * 7 * 8  # scores that a card's fused kernel computes once more
    assert flops(both) == counted(model, tokens, backward=True) + again


def test_what_no_rule_knows_is_listed_with_its_bytes() -> None:
    calls = trace(Does(torch.linalg.cholesky_ex), x(5, 5))
    assert unknown(calls) == {"linalg_cholesky_ex": 1}
    assert calls[0].op.bytes == 2 * 25 * 4 + 4
    assert unknown(trace(nn.Linear(3, 4), x(2, 3))) == {}


def test_values_cannot_be_asked_for_without_contents() -> None:
    module = Does(lambda a: a.nonzero())
    with pytest.raises(CalibError, match="real=True"):
        trace(Does(lambda a: a * a.sum().item()), x(3))
    with pytest.raises(CalibError, match="real=True"):
        trace(module, x(3).to("meta"))
    (call,) = trace(module, torch.tensor([1.0, 0.0, 2.0]), real=True)
    assert call.sync and call.op.bytes_written == 16
    calls = trace(Does(lambda a: a * a.sum().item()), x(3), real=True)
    assert [c.sync for c in calls] == [False, True, False]
    assert isinstance(calls[1].op, Other)


def test_a_traced_module_is_left_as_it_was() -> None:
    model = nn.Linear(8, 4)
    before = model.weight.clone()
    trace(model, x(3, 8), backward=True)
    assert torch.equal(model.weight, before) and model.weight.grad is None
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_memory_of_tensors_is_followed_until_they_end() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with FakeTensorMode():
        model, given = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), x(3, 8)
        recording = record(model, lambda: model(given))
    live, peak = 0, 0
    for event in recording.events:
        live += getattr(event, "nbytes", 0)
        peak = max(peak, live)
    assert live == 3 * 4 * 4
    assert peak == 2 * 3 * 16 * 4
    assert set(recording.used) == {name for name, _ in model.named_parameters()}


def test_a_module_takes_the_path_that_it_takes_when_nobody_listens() -> None:
    """Where modules have hooks, torch leaves its fused path."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    tokens = x(3, 7, 32)
    ran = rows(record(layer, lambda: layer(tokens)).events)
    assert [row.name for row in ran] == ["_transformer_encoder_layer_fwd"]
    fused = trace(layer, tokens, card="9.0")
    assert [c.op.operator for c in fused][:3] == ["matmul", "attention", "matmul"]


def test_a_recurrent_layer_is_launched_once() -> None:
    calls = trace(nn.LSTM(8, 16), x(7, 3, 8), card="9.0")
    products = [c for c in calls if isinstance(c.op, Matmul)]
    assert [(c.op.m, c.count) for c in products] == [(21, 1), (3, 7)]
    assert sum(c.launches for c in calls if c not in calls[:2]) == 1  # beside two states of zeros


def test_narrow_weights_are_read_at_their_width() -> None:
    a, b, s = x(32, 64, dtype=torch.bfloat16), x(48, 64, dtype=torch.int8), x(48).bfloat16()
    product, rest = trace(Does(torch._weight_int8pack_mm), a, b, s)
    assert product.op == Matmul(32, 48, 64, weight_dtype="int8")
    assert product.op.weight_bytes_read == b.nbytes
    assert rest.op.bytes == s.nbytes and rest.launches == 0
    four, scales = x(48, 32, dtype=torch.uint8), x(2, 48, 2).bfloat16()
    run = lambda a, b, s: torch._weight_int4pack_mm_for_cpu(a, b, 32, s)  # noqa: E731
    product, rest = trace(Does(run), a, four, scales)
    assert product.op.weight_bytes_read == four.nbytes and rest.op.bytes == scales.nbytes


def test_lengths_of_sequences_come_from_their_contents_where_there_are_any() -> None:
    q, starts = x(20, 4, 16).bfloat16(), torch.tensor([0, 8, 14, 20]).int()
    from torch.nn.attention import varlen  # noqa: F401  which registers its operator

    func = torch.ops.torch_attn._varlen_attn.default
    row = row_of(func, "", (q, q, q, starts, starts, 8, 8), {}, (q,))
    alike = {"heads": 4, "kv_heads": 4, "head_dim": 16}
    assert [(part.op, part.launches) for part in operators_of(row)] == [
        (Attention(1, 8, 8, **alike), 1),
        (Attention(2, 6, 6, **alike), 0),
    ]


def test_nested_tensors_are_the_operators_on_what_they_hold() -> None:
    jagged = torch.nested.nested_tensor([x(3, 8), x(5, 8)], layout=torch.jagged)
    (call,) = trace(nn.Linear(8, 16), jagged)
    assert call.op == Matmul(8, 16, 8, dtype="float32", bias=True)
    strided = torch.nested.nested_tensor([x(3, 8), x(5, 8)])
    (call,) = trace(nn.Linear(8, 16), strided, real=True)
    assert call.op == Matmul(8, 16, 8, dtype="float32", bias=True)
    with pytest.raises(CalibError, match=r"strided layout.*torch.jagged, or real=True"):
        trace(nn.Linear(8, 16), strided)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.jit.script(nn.Linear(3, 4)), "compiled by torch.jit: expected the module that"),
        (nn.Sequential(torch.jit.script(nn.Linear(3, 4))), r"trace: 0 \(Recursive"),
        (nn.DataParallel(nn.Linear(3, 4)), "DataParallel .* its attribute module"),
        (nn.LazyLinear(4), "LazyLinear has parameters without a shape: .* has run once"),
        (lambda a: a, "function: expected a torch.nn.Module"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(module: Any, message: str) -> None:
    with pytest.raises(CalibError, match=message) as error:
        trace(module, x(2, 3))
    assert "\n" not in str(error.value)


@torch.library.custom_op("calib_tests::low_rank", mutates_args=())
def low_rank(a: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return a @ down @ up


@low_rank.register_fake
def _(a: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return a.new_empty(a.shape[0], up.shape[1])


@torch.library.custom_op("calib_tests::counted", mutates_args=())
def counted_elsewhere(a: torch.Tensor) -> torch.Tensor:
    return a.clone()


@counted_elsewhere.register_fake
def _(a: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(a)


def test_a_formula_of_the_users_own() -> None:
    given = (x(3, 8), x(8, 2), x(2, 5))
    name, run = "calib_tests::low_rank", Does(low_rank)
    assert unknown(trace(run, *given)) == {name: 1}
    try:

        @formula(low_rank)
        def cost(a: Any, down: Any, up: Any, out: Any) -> int:
            return 2 * (a.numel * down.shape[1] + out.numel * up.shape[0])

        (call,) = trace(run, *given)
        moved = 4 * (24 + 16 + 10 + 15)
        assert call.op == Counted(name, 2 * (48 + 30), moved - 60, 60, dtype="float32")
        assert unknown([call]) == {}
        with pytest.raises(CalibError, match="low_rank has a rule already"):
            formula(torch.ops.calib_tests.low_rank)(cost)
    finally:
        RULES.pop(name)
    parts = [Matmul(3, 2, 8, dtype="float32"), Matmul(3, 5, 2, dtype="float32")]
    try:
        formula(name)(lambda a, down, up, out: parts)
        assert [c.op for c in trace(run, *given)] == parts
    finally:
        RULES.pop(name)
    with pytest.raises(CalibError, match=r"expected an operator of torch\.ops"):
        formula(print)(lambda: 0)


def test_a_formula_of_torchs_counter_counts_too() -> None:
    register_flop_formula(torch.ops.calib_tests.counted)(lambda *a, out_shape=None, **k: 77)
    (call,) = trace(Does(counted_elsewhere), x(3, 4))
    assert call.op == Counted("calib_tests::counted", 77, 48, 48, dtype="float32")


def test_every_dtype_of_torch_has_its_bytes() -> None:
    kinds = {d for d in vars(torch).values() if isinstance(d, torch.dtype)}
    whole = {d for d in kinds if not re.search(r"int[1-7]$", str(d))}  # parts of a byte, in a byte
    for dtype in whole:
        assert item_bytes(dtype_name(dtype)) == dtype.itemsize, dtype


def test_a_list_of_numbers_is_one_question() -> None:
    """On a card they come to the host by one copy; without contents torch asks for each."""

    class Lengths(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, *_ = torch.arange(5).tolist()
            return x + first + torch.arange(3).max().item()

    calls = trace(Lengths(), torch.zeros(4))
    names = [call.op.name for call in calls if isinstance(call.op, Other)]
    assert names.count("_local_scalar_dense") == 2
    assert torch.zeros(2).tolist() == [0.0, 0.0], "and tensors list themselves as before"
