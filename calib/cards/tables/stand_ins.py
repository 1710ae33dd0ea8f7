"""Which measured kernel stands in for an operator that no table measured.

Public tables hold products, attention, whole expert layers and one pointwise kernel. Every other
operator is brought to one of those with the same work for the same units, and takes that one's
time:

    time = sum over the stand-ins of their times * max(1, floor / floor of the stand-ins)

- a product of another dtype: the bfloat16 product whose inner dimension has as many bytes. On a
  card whose rates double when the bytes halve, its two floors are the same;
- a batched product: one with all rows, ``batch * m`` (:mod:`calib.cards.corrected` has the ratio of
  the two, where torch's samples are another card's);
- a convolution: the product that it is, once its patches are laid out (an implicit GEMM); channel
  by channel (depthwise) so many pointwise kernels of its bytes as its window's terms take;
- an expert layer's grouped product: the whole expert layer, by the ratio of the floors, which also
  carries the experts touched;
- an algorithm of several kernels or passes (a sort, a top-k, a resampling): so many pointwise
  kernels as took its time on an H200 (``benchmarks/data/h200``);
- a norm by channel: its three kernels, two of them of a number a channel;
- a map, a copy or a norm that computes the place of each element: at least what that takes
  (:mod:`calib.fit.physics.blocks.stream_blocks`);
- whatever only streams (norm, softmax, pointwise, gather, copy): a pointwise kernel that moves as
  many bytes, the tables' or, where torch's own maps were timed, one of those. An rmsnorm is the
  eight kernels that the models' Python starts.

Before that, what nobody timed is the same kernels by another dtype or the other way round:

- float16 is bfloat16: as many bytes at the same rate;
- a product with one column is that with one row: as many sums of as long rows, which lie alike;
- a convolution of float32, whose factors torch has the matrix units cut to tf32, is one of bfloat16
  over twice as many maps: as many bytes of the maps, as many steps of the units; its result need
  not be moved (:mod:`calib.hardware.convolutions`). With few channels scalar arithmetic does it,
  which takes as long for either dtype: as many maps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from calib.fit.calibration import fitted_dtype, kind_of
from calib.fit.physics.blocks.product_blocks import whole_loads
from calib.hardware.convolutions import is_depthwise, is_scalar, window
from calib.hardware.datasheet import Hardware, floor, load_hardware, peak
from calib.hardware.figures import HardwareError
from model.ops import (
    Attention,
    AttentionBackward,
    ChannelNorm,
    Conv2d,
    Convolution,
    Elementwise,
    GroupedMatmul,
    LatentAttention,
    Matmul,
    MoeMlp,
    Norm,
    Operator,
    Other,
    item_bytes,
)

STREAM_BYTES = 3
"""Bytes an element of the pointwise kernel in the tables: bfloat16 read, float8 written."""
LEAST_ELEMENTS = 64
"""Twice the least size in the tables. Fewer take as long: a kernel's latency, and nothing else."""
ANOTHER_KERNEL = float(np.log(1.5))
"""What standing in adds to the interval, as a half-width of log seconds, where the work is of the
same kind. A judgement: no table here could measure it."""
ANOTHER_ALGORITHM = float(np.log(2.5))
"""The same where the operator is executed by an algorithm of its own (sort, top-k, scan)."""

NOTES = {
    "matmul": "torch's own linear layer was timed (cuBLAS); a batch counts as more rows, another "
    "dtype as the bfloat16 product of as many bytes, a bias as nothing",
    "attention": "the engine's fused attention kernel; a bias or mask enters by its bytes",
    "attention_backward, latent_attention": "the forward kernel, by the ratio of the floors",
    "grouped_matmul": "the engine's whole expert layer, by the ratio of the floors",
    "conv2d": "the product that it is once its patches are laid out",
    "norm, softmax, elementwise, gather, copy": "one pointwise kernel (a tensor scaled into "
    "float8) that moves as many bytes; an rmsnorm is eight of them, as models write it",
    "other": "the same pointwise kernel: for a sort, a scan or a top-k no more than an order",
}
"""What stands in for each kind, in words for the data card."""


