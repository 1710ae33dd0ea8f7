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
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from model.ops import Attention, Operator

CUDNN_FIRST = (9, 10)
"""Major compute capabilities on which cuDNN is asked first."""
HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Backend:
    """What a family takes. ``bias``: a bias or mask; ``offset_causal``: a causal mask where queries
    and keys are not equally many; ``most_head_dim``: infinite where any will do;
    ``narrow_values``: heads of values of another width than those of keys."""

    name: str
    dtypes: tuple[str, ...]
    head_dim_multiple: int
    most_head_dim: float
    bias: bool
    offset_causal: bool
    least_kv_len: int
    narrow_values: bool = True


CUDNN = Backend("cudnn", HALF, 8, 128, True, True, 2)
CUDNN_HOPPER = Backend("cudnn", HALF, 8, 256, True, True, 2)
FLASH = Backend("flash", HALF, 1, 256, False, False, 1, narrow_values=False)
EFFICIENT = Backend("efficient", HALF, 8, math.inf, True, True, 1)
EFFICIENT_FLOAT32 = Backend("efficient", ("float32",), 4, math.inf, True, True, 1)
MATH = "math"


def order(compute_capability: str | None) -> tuple[Backend, ...]:
    """The families in the order in which torch asks them; what none takes is ``MATH``."""
    if compute_capability is None:
        return ()
    major = int(compute_capability.split(".")[0])
    cudnn = CUDNN_HOPPER if major == 9 else CUDNN
    others = (FLASH, EFFICIENT, EFFICIENT_FLOAT32)
    return (cudnn, *others) if major in CUDNN_FIRST else (*others, cudnn)


def takes(backend: Backend, op: Attention) -> bool:
    masked = bool(op.bias or op.mask or op.window is not None)
    offset = bool(op.causal) and 1 < op.q_len != op.kv_len
    widths = {op.head_dim, op.value_dim}
    return (
        op.dtype in backend.dtypes
        and all(width % backend.head_dim_multiple == 0 for width in widths)
        and max(widths) <= backend.most_head_dim
        and (backend.narrow_values or len(widths) == 1)
        and op.kv_len >= backend.least_kv_len
        and (backend.bias or not masked)
        and (backend.offset_causal or not offset)
    )


def backend_of(op: Attention, compute_capability: str | None) -> str:
    """The family that torch takes for ``op``."""
    found = (b.name for b in order(compute_capability) if takes(b, op))
    return next(found, MATH)


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
