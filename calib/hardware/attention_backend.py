"""Which kernel family torch takes for ``scaled_dot_product_attention``, as a table.

The order and the tests are those of torch 2.11 to 2.13 with a cuDNN after 9.15, read off
``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` and ``cudnn/MHA.cpp``: the first family
whose tests all hold is taken; on compute capability 9.x and 10.x cuDNN is asked first, elsewhere
last. (An older cuDNN is asked last everywhere, and on 10.x newer versions of torch refuse it single
queries with some versions of cuDNN; nobody can ask a card that is not here.)

cuDNN compiles a plan on the host for each attention that it has not seen: the sizes and strides of
all tensors, dtype, bias and causality are the key (``MHAParams``), the cache is a thread's, and
nothing of it outlives the process. A decode step over a cache that grows by concatenation is a new
key at each token, and layers of one shape share it.

``scaled_dot_product_attention`` takes a window as a mask (``mask``) and computes all pairs. What
has a ``window`` is therefore run by the kernels with such an argument: FlashAttention's
(``_flash_attention_forward``, ``varlen_attn``) and the efficient ones, on every card.

How it splits the keys of one query was read off the grids of an H200 (cuDNN of torch 2.11): all 106
of the record follow :func:`parts`. Calls of many queries clear a counter first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.ops import Attention, Operator

CUDNN_FIRST = (9, 10)
"""Major compute capabilities on which cuDNN is asked first."""
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Backend:
    """What a family takes. ``bias``: a bias or mask; ``offset_causal``: a causal mask where queries
    and keys are not equally many; ``most_head_dim``: infinite where any will do;
    ``narrow_values``: heads of values of another width than those of keys; ``window``: as a number,
    by which its kernels leave keys out that no query of a tile sees."""

    name: str
    dtypes: tuple[str, ...]
    head_dim_multiple: int
    most_head_dim: float
    bias: bool
    offset_causal: bool
    least_kv_len: int
    narrow_values: bool = True
    window: bool = False


CUDNN = Backend("cudnn", HALF, 8, 128, True, True, 2)
CUDNN_HOPPER = Backend("cudnn", HALF, 8, 256, True, True, 2)
FLASH = Backend("flash", HALF, 1, 256, False, False, 1, narrow_values=False, window=True)
EFFICIENT = Backend("efficient", HALF, 8, math.inf, True, True, 1, window=True)
EFFICIENT_FLOAT32 = Backend("efficient", ("float32",), 4, math.inf, True, True, 1, window=True)
MATH = "math"


def order(compute_capability: str | None) -> tuple[Backend, ...]:
    """The families in the order in which torch asks them; what none takes is ``MATH``."""
    if compute_capability is None:
        return ()
    major = int(compute_capability.split(".")[0])
    cudnn = CUDNN_HOPPER if major == 9 else CUDNN
    others = (FLASH, EFFICIENT, EFFICIENT_FLOAT32)
    return (cudnn, *others) if major in CUDNN_FIRST else (*others, cudnn)


def takes(backend: Backend, op: Attention) -> Any:
    """Whether its tests hold for an operator; [n] bool for a grid."""
    masked = np.asarray(+op.bias + +op.mask, dtype=bool)
    windowed = cuts(op) & ~masked
    offset = np.asarray(op.causal, dtype=bool) & np.greater(op.q_len, 1)
    offset = offset & np.not_equal(op.q_len, op.kv_len) & ~windowed
    keys, values = np.asarray(op.head_dim), np.asarray(op.value_dim)
    multiple = backend.head_dim_multiple
    return (
        (op.dtype in backend.dtypes)
        & (keys % multiple == 0)
        & (values % multiple == 0)
        & (np.maximum(keys, values) <= backend.most_head_dim)
        & (backend.narrow_values | (keys == values))
        & np.greater_equal(op.kv_len, backend.least_kv_len)
        & (backend.bias | ~masked)
        & (backend.offset_causal | ~offset)
        & (backend.window | ~windowed)
    )


def cuts(op: Attention) -> np.ndarray:
    """[n] or []: whether a window leaves out keys that a query would see."""
    return np.asarray(False if op.window is None else np.less(op.window, op.kv_len))


def backends_of(op: Attention, compute_capability: str | None) -> np.ndarray:
    """[n] or []: the families that torch takes for a grid, or an operator."""
    found = np.full(np.shape(takes(CUDNN, op)), MATH, dtype=object)
    for backend in reversed(order(compute_capability)):
        found = np.where(takes(backend, op), backend.name, found)
    return found


def backend_of(op: Attention, compute_capability: str | None) -> str:
    """The family that torch takes for ``op``."""
    return str(backends_of(op, compute_capability))


SHORT = 256
"""Keys up to which one query goes to a kernel that splits nothing, 64 keys a step."""
STEP_OF_SHORT, STEP = 64, 128
ROWS_OF_ONE = 16
"""Heads that share keys, of one block of one query."""
_LEAST_PARTS = 4


def step(op: Attention) -> np.ndarray:
    """[n] or []: keys of a step of cuDNN's kernel."""
    short = np.equal(op.q_len, 1) & np.less_equal(op.kv_len, SHORT)
    return np.where(short, STEP_OF_SHORT, STEP)