@dataclass(frozen=True)
class StandIn:
    """``ops``: executed one after another, each in a table. ``spread``: half-width that it adds, in
    log. ``own_kernel``: the table timed the very kernel that torch runs. ``by_floor``: scale by the
    ratio of the floors both ways, not only upwards. ``passes``: how often they run, on an H200;
    ``busy``: in truth it is one kernel that keeps multiprocessors so long; ``meant``: whose floors
    theirs are compared with, if not the operator's. Numbers and flags are arrays for a grid."""

    ops: tuple[Operator, ...]
    spread: Any = ANOTHER_KERNEL
    own_kernel: Any = False
    by_floor: bool = False
    passes: Any = 1.0
    busy: bool = False
    meant: Operator | None = None

    def scale(self, op: Operator, hardware: Hardware) -> Any:
        """Factor on the stand-ins' time, run once; an array for a grid."""
        ratio = floor(self.meant or op, hardware) / np.maximum(self._floors(hardware), 1e-30)
        return ratio if self.by_floor else np.maximum(1.0, ratio)

    def runs(self, hardware: Hardware, seconds: Any) -> Any:
        """How often they run on ``hardware``, where once takes ``seconds``. A kernel that keeps
        multiprocessors busy moves more bytes meanwhile on a card with more of them a cycle, and
        moves them once at least; what is latency and no bytes is as on an H200."""
        if not self.busy:
            return self.passes
        beside = bytes_of_cycle(hardware) / bytes_of_cycle(load_hardware(TIMED_ON))
        streamed = np.minimum(self._floors(hardware) / seconds, 1.0)
        once = np.maximum(self.passes * beside, np.minimum(self.passes, 1.0))
        return streamed * once + (1 - streamed) * self.passes

    def _floors(self, hardware: Hardware) -> Any:
        return sum(floor(op, hardware) for op in self.ops)


TIMED_ON = "h200"
"""The card of whose record passes were read off."""


def bytes_of_cycle(hardware: Hardware) -> float:
    """That main memory moves in a cycle of a multiprocessor."""
    return hardware.bandwidth / hardware.sm_count / hardware.clock_hz


def stand_in(op: Operator) -> StandIn:
    """What is looked up in the tables for ``op``, an operator or a grid."""
    make = next((f for cls, f in _MAKERS.items() if isinstance(op, cls)), None)
    if make is not None:
        return make(op)
    spread = ANOTHER_ALGORITHM if op.operator == "other" else ANOTHER_KERNEL
    is_scan = isinstance(op, Other) and op.name in SCANS
    return StandIn((_stream(op.bytes),), spread, passes=passes_of(op), busy=is_scan)


UNTIMED, TIMED = "float16", "bfloat16"


def all_as_timed(
    ops: Sequence[Operator] | Operator, told: Collection[tuple[str, ...]], hardware: Hardware
) -> Sequence[Operator] | Operator:
    """A list or a grid :func:`as_timed`."""
    if isinstance(ops, Operator):
        return as_timed(ops, told, hardware)
    return [as_timed(op, told, hardware) for op in ops]


def as_timed(op: Operator, told: Collection[tuple[str, ...]], hardware: Hardware) -> Operator:
    """``op`` with bfloat16 for float16, of which nobody timed kernels: the same bytes at the same
    rate. Itself where someone did (``told``: kinds and dtypes), where the card multiplies the two
    at other rates, or where it converts one into the other. A column is a row."""
    if isinstance(op, Matmul) and op.weight_dtype is None:
        op = _columns_as_rows(op)
    dtypes = {f.name: getattr(op, f.name) for f in fields(op) if f.name.endswith("dtype")}
    halves = {name: TIMED for name, dtype in dtypes.items() if dtype == UNTIMED}
    if not halves or TIMED in dtypes.values() or (kind_of(op), fitted_dtype(op)) in told:
        return op
    twin = replace(op, **halves)
    try:
        return twin if peak(twin, hardware) == peak(op, hardware) else op
    except HardwareError:  # of one of them it has no rate
        return op


def _columns_as_rows(op: Matmul) -> Matmul:
    """Each point of a grid by itself."""
    column = np.equal(op.n, 1) & (np.asarray(op.m) > 1) & ~np.asarray(op.bias, dtype=bool)
    if not column.any():
        return op
    if not column.ndim:
        return replace(op, m=op.n, n=op.m)
    m: Any = np.where(column, op.n, op.m)
    n: Any = np.where(column, op.m, op.n)
    return replace(op, m=m, n=n)


CUT = "float32"
_TWICE = 0.05
"""How far from two the rates of bfloat16 and tf32 may lie, as datasheets round them."""


