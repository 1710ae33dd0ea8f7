"""From an operator to something that runs: torch as an eager model calls it, on random data.

A case is a ``functools.partial`` of the function that is timed over its inputs, so that a call
costs no Python frame of ours and the inputs can be read off it. All tensors are views into one
arena of random numbers a dtype. A cold case walks through the arena, so that each call finds its
weights (or, for an operator without weights, its inputs) in main memory; a hot one uses the same
tensors again and again.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from model import ops
from model.ops import Operator

Run = Callable[[], Any]
Case = partial[Any]
_COLD_BYTES = 2**28
"""A cold case returns to a tensor after at least this many bytes: well above any CPU's cache."""
_MOST_COPIES = 64


class Unsupported(Exception):
    """This implementation cannot execute the operator; the message says why."""


class Arena:
    """Random numbers, one buffer a dtype, handed out as views one after another, in a ring.

    ``nbytes``: of the buffer of bfloat16; that of another dtype has half of them.
    """

    def __init__(self, nbytes: int = 3 * 2**28, seed: int = 0, device: str = "cpu"):
        self.nbytes = nbytes
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.buffers: dict[torch.dtype, torch.Tensor] = {}
        self.offset = 0

    def take(self, *shape: int, dtype: str) -> torch.Tensor:
        """A view of ``shape``, aligned to 64 bytes, following the last one."""
        wanted = getattr(torch, dtype, None)
        if not isinstance(wanted, torch.dtype):
            raise Unsupported(f"torch has no tensors of {dtype}")
        buffer = self._buffer(wanted)
        count, step = math.prod(shape), 64 // wanted.itemsize or 1
        if count > len(buffer):
            raise Unsupported(f"{count * wanted.itemsize} bytes exceed the arena")
        start = -(-self.offset // wanted.itemsize // step) * step
        start = start if start + count <= len(buffer) else 0
        self.offset = (start + count) * wanted.itemsize
        return buffer[start : start + count].view(*shape)

    def _buffer(self, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in self.buffers:
            try:
                self.buffers[dtype] = self._fill(dtype)
            except NotImplementedError:
                raise Unsupported(f"torch cannot fill tensors of {dtype}") from None
        return self.buffers[dtype]

    def _fill(self, dtype: torch.dtype) -> torch.Tensor:
        full = self.nbytes if dtype == torch.bfloat16 else self.nbytes // 2
        buffer = torch.empty(full // dtype.itemsize, dtype=dtype, device=self.device)
        if dtype.is_floating_point:
            block = torch.randn(2**22, generator=self.generator).to(dtype)
        else:
            high = 2 if dtype == torch.bool else 64
            block = torch.randint(high, (2**22,), generator=self.generator).to(dtype)
        for start in range(0, len(buffer), len(block)):
            part = buffer[start : start + len(block)]
            part.copy_(block[: len(part)])
        return buffer


def weight_stream(arena: Arena) -> Run:
    """What runs before each repeat: a matrix-vector product with the arena's next 16 MiB.

    In a model, any two calls of one operator have weights streamed past between them, which takes
    the operator's code and part of its inputs out of the nearest caches.
    """
    x = torch.ones(1, 2048, dtype=torch.bfloat16, device=arena.device)

    def stream() -> torch.Tensor:
        return F.linear(x, arena.take(4096, 2048, dtype="bfloat16"))

    return stream


def build(op: Operator, arena: Arena, cache: str = "cold") -> Run:
    """A call of ``op`` as eager torch makes it. Raises ``Unsupported`` where torch has none."""
    moved = float(op.weight_bytes_read) if op.weight_bytes_read > op.bytes / 10 else float(op.bytes)
    copies = 1 if cache == "hot" else min(_MOST_COPIES, math.ceil(_COLD_BYTES / max(moved, 1)))
    runs = torch_cases(op, arena, copies)
    if copies == 1:
        return runs[0]
    turns = itertools.cycle(runs)

    def run() -> Any:
        return next(turns)()

    return run


def torch_cases(op: Operator, arena: Arena, copies: int = 1) -> list[Case]:
    """``copies`` of a call of ``op``, each on inputs of its own as far as the arena goes.

    Raises ``Unsupported`` where torch has no such operator.
    """
    name = op.name if isinstance(op, ops.Other) else op.operator
    make = (_OTHERS if isinstance(op, ops.Other) else _MAKERS).get(name)
    if make is None:
        raise Unsupported(f"no torch operator for {name}")
    return [make(op, arena) for _ in range(copies)]


def _matmul(op: ops.Matmul, arena: Arena) -> Case:
    if op.weight_dtype not in (None, op.dtype):
        raise Unsupported(f"no product of {op.dtype} with {op.weight_dtype} weights")
    if op.batch > 1:
        x = arena.take(op.batch, op.m, op.k, dtype=op.dtype)
        y = arena.take(op.batch, op.n, op.k, dtype=op.dtype).transpose(1, 2)
        return partial(torch.bmm, x, y)
    product, stored = F.linear, op.dtype
    if op.dtype in _NARROW:
        if arena.device == "cpu" or op.bias:
            raise Unsupported(f"products of {op.dtype} run on a card, without a bias")
        product, stored = _NARROW[op.dtype]
    x = arena.take(op.m, op.k, dtype=stored)
    w = arena.take(op.n, op.k, dtype=stored)
    if op.dtype in _NARROW:
        return partial(product, x, w)
    b = arena.take(op.n, dtype=op.dtype) if op.bias else None
    return partial(product, x, w, b)


def product_tf32(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of float32, multiplied as tf32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        return F.linear(x, w)
    finally:
        matmul.fp32_precision = before


def product_float8(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of float8, both scaled by one, into bfloat16."""
    one = torch.ones((), device=x.device)
    return torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def product_int8(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of int8 into int32."""
    return torch._int_mm(x, w.t())


_NARROW: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "tf32": (product_tf32, "float32"),
    "float8_e4m3fn": (product_float8, "float8_e4m3fn"),
    "int8": (product_int8, "int8"),
}
"""Products that torch has a function of their own for, and the dtype that their inputs are in."""


def _grouped_matmul(op: ops.GroupedMatmul, arena: Arena) -> Case:
    x = arena.take(op.rows, op.k, dtype=op.dtype)
    w = arena.take(op.experts, op.n, op.k, dtype=op.dtype).transpose(1, 2)
    grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return partial(grouped, x, w, offs=group_ends(op, arena))


def group_ends(op: ops.GroupedMatmul, arena: Arena) -> torch.Tensor:
    """[experts] int32, where each expert's rows end: as many are touched as ``op`` says, at random,
    with an even load."""
    touched = min(op.experts, op.rows, max(1, round(float(op.experts_read))))
    chosen = torch.randperm(op.experts, generator=arena.generator)[:touched]
    loads = torch.zeros(op.experts, dtype=torch.int32)
    loads[chosen] = op.rows // touched
    loads[chosen[: op.rows % touched]] += 1
    return loads.cumsum(0, dtype=torch.int32).to(arena.device)


def _attention(op: ops.Attention, arena: Arena) -> Case:
    causal = op.causal and op.q_len > 1  # one query sees all keys
    if op.window is not None or (causal and op.q_len != op.kv_len):
        raise Unsupported("scaled_dot_product_attention has no window and no offset causal mask")

    def heads(length: int, count: int) -> torch.Tensor:
        return arena.take(op.batch, length, count, op.head_dim, dtype=op.dtype).transpose(1, 2)

    q, k, v = (
        heads(op.q_len, op.heads),
        heads(op.kv_len, op.kv_heads),
        heads(op.kv_len, op.kv_heads),
    )
    shape = (op.batch, op.heads if op.bias else 1, op.q_len, op.kv_len)
    bias = arena.take(*shape, dtype=op.dtype) if op.bias or op.mask else None
    gqa = op.heads != op.kv_heads
    attend = F.scaled_dot_product_attention
    return partial(attend, q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=gqa)


def _conv2d(op: ops.Conv2d, arena: Arena) -> Case:
    x = arena.take(op.batch, op.in_channels, op.height, op.width, dtype=op.dtype)
    if op.in_channels > 4:  # feature maps come permuted from [batch, height, width, channels]
        x = x.to(memory_format=torch.channels_last)
    shape = (op.out_channels, op.in_channels // op.groups, op.kernel, op.kernel)
    w = arena.take(*shape, dtype=op.dtype)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    return partial(F.conv2d, x, w, b, op.stride, op.padding, groups=op.groups)


def _convolution(op: ops.Convolution, arena: Arena) -> Case:
    """Of one dimension: counts say no more than that, and sound is what has one."""
    taps, wanted = op.taps, op.out_positions
    stride = max(1, round(op.in_positions / wanted))
    padding = max(0, (wanted - 1) * stride + taps - op.in_positions + 1) // 2
    if op.transposed or (op.in_positions + 2 * padding - taps) // stride + 1 != wanted:
        raise Unsupported("convolutions of any form are measured in one dimension, not transposed")
    x = arena.take(op.batch, op.in_channels, op.in_positions, dtype=op.dtype)
    w = arena.take(op.out_channels, op.in_channels // op.groups, taps, dtype=op.dtype)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    return partial(F.conv1d, x, w, b, stride, padding, groups=op.groups)


def _channel_norm(op: ops.ChannelNorm, arena: Arena) -> Case:
    """One feature map of [1, channels, positions]."""
    x = arena.take(1, op.channels, max(1, op.elements // op.channels), dtype=op.dtype)
    scale, shift = (arena.take(op.channels, dtype=op.dtype) for _ in range(2))
    if op.kind == "groupnorm":
        return partial(F.group_norm, x, math.gcd(op.channels, 32), scale, shift)
    mean, variance = arena.take(op.channels, dtype=op.dtype), torch.ones_like(scale)
    return partial(F.batch_norm, x, mean, variance, scale, shift)


def _norm(op: ops.Norm, arena: Arena) -> Case:
    x = _matrix(arena, op.rows, op.cols, op.dtype, op.transposed)
    w = arena.take(op.cols, dtype=op.dtype)
    if op.kind == "layernorm":
        b = arena.take(op.cols, dtype=op.dtype)
        return partial(F.layer_norm, x, (op.cols,), w, b)
    return partial(rmsnorm, x, w)


def rmsnorm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """As the models write it: eight operators, in float32 between two casts."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * wide.to(x.dtype)


def _matrix(arena: Arena, rows: int, cols: int, dtype: str, transposed: bool) -> torch.Tensor:
    """[rows, cols], in memory row by row or column by column."""
    if transposed:
        return arena.take(cols, rows, dtype=dtype).t()
    return arena.take(rows, cols, dtype=dtype)


def _softmax(op: ops.Softmax, arena: Arena) -> Case:
    x = arena.take(op.rows, op.cols, dtype=op.dtype)
    out = getattr(torch, op.out_dtype or op.dtype)
    return partial(F.softmax, x, -1, 3, out)  # 3: how deep a warning points


def _elementwise(op: ops.Elementwise, arena: Arena) -> Case:
    if op.inputs == 0 and op.broadcast:  # an outer sum, as of two axes' positions
        rows, cols = _outer(op)
        x, y = (arena.take(rows, cols, dtype=op.dtype) for _ in range(2))
        return partial(outer_sum, x, y)
    if op.inputs >= 2 or op.broadcast:
        return _sum_of_two(op, arena)
    x = arena.take(op.elements, dtype=op.dtype)
    if op.flops_per_element == 4:
        return partial(torch.sigmoid, x)
    if op.flops_per_element >= 5:
        return partial(F.silu, x)
    return partial(operator.mul, x, 2)


def outer_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[rows, cols] and [rows, cols] -> [rows, cols, cols]."""
    return x[:, :, None] + y[:, None, :]


def _sum_of_two(op: ops.Elementwise, arena: Arena) -> Case:
    """Of two tensors, or of one and a smaller one that is repeated."""
    small = min(int(op.broadcast), op.elements) if op.inputs == 1 else op.elements
    rows = max(1, op.elements // small)
    if op.transposed:
        return _sum_across(op, rows, small, arena)
    x = arena.take(rows, small, dtype=op.dtype)
    y = arena.take(1, small, dtype=op.dtype)
    return partial(operator.add, x, y)


def _sum_across(op: ops.Elementwise, batch: int, elements: int, arena: Arena) -> Case:
    """[batch, rows, cols] column by column plus as much, or one of ``batch``, row by row."""
    cols = math.gcd(elements, 768) if elements % 64 == 0 else 1
    rows = elements // cols
    x = arena.take(batch, cols, rows, dtype=op.dtype).transpose(1, 2)
    y = arena.take(1, rows, cols, dtype=op.dtype)
    return partial(operator.add, x, y)


def _outer(op: ops.Elementwise) -> tuple[int, int]:
    """[rows, cols] of the two inputs whose outer sum has [rows, cols, cols] elements."""
    cols = max(1, round(2 * op.elements / op.broadcast))
    return max(1, op.elements // cols**2), cols


def _gather(op: ops.Gather, arena: Arena) -> Case:
    table = arena.take(max(64, op.rows), op.cols, dtype=op.dtype)
    index = torch.randint(len(table), (op.rows,), generator=arena.generator).to(arena.device)
    return partial(operator.getitem, table, index)


def _copy(op: ops.Copy, arena: Arena) -> Case:
    if op.out_dtype not in (None, op.dtype):
        target = getattr(torch, str(op.out_dtype))
        flat = arena.take(op.elements, dtype=op.dtype)
        return partial(torch.Tensor.to, flat, target)
    inner = 64 if op.elements % 128 == 0 else 1
    if op.elements % (2 * inner):
        flat = arena.take(op.elements, dtype=op.dtype)
        return partial(torch.clone, flat)
    x = arena.take(op.elements // inner // 2, 2, inner, dtype=op.dtype).transpose(0, 1)
    return partial(torch.Tensor.contiguous, x)


def _reduction(op: ops.Reduction, arena: Arena) -> Case:
    """Over few numbers, as over the experts of a token, from rows apart; over many along a row."""
    if op.out_dtype == "int64":
        return partial(torch.argmax, arena.take(op.rows, op.cols, dtype=op.dtype), -1)
    if op.cols <= _FEW:
        return partial(torch.sum, arena.take(op.cols, op.rows, dtype=op.dtype), 0)
    return partial(torch.sum, arena.take(op.rows, op.cols, dtype=op.dtype), -1)


_FEW = 16

_MAKERS: dict[str, Callable[..., Case]] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention": _attention,
    "conv2d": _conv2d,
    "convolution": _convolution,
    "norm": _norm,
    "channel_norm": _channel_norm,
    "softmax": _softmax,
    "reduction": _reduction,
    "elementwise": _elementwise,
    "gather": _gather,
    "copy": _copy,
}


def _items(nbytes: Any, dtype: torch.dtype) -> int:
    return max(1, int(nbytes) // dtype.itemsize)


def _topk(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(max(1, _items(op.read, torch.float32) // 64), 64, dtype="float32")
    return partial(torch.topk, x, 6, dim=-1, sorted=False)


def _sort(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.int64), dtype="int64")
    return partial(torch.sort, x)


def _histc(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    bins = _items(op.written, torch.float32)
    return partial(torch.histc, x, bins, 0, bins - 1)


def _cumsum(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    return partial(torch.cumsum, x, 0, dtype=torch.int32)


def _index_put(op: ops.Other, arena: Arena) -> Case:
    count = _items(op.written, torch.int64)
    where = torch.randperm(count, generator=arena.generator).to(arena.device)
    values = torch.arange(count, device=arena.device)
    return partial(operator.setitem, torch.empty_like(values), where, values)


def _created(make: Case, itemsize: int) -> Callable[..., Case]:
    def created(op: ops.Other, arena: Arena) -> Case:
        where = {} if arena.device == "cpu" else {"device": arena.device}
        return partial(make, max(1, int(op.written) // itemsize), **where)

    return created


def _linear1d(op: ops.Other, arena: Arena) -> Case:
    learned, wanted = (_items(b, torch.bfloat16) for b in (op.read, op.written))
    x = arena.take(1, 64, max(1, learned // 64), dtype=op.dtype)
    return partial(F.interpolate, x, size=max(1, wanted // 64), mode="linear")


def _bicubic(op: ops.Other, arena: Arena) -> Case:
    learned, wanted = (_items(b, torch.float32) for b in (op.read, op.written))
    channels = next((c for c in (768, 1024, 64) if _square(learned, c) and _square(wanted, c)), 0)
    if not channels:
        raise Unsupported("resampling is measured on square maps of 64, 768 or 1024 channels")
    side, out = math.isqrt(learned // channels), math.isqrt(wanted // channels)
    x = arena.take(1, side, side, channels, dtype="float32").permute(0, 3, 1, 2)
    size = (out, out)
    return partial(F.interpolate, x, size=size, mode="bicubic", align_corners=False, antialias=True)


def _square(count: int, channels: int) -> bool:
    return count % channels == 0 and math.isqrt(count // channels) ** 2 == count // channels


def _max_pool2d(op: ops.Other, arena: Arena) -> Case:
    """Windows of 3 x 3, two apart, of 64 channels: values and their places are written."""
    side = max(2, math.isqrt(_items(op.read, getattr(torch, op.dtype)) // 64))
    x = arena.take(1, 64, side, side, dtype=op.dtype)
    return partial(F.max_pool2d, x, 3, 2, 1, return_indices=True)


_OTHERS: dict[str, Callable[..., Case]] = {
    "topk": _topk,
    "sort": _sort,
    "histc": _histc,
    "cumsum": _cumsum,
    "index_put": _index_put,
    "arange": _created(partial(torch.arange), 8),
    "new_zeros": _created(partial(torch.zeros, dtype=torch.bool), 1),
    "new_ones": _created(partial(torch.ones, dtype=torch.bool), 1),
    "empty_like": _created(partial(torch.empty, dtype=torch.int64), 8),
    "upsample_linear1d": _linear1d,
    "upsample_bicubic2d": _bicubic,
    "max_pool2d_with_indices": _max_pool2d,
}


def supported(plan: Sequence[Operator]) -> Iterator[Operator]:
    """Those operators of ``plan`` that some maker here knows."""
    for op in plan:
        table, name = (_OTHERS, op.name) if isinstance(op, ops.Other) else (_MAKERS, op.operator)
        if name in table:
            yield op
