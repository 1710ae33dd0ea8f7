"""From an operator to something that runs: torch as an eager model calls it, on random data.

All tensors are views into one arena of random numbers a dtype. A cold case walks through the
arena, so that each call finds its weights (or, for an operator without weights, its inputs) in main
memory; a hot one uses the same tensors again and again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from model import ops
from model.ops import Operator

Run = Callable[[], Any]
_COLD_BYTES = 2**28
"""A cold case returns to a tensor after at least this many bytes: well above any CPU's cache."""
_MOST_COPIES = 64


class Unsupported(Exception):
    """This implementation cannot execute the operator; the message says why."""


class Arena:
    """Random numbers, one buffer a dtype, handed out as views one after another, in a ring."""

    def __init__(self, nbytes: int = 3 * 2**28, seed: int = 0):
        self.nbytes = nbytes
        self.generator = torch.Generator().manual_seed(seed)
        self.buffers: dict[torch.dtype, torch.Tensor] = {}
        self.offset = 0

    def take(self, *shape: int, dtype: str) -> torch.Tensor:
        """A view of ``shape``, aligned to 64 bytes, following the last one."""
        wanted = getattr(torch, dtype)
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
            full = self.nbytes if dtype == torch.bfloat16 else self.nbytes // 2
            buffer = torch.empty(full // dtype.itemsize, dtype=dtype)
            if dtype.is_floating_point:
                block = torch.randn(2**22, generator=self.generator).to(dtype)
            else:
                high = 2 if dtype == torch.bool else 64
                block = torch.randint(high, (2**22,), generator=self.generator).to(dtype)
            for start in range(0, len(buffer), len(block)):
                part = buffer[start : start + len(block)]
                part.copy_(block[: len(part)])
            self.buffers[dtype] = buffer
        return self.buffers[dtype]


def weight_stream(arena: Arena) -> Run:
    """What runs before each repeat: a matrix-vector product with the arena's next 16 MiB.

    In a model, any two calls of one operator have weights streamed past between them, which takes
    the operator's code and part of its inputs out of the nearest caches.
    """
    x = torch.ones(1, 2048, dtype=torch.bfloat16)

    def stream() -> torch.Tensor:
        return F.linear(x, arena.take(4096, 2048, dtype="bfloat16"))

    return stream


def build(op: Operator, arena: Arena, cache: str = "cold") -> Run:
    """A call of ``op`` as eager torch makes it. Raises ``Unsupported`` where torch has none."""
    kind = op.operator
    make = _OTHERS.get(op.name) if isinstance(op, ops.Other) else _MAKERS.get(kind)
    if make is None:
        name = op.name if isinstance(op, ops.Other) else kind
        raise Unsupported(f"no torch operator for {name}")
    moved = float(op.weight_bytes_read) if op.weight_bytes_read > op.bytes / 10 else float(op.bytes)
    copies = 1 if cache == "hot" else min(_MOST_COPIES, math.ceil(_COLD_BYTES / max(moved, 1)))
    runs = [make(op, arena) for _ in range(copies)]
    if copies == 1:
        return runs[0]
    turns = itertools.cycle(runs)

    def run() -> Any:
        return next(turns)()

    return run


def _matmul(op: ops.Matmul, arena: Arena) -> Run:
    if op.weight_dtype not in (None, op.dtype):
        raise Unsupported(f"no product of {op.dtype} with {op.weight_dtype} weights")
    if op.batch > 1:
        x = arena.take(op.batch, op.m, op.k, dtype=op.dtype)
        y = arena.take(op.batch, op.n, op.k, dtype=op.dtype).transpose(1, 2)
        return lambda: torch.bmm(x, y)
    x = arena.take(op.m, op.k, dtype=op.dtype)
    w = arena.take(op.n, op.k, dtype=op.dtype)
    b = arena.take(op.n, dtype=op.dtype) if op.bias else None
    return lambda: F.linear(x, w, b)


def _grouped_matmul(op: ops.GroupedMatmul, arena: Arena) -> Run:
    x = arena.take(op.rows, op.k, dtype=op.dtype)
    w = arena.take(op.experts, op.n, op.k, dtype=op.dtype).transpose(1, 2)
    touched = min(op.experts, op.rows, max(1, round(float(op.experts_read))))
    chosen = torch.randperm(op.experts, generator=arena.generator)[:touched]
    loads = torch.zeros(op.experts, dtype=torch.int32)
    loads[chosen] = op.rows // touched
    loads[chosen[: op.rows % touched]] += 1
    ends = loads.cumsum(0, dtype=torch.int32)
    grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return lambda: grouped(x, w, offs=ends)


def _attention(op: ops.Attention, arena: Arena) -> Run:
    if op.window is not None or (op.causal and op.q_len != op.kv_len):
        raise Unsupported("scaled_dot_product_attention has no window and no offset causal mask")

    def heads(length: int, count: int) -> torch.Tensor:
        return arena.take(op.batch, length, count, op.head_dim, dtype=op.dtype).transpose(1, 2)

    q, k, v = (
        heads(op.q_len, op.heads),
        heads(op.kv_len, op.kv_heads),
        heads(op.kv_len, op.kv_heads),
    )
    shape = (op.batch, op.heads, op.q_len, op.kv_len)
    bias = arena.take(*shape, dtype=op.dtype) if op.bias else None
    gqa = op.heads != op.kv_heads
    return lambda: F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=op.causal, enable_gqa=gqa
    )