def as_cut(op: Operator, told: Collection[tuple[str, ...]], hardware: Hardware) -> Operator:
    """A convolution of float32 as one of bfloat16; itself where someone timed float32, or where no
    matrix units, twice as fast by bfloat16, do it."""
    if not isinstance(op, Conv2d | Convolution) or op.dtype != CUT:
        return op
    if (kind_of(op), CUT) in told or np.any(is_depthwise(op)) or TIMED not in hardware.peak_flops:
        return op
    more: Any = np.where(is_scalar(op), 1, 2)
    batch, one_way = op.batch * more, (more > 1) & ~np.bool_(getattr(op, "transposed", False))
    twin = replace(op, dtype=TIMED, batch=whole_sizes(batch), one_way=one_way)
    rates = peak(twin, hardware) / peak(op, hardware)
    return twin if np.isclose(rates, 2.0, rtol=_TWICE) else op


def passes_of(op: Operator) -> Any:
    """Pointwise kernels that take as long. A sort of up to 32 keys is one warp's, of up to 4096 one
    block's; beyond, a radix sort takes four kernels for each byte of a key."""
    if not isinstance(op, Other):
        return 1.0
    if op.name in ("sort", "argsort"):
        item = item_bytes(op.dtype)
        keys = np.asarray(op.read, dtype=float) / item
        return np.where(keys <= 32, 3.5, np.where(keys <= 4096, 2 * item, 4 * item))
    if not np.any(op.bytes):
        return NOTHING
    return PASSES.get(op.name, 1.0)


PASSES = {
    **{"topk": 3.0, "topk_sorted": 6.0, "histc": 2.0, "cumsum": 2.0, "upsample_linear1d": 3.3},
    **{"cumprod": 2.0, "logcumsumexp": 2.0, "upsample_bicubic2d": 13.0},
    **dict.fromkeys(("arange", "zeros", "ones", "full", "new_zeros", "new_ones", "fill"), 0.4),
}
"""Over one pointwise kernel of as many bytes, read off the recorded phases of an H200: 33 top-k of
4.7 to 7.5 us, sorts of 6.5 to 62, fills of 0.7."""
SCANS = ("cumsum", "cumprod", "logcumsumexp")
"""One kernel."""
NOTHING = 1e-3
"""Of an operator that touches no byte: torch starts no kernel, whether it only allocates or its
tensors are empty."""

FOUND, TERMS = 3.0, 10.0
"""Of a depthwise convolution: pointwise kernels in whose time its results are found, and terms of a
window in whose time another one runs."""


def _stream(nbytes: Any) -> Operator:
    """The tables' pointwise kernel, moving ``nbytes``."""
    elements = np.rint(np.asarray(nbytes, dtype=float) / STREAM_BYTES)
    elements = np.asarray(np.maximum(elements, LEAST_ELEMENTS))
    whole: Any = elements.astype(np.int64) if elements.ndim else int(elements)
    return Elementwise(whole, dtype="bfloat16", out_dtype="float8_e4m3fn")


def _matmul(op: Matmul) -> StandIn:
    """A bias is added by the product's own epilogue; only its bytes are left out. Cores sustain
    more of float32, or less, than units do of bfloat16, and read it number by number: a row that is
    no whole load does not slow them."""
    own = np.equal(op.batch, 1) & (op.dtype == "bfloat16") & (op.weight_dtype in (None, op.dtype))
    single = op.dtype == "float32"
    meant = whole_loads(op, TIMED) if single else op
    product, spread = as_many_bytes(all_rows(meant)), np.where(own, 0.0, ANOTHER_KERNEL)
    return StandIn((product,), spread, own, by_floor=single, meant=meant)


def all_rows(op: Matmul) -> Matmul:
    """One product of all rows of a batch."""
    return replace(op, m=op.m * op.batch, batch=1)


def is_batched(op: Operator, but: Collection[str] = ()) -> bool:
    """A product of no dtype of ``but``; of a grid, whether any is."""
    return isinstance(op, Matmul) and op.dtype not in but and bool(np.any(np.greater(op.batch, 1)))


def each(change: Callable[[Matmul], Matmul], ops: Any) -> Any:
    """A grid, or all of a list, changed."""
    return change(ops) if isinstance(ops, Matmul) else [change(op) for op in ops]