def parts(op: Attention, sms: int) -> np.ndarray:
    """[n] or []: blocks that share a walk over the keys of one query, whose parts a second kernel
    combines: the largest power of two that fits twice onto ``sms`` multiprocessors and leaves each
    more than one step; from four on."""
    packed = np.ceil(op.heads / op.kv_heads / ROWS_OF_ONE) * op.kv_heads
    steps = np.ceil(np.asarray(op.kv_len) / STEP)
    most = np.minimum(
        _power_of_two(2 * sms / (op.batch * packed)),
        _power_of_two(steps - 1),
    )
    is_split = np.equal(op.q_len, 1) & np.greater(op.kv_len, SHORT) & (most >= _LEAST_PARTS)
    return np.where(is_split, most, 1.0)


def as_split(op: Attention, compute_capability: str | None) -> Attention:
    """Two heads to the same keys, where torch asks FlashAttention one query of heads that have keys
    of their own: an engine's attention whose keys are split over blocks as torch's are.

    FlashAttention 2 splits keys for engines only where heads share them (``mha_varlen_fwd``), and
    for torch always (``mha_fwd``). Heads that share keys are rows of one block: two walk as one.
    """
    alone = np.equal(op.q_len, 1) & np.equal(op.heads, op.kv_heads)
    alone = alone & (backends_of(op, compute_capability) == FLASH.name)
    heads: Any = np.where(alone, 2 * np.asarray(op.heads), op.heads)
    return replace(op, heads=heads if heads.ndim else int(heads))


def _power_of_two(most: Any) -> np.ndarray:
    """The largest power of two up to ``most``; at least one."""
    return np.asarray(2.0 ** np.floor(np.log2(np.maximum(most, 1.0))))


def clears(op: Attention, compute_capability: str | None) -> bool:
    """Whether torch's call begins with clearing memory: cuDNN's counter of tiles."""
    return op.q_len > 1 and backend_of(op, compute_capability) == CUDNN.name


def kernels(op: Attention, compute_capability: str | None, sms: int) -> int:
    """Those of one call of torch's, a memory that is cleared among them."""
    if backend_of(op, compute_capability) != CUDNN.name:
        return 1
    return 2 if op.q_len > 1 or parts(op, sms) > 1 else 1


def planned(ops: Iterable[Operator], compute_capability: str | None) -> set[Attention]:
    """The attentions among ``ops`` for which a plan is built, each shape once."""
    shapes = {op for op in ops if isinstance(op, Attention)}
    return {op for op in shapes if backend_of(op, compute_capability) == CUDNN.name}


def growing(step: Iterable[Operator], before: Iterable[Operator]) -> set[Attention]:
    """The attentions of a decode step whose keys grow by one at each step.

    ``before``: the operators of the other phases. Keys of an encoder are as many there too, and a
    cache that a window has cut is full.
    """
    fixed: set[Any] = {_keys(op) for op in before if isinstance(op, Attention)}
    found = {op for op in step if isinstance(op, Attention)}
    return {op for op in found if _keys(op) not in fixed and not _full(op)}


def _keys(op: Attention) -> tuple[Any, ...]:
    return (op.kv_len, op.kv_heads, op.head_dim, op.value_dim)


def _full(op: Attention) -> bool:
    return op.window is not None and op.kv_len >= op.window