def _conv2d(op: ops.Conv2d, arena: Arena) -> Run:
    x = arena.take(op.batch, op.in_channels, op.height, op.width, dtype=op.dtype)
    if op.in_channels > 4:  # feature maps come permuted from [batch, height, width, channels]
        x = x.to(memory_format=torch.channels_last)
    shape = (op.out_channels, op.in_channels // op.groups, op.kernel, op.kernel)
    w = arena.take(*shape, dtype=op.dtype)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    return lambda: F.conv2d(x, w, b, op.stride, op.padding, groups=op.groups)


def _norm(op: ops.Norm, arena: Arena) -> Run:
    x = _matrix(arena, op.rows, op.cols, op.dtype, op.transposed)
    w = arena.take(op.cols, dtype=op.dtype)
    if op.kind == "layernorm":
        b = arena.take(op.cols, dtype=op.dtype)
        return lambda: F.layer_norm(x, (op.cols,), w, b)

    def rmsnorm() -> torch.Tensor:
        """As the models write it: eight operators, in float32 between two casts."""
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return w * wide.to(x.dtype)

    return rmsnorm


def _matrix(arena: Arena, rows: int, cols: int, dtype: str, transposed: bool) -> torch.Tensor:
    """[rows, cols], in memory row by row or column by column."""
    if transposed:
        return arena.take(cols, rows, dtype=dtype).t()
    return arena.take(rows, cols, dtype=dtype)


def _softmax(op: ops.Softmax, arena: Arena) -> Run:
    x = arena.take(op.rows, op.cols, dtype=op.dtype)
    out = getattr(torch, op.out_dtype or op.dtype)
    return lambda: F.softmax(x, dim=-1, dtype=out)


def _elementwise(op: ops.Elementwise, arena: Arena) -> Run:
    if op.inputs == 0 and op.broadcast:  # an outer sum, as of two axes' positions
        rows, cols = _outer(op)
        x, y = (arena.take(rows, cols, dtype=op.dtype) for _ in range(2))
        return lambda: x[:, :, None] + y[:, None, :]
    if op.inputs >= 2 or op.broadcast:
        return _sum_of_two(op, arena)
    x = arena.take(op.elements, dtype=op.dtype)
    if op.flops_per_element == 4:
        return lambda: torch.sigmoid(x)
    if op.flops_per_element >= 5:
        return lambda: F.silu(x)
    return lambda: x * 2


def _sum_of_two(op: ops.Elementwise, arena: Arena) -> Run:
    """Of two tensors, or of one and a smaller one that is repeated."""
    small = min(int(op.broadcast), op.elements) if op.inputs == 1 else op.elements
    rows = max(1, op.elements // small)
    if op.transposed:
        return _sum_across(op, rows, small, arena)
    x = arena.take(rows, small, dtype=op.dtype)
    y = arena.take(1, small, dtype=op.dtype)
    return lambda: x + y


def _sum_across(op: ops.Elementwise, batch: int, elements: int, arena: Arena) -> Run:
    """[batch, rows, cols] column by column plus as much, or one of ``batch``, row by row."""
    cols = math.gcd(elements, 768) if elements % 64 == 0 else 1
    rows = elements // cols
    x = arena.take(batch, cols, rows, dtype=op.dtype).transpose(1, 2)
    y = arena.take(1, rows, cols, dtype=op.dtype)
    return lambda: x + y


def _outer(op: ops.Elementwise) -> tuple[int, int]:
    """[rows, cols] of the two inputs whose outer sum has [rows, cols, cols] elements."""
    cols = max(1, round(2 * op.elements / op.broadcast))
    return max(1, op.elements // cols**2), cols


def _gather(op: ops.Gather, arena: Arena) -> Run:
    table = arena.take(max(64, op.rows), op.cols, dtype=op.dtype)
    index = torch.randint(len(table), (op.rows,), generator=arena.generator)
    return lambda: table[index]


def _copy(op: ops.Copy, arena: Arena) -> Run:
    if op.out_dtype not in (None, op.dtype):
        target = getattr(torch, str(op.out_dtype))
        flat = arena.take(op.elements, dtype=op.dtype)
        return lambda: flat.to(target)
    inner = 64 if op.elements % 128 == 0 else 1
    if op.elements % (2 * inner):
        flat = arena.take(op.elements, dtype=op.dtype)
        return flat.clone
    x = arena.take(op.elements // inner // 2, 2, inner, dtype=op.dtype).transpose(0, 1)
    return x.contiguous


_MAKERS: dict[str, Callable[..., Run]] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention": _attention,
    "conv2d": _conv2d,
    "norm": _norm,
    "softmax": _softmax,
    "elementwise": _elementwise,
    "gather": _gather,
    "copy": _copy,
}


def _items(nbytes: Any, dtype: torch.dtype) -> int:
    return max(1, int(nbytes) // dtype.itemsize)


def _topk(op: ops.Other, arena: Arena) -> Run:
    x = arena.take(max(1, _items(op.read, torch.float32) // 64), 64, dtype="float32")
    return lambda: torch.topk(x, 6, dim=-1, sorted=False)


def _sort(op: ops.Other, arena: Arena) -> Run:
    x = arena.take(_items(op.read, torch.int64), dtype="int64")
    return lambda: torch.sort(x)


def _histc(op: ops.Other, arena: Arena) -> Run:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    bins = _items(op.written, torch.float32)
    return lambda: torch.histc(x, bins, 0, bins - 1)


def _cumsum(op: ops.Other, arena: Arena) -> Run:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    return lambda: torch.cumsum(x, 0, dtype=torch.int32)


def _sum(op: ops.Other, arena: Arena) -> Run:
    outputs = _items(op.written, torch.float32)
    x = arena.take(max(1, _items(op.read, torch.float32) // outputs), outputs, dtype="float32")
    return lambda: x.sum(0)


def _index_put(op: ops.Other, arena: Arena) -> Run:
    count = _items(op.written, torch.int64)
    where, values = torch.randperm(count, generator=arena.generator), torch.arange(count)
    target = torch.empty(count, dtype=torch.int64)

    def put() -> None:
        target[where] = values

    return put


def _created(make: Callable[[int], torch.Tensor], itemsize: int) -> Callable[..., Run]:
    return lambda op, arena: lambda: make(max(1, int(op.written) // itemsize))


def _linear1d(op: ops.Other, arena: Arena) -> Run:
    learned, wanted = (_items(b, torch.bfloat16) for b in (op.read, op.written))
    x = arena.take(1, 64, max(1, learned // 64), dtype=op.dtype)
    return lambda: F.interpolate(x, size=max(1, wanted // 64), mode="linear")


def _bicubic(op: ops.Other, arena: Arena) -> Run:
    learned, wanted = (_items(b, torch.float32) for b in (op.read, op.written))
    channels = next((c for c in (768, 1024, 64) if _square(learned, c) and _square(wanted, c)), 0)
    if not channels:
        raise Unsupported("resampling is measured on square maps of 64, 768 or 1024 channels")
    side, out = math.isqrt(learned // channels), math.isqrt(wanted // channels)
    x = arena.take(1, side, side, channels, dtype="float32").permute(0, 3, 1, 2)
    return lambda: F.interpolate(
        x, size=(out, out), mode="bicubic", align_corners=False, antialias=True
    )


def _square(count: int, channels: int) -> bool:
    return count % channels == 0 and math.isqrt(count // channels) ** 2 == count // channels


_OTHERS: dict[str, Callable[..., Run]] = {
    "topk": _topk,
    "sort": _sort,
    "histc": _histc,
    "cumsum": _cumsum,
    "sum": _sum,
    "index_put": _index_put,
    "arange": _created(torch.arange, 8),
    "new_zeros": _created(lambda n: torch.zeros(n, dtype=torch.bool), 1),
    "new_ones": _created(lambda n: torch.ones(n, dtype=torch.bool), 1),
    "empty_like": _created(lambda n: torch.empty(n, dtype=torch.int64), 8),
    "upsample_linear1d": _linear1d,
    "upsample_bicubic2d": _bicubic,
}


def supported(plan: Sequence[Operator]) -> Iterator[Operator]:
    """Those operators of ``plan`` that some maker here knows."""
    for op in plan:
        table, name = (_OTHERS, op.name) if isinstance(op, ops.Other) else (_MAKERS, op.operator)
        if name in table:
            yield op