def as_many_bytes(op: Matmul) -> Matmul:
    """The plain bfloat16 product whose inner dimension has as many bytes."""
    inner = np.maximum(op.k * item_bytes(op.dtype) / item_bytes("bfloat16"), 1)
    return Matmul(op.m, op.n, whole_sizes(inner), op.batch)


def whole_sizes(value: Any) -> Any:
    rounded = np.rint(value)
    return rounded.astype(np.int64) if np.ndim(rounded) else int(rounded)


def _grouped_matmul(op: GroupedMatmul) -> StandIn:
    """The expert layer of that width: of its three products' floors, as much as this one has."""
    half = whole_sizes(np.maximum(op.n / 2, 1))
    layer = MoeMlp(op.tokens, op.experts, op.top_k, op.k, half, dtype=op.dtype)
    return StandIn((layer,), by_floor=True)


def _attention(op: Attention) -> StandIn:
    """Tables have no bias and no mask: their bytes enter by the floor, and torch's fused kernel
    for them is another one."""
    plain = np.equal(op.bias, False) & np.equal(op.mask, False)
    spread = np.where(plain & (op.dtype == "bfloat16"), 0.0, ANOTHER_KERNEL)
    return StandIn((replace(op, bias=False, mask=False, dtype="bfloat16"),), spread)


def _latent_attention(op: LatentAttention) -> StandIn:
    """A fused kernel over keys and values of their own, by the ratio of the floors."""
    plain = {f.name: getattr(op, f.name) for f in fields(Attention)}
    return StandIn((Attention(**plain | {"dtype": "bfloat16"}),), by_floor=True)


def _attention_backward(op: AttentionBackward) -> StandIn:
    sizes = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim", "v_head_dim")
    names = (*sizes, "causal", "window")
    return StandIn((Attention(**{n: getattr(op, n) for n in names}),))


def _convolution(op: Conv2d | Convolution) -> StandIn:
    """Channel by channel it streams in several passes; not of two dimensions, it streams."""
    if np.all(is_depthwise(op)):
        passes = FOUND + window(op) / TERMS
        return StandIn((_stream(op.bytes),), ANOTHER_ALGORITHM, passes=passes, busy=True)
    if isinstance(op, Convolution):
        return StandIn((_stream(op.bytes),))
    rows = op.batch * op.out_height * op.out_width * op.groups
    inner = (op.in_channels // op.groups) * op.kernel**2
    return StandIn((Matmul(rows, op.out_channels // op.groups, inner),))


def _channel_norm(op: ChannelNorm) -> StandIn:
    """Two kernels of a number a channel take as long as one of the tables' smallest; by group, the
    elements are read once more before, for their sums."""
    summed = (_stream(op.bytes_read),) if op.kind == "groupnorm" else ()
    return StandIn((*summed, _stream(op.bytes), _stream(op.channels * 8)))


def _norm(op: Norm) -> StandIn:
    """A layernorm is one kernel. An rmsnorm, as models write it: cast to float32, square, mean,
    add, reciprocal root, multiply, cast back, scale."""
    if op.kind == "layernorm":
        return StandIn((_stream(op.bytes),))
    elements, item = op.rows * op.cols, item_bytes(op.dtype)
    wide = (item + 4, 4 + 4, 4, 4 + 4, 4 + item, 2 * item)
    whole = tuple(_stream(elements * nbytes) for nbytes in wide)
    return StandIn((*whole, *(_stream(op.rows * 8) for _ in range(2))))


_MAKERS: dict[type[Operator], Callable[[Any], StandIn]] = {
    Matmul: _matmul,
    GroupedMatmul: _grouped_matmul,
    MoeMlp: lambda op: StandIn((op,), 0.0),
    AttentionBackward: _attention_backward,
    LatentAttention: _latent_attention,
    Attention: _attention,
    ChannelNorm: _channel_norm,
    Conv2d: _convolution,
    Convolution: _convolution,
    Norm: _norm,
}
"""By class, the first that an operator is an instance of."""


def as_plain(op: Operator) -> Operator:
    """The tables' pointwise kernel as a map of float32 of as many bytes, which converts nothing: of
    torch's own, other sizes were timed than of the tables'."""
    if not isinstance(op, Elementwise):
        return op
    elements = whole_sizes(np.maximum(op.bytes / (2 * item_bytes("float32")), LEAST_ELEMENTS))
    return Elementwise(elements, dtype="float32")
