"""The operators: what one step of a model computes and moves, as exact formulas over its shape.

An operator is a frozen record of scalars. Its properties are plain arithmetic, so one line of
formula serves three readers: an ``int`` (one operator), an ``int64`` array (a grid of millions,
see :func:`grid`) and a sympy symbol (the formula in the documents).

Conventions, for every class here:

- a multiply-add is 2 FLOP; bytes are bytes of main memory, each tensor touched once;
- ``tensor_core_flops``: the products that matrix units execute, exactly what
  ``torch.utils.flop_counter`` counts (no causal halving);
- ``cuda_core_flops``: the arithmetic beside them (softmax, activation, norm), which that counter
  leaves out. It is a count of elementary operations, not a measurement;
- ``flops``: the first where there is one, else the second;
- ``min_flops``: ``flops`` without the work that a mask makes superfluous; the roofline uses it;
- a flag enters as ``+flag`` (an int), since sympy multiplies no bool;
- ``backward()``: the operators that the gradient of this one executes, the gradient of its input
  before those of its weights. An operator whose gradient has no formula of its own is ``Other``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np

ITEM_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "tf32": 4,
    "int32": 4,
    "complex64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "int4": 0.5,
    "float4_e2m1fn": 0.5,
}
"""Bytes of one element by dtype name. ``tf32`` is float32 in memory, multiplied on tensor cores."""


def item_bytes(dtype: str) -> int | float:
    """Bytes of one element of ``dtype``. Raises ``ValueError`` for a name that is not known."""
    if dtype not in ITEM_BYTES:
        raise ValueError(f"dtype = {dtype!r}: expected one of {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[dtype]


def is_floating(dtype: str) -> bool:
    """Whether a gradient can flow through tensors of ``dtype``."""
    return "float" in dtype or dtype == "tf32"


def _below(value: Any, least: int) -> bool:
    """Whether a number, or one of an array of them, is less; a symbol is not."""
    if isinstance(value, int | float):
        return value < least
    return isinstance(value, np.ndarray | np.number) and bool(np.any(value < least))


@cache
def _sized(cls: type[Operator]) -> tuple[str, ...]:
    """The fields of an operator that may hold a size: all but its flags."""
    return tuple(f.name for f in fields(cls) if not isinstance(f.default, bool))


def _least(a: Any, b: Any) -> Any:
    """min(a, b) in plain arithmetic, exact on integers."""
    return (a + b - abs(a - b)) // 2


def distinct_experts(experts: Any, top_k: Any, tokens: Any) -> Any:
    """Expected number of distinct experts that ``tokens`` touch under uniform routing.

    Each token picks ``top_k`` of ``experts`` without replacement, so one expert is missed by all
    of them with probability (1 - top_k / experts) ** tokens.
    """
    return experts * (1 - (1 - top_k / experts) ** tokens)


@dataclass(frozen=True)
class Operator:
    """What all operators share. Subclasses are frozen dataclasses of scalars with formulas."""

    operator: ClassVar[str]
    """The kind of operator, as it stands in the ``kind`` column of every table."""
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, value in self.shape().items():
            least = 0 if name in self.may_be_zero else 1
            if _below(value, least):
                kind = "a positive number" if least else "zero or a positive number"
                raise ValueError(f"{type(self).__name__}.{name} = {value}: expected {kind}")
        for name, value in vars(self).items():
            if name.endswith("dtype") and value is not None:
                item_bytes(value)

    def shape(self) -> dict[str, Any]:
        """The numeric fields by name (no dtypes, flags or fields left at None)."""
        values = vars(self)
        pairs = ((name, values[name]) for name in _sized(type(self)))  # type: ignore[arg-type]
        return {n: v for n, v in pairs if v is not None and not isinstance(v, str)}

    @property
    def tensor_core_flops(self) -> Any:
        return 0

    @property
    def cuda_core_flops(self) -> Any:
        return 0

    @property
    def flops(self) -> Any:
        return self.cuda_core_flops

    @property
    def min_flops(self) -> Any:
        return self.flops

    @property
    def weight_bytes_read(self) -> Any:
        """The part of ``bytes_read`` that is parameters: found in DRAM at every step of a model."""
        return 0

    @property
    def bytes_read(self) -> Any:
        raise NotImplementedError

    @property
    def bytes_written(self) -> Any:
        raise NotImplementedError

    @property
    def bytes(self) -> Any:
        return self.bytes_read + self.bytes_written

    def backward(self) -> tuple[Operator, ...]:
        """The operators of the gradient. By default: as many bytes and FLOPs again as forward."""
        return (self,)

    def bias_gradient(self, rows: Any, cols: Any, dtype: str) -> tuple[Operator, ...]:
        """Where there is a bias: the sum of the output's gradient over its rows."""
        if not getattr(self, "bias", False):
            return ()
        return (Reduction(cols, rows, dtype=dtype),)


class TensorCoreOperator(Operator):
    """An operator whose work is matrix products: ``flops`` is what torch's counter counts."""

    @property
    def flops(self) -> Any:
        return self.tensor_core_flops


@dataclass(frozen=True)
class Matmul(TensorCoreOperator):
    """[batch, m, k] x [batch, k, n] -> [batch, m, n], the second factor in ``weight_dtype``."""

    operator: ClassVar[str] = "matmul"
    m: int
    n: int
    k: int
    batch: int = 1
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    bias: bool = False

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def cuda_core_flops(self) -> Any:
        return +self.bias * self.batch * self.m * self.n

    @property
    def weight_bytes_read(self) -> Any:
        weights = self.batch * self.n * self.k * item_bytes(self.weight_dtype or self.dtype)
        return weights + +self.bias * self.n * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.batch * self.m * self.k * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.batch * self.m * self.n * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dX = dY W^T and dW = X^T dY: twice the FLOPs of forward."""
        plain = replace(self, weight_dtype=None, bias=False)
        return (
            replace(plain, n=self.k, k=self.n, weight_dtype=self.weight_dtype),
            replace(plain, m=self.k, k=self.m),
            *self.bias_gradient(self.batch * self.m, self.n, self.dtype),
        )


@dataclass(frozen=True)
class GroupedMatmul(TensorCoreOperator):
    """``tokens * top_k`` rows, each against one of ``experts`` weights of [k, n].

    ``active_experts``: distinct experts touched; None means the expectation under uniform routing.
    ``max_load``: rows of the busiest expert; None means an even spread. It changes no byte and no
    FLOP, but the time of a kernel that waits for its longest group.
    """

    operator: ClassVar[str] = "grouped_matmul"
    tokens: int
    experts: int
    top_k: int
    n: int
    k: int
    dtype: str = "bfloat16"
    active_experts: float | None = None
    max_load: float | None = None
    weight_dtype: str | None = None

    @property
    def rows(self) -> Any:
        return self.tokens * self.top_k

    @property
    def experts_read(self) -> Any:
        if self.active_experts is None:
            return distinct_experts(self.experts, self.top_k, self.tokens)
        return self.active_experts

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.rows * self.n * self.k

    @property
    def weight_bytes_read(self) -> Any:
        weights = self.experts_read * self.n * self.k
        return weights * item_bytes(self.weight_dtype or self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.rows * self.k * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.n * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dX against the same experts, and one dW = X^T dY an expert touched."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return (replace(self, n=self.k, k=self.n), GroupedMatmulWeightGradient(**values))


@dataclass(frozen=True)
class GroupedMatmulWeightGradient(GroupedMatmul):
    """dW = X^T dY of each expert touched, from the rows that were routed to it."""

    operator: ClassVar[str] = "grouped_matmul_weight_gradient"

    @property
    def weight_bytes_read(self) -> Any:
        return 0

    @property
    def bytes_read(self) -> Any:
        return self.rows * (self.k + self.n) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.experts_read * self.n * self.k * item_bytes(self.dtype)


@dataclass(frozen=True)
class MoeMlp(TensorCoreOperator):
    """A whole SwiGLU mixture of experts as one fused operator, the way public tables measure it.

    ``distribution`` names how tokens spread over experts (``balanced``, ``power_law_1.2``, ...).
    """

    operator: ClassVar[str] = "moe_mlp"
    tokens: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    dtype: str = "bfloat16"
    distribution: str = "balanced"

    @property
    def tensor_core_flops(self) -> Any:
        return 6 * self.tokens * self.top_k * self.hidden * self.intermediate

    @property
    def cuda_core_flops(self) -> Any:
        return 5 * self.tokens * self.top_k * self.intermediate

    @property
    def weight_bytes_read(self) -> Any:
        experts_read = distinct_experts(self.experts, self.top_k, self.tokens)
        return 3 * experts_read * self.hidden * self.intermediate * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.tokens * self.hidden * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.tokens * self.hidden * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        return (self, self)


@dataclass(frozen=True)
class Attention(TensorCoreOperator):
    """Fused softmax(Q K^T + bias) V: [batch, heads, q_len, head_dim] against kv_len keys.

    ``causal`` aligns the last query with the last key. ``window`` (with ``causal``) is the number
    of keys that a query sees, itself included. ``bias`` is a dense [batch, heads, q_len, kv_len];
    ``mask`` an added [batch, q_len, kv_len] that all heads share, of whatever pattern.
    """

    operator: ClassVar[str] = "attention"
    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    causal: bool = False
    window: int | None = None
    bias: bool = False
    mask: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and not np.all(self.causal):
            raise ValueError(f"Attention.window = {self.window}: expected causal=True beside it")

    @property
    def scores(self) -> Any:
        """Entries of the score matrix, masked or not."""
        return self.batch * self.heads * self.q_len * self.kv_len

    @property
    def keys_seen(self) -> Any:
        """Unmasked (query, key) pairs of one head.

        Query i sees min(window, offset + i + 1) keys, offset = kv_len - q_len; ``growing`` counts
        the queries whose row is not yet cut by the window.
        """
        if self.window is None:
            return self.q_len * self.kv_len - +self.causal * self.q_len * (self.q_len - 1) // 2
        offset = self.kv_len - self.q_len
        growing = _least(self.window - offset, self.q_len)
        growing = (growing + abs(growing)) // 2
        return (
            growing * offset + growing * (growing + 1) // 2 + (self.q_len - growing) * self.window
        )

    @property
    def tensor_core_flops(self) -> Any:
        return 4 * self.scores * self.head_dim

    @property
    def min_flops(self) -> Any:
        return 4 * self.batch * self.heads * self.keys_seen * self.head_dim

    @property
    def cuda_core_flops(self) -> Any:
        """Scale, maximum, subtract, exponential, sum for each score."""
        return (5 + +self.bias + +self.mask) * self.scores

    @property
    def keys_read(self) -> Any:
        """Keys of one head that any query sees."""
        if self.window is None:
            return self.kv_len
        return _least(self.kv_len, self.q_len + self.window - 1)

    @property
    def bytes_read(self) -> Any:
        queries = self.q_len * self.heads * self.head_dim
        keys_and_values = 2 * self.keys_read * self.kv_heads * self.head_dim
        elements = self.batch * (queries + keys_and_values) + +self.bias * self.scores
        shared = +self.mask * self.batch * self.q_len * self.kv_len
        return (elements + shared) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.batch * self.q_len * self.heads * self.head_dim * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dV, dP, dQ and dK: four products for two."""
        return (AttentionBackward(**{f.name: getattr(self, f.name) for f in fields(self)}),)


@dataclass(frozen=True)
class AttentionBackward(Attention):
    """The gradient of :class:`Attention`.

    ``recompute``: a fused kernel keeps no scores and computes them again, a fifth product (Dao,
    FlashAttention-2, sec. 3.1.2). Torch's counter counts it for fused operators and not, of
    course, where attention is written out; by default it is left out, as needless work is.
    """

    operator: ClassVar[str] = "attention_backward"
    recompute: bool = False

    @property
    def products(self) -> Any:
        return 4 + +self.recompute

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.products * self.scores * self.head_dim

    @property
    def min_flops(self) -> Any:
        return 2 * self.products * self.batch * self.heads * self.keys_seen * self.head_dim

    @property
    def bytes_read(self) -> Any:
        """Q, K, V, and the output with its gradient."""
        return super().bytes_read + 2 * super().bytes_written

    @property
    def bytes_written(self) -> Any:
        """dQ, dK, dV."""
        keys_and_values = 2 * self.batch * self.kv_len * self.kv_heads * self.head_dim
        return super().bytes_written + keys_and_values * item_bytes(self.dtype)


@dataclass(frozen=True)
class Conv2d(TensorCoreOperator):
    """[batch, in_channels, height, width] with square ``kernel``: sizes are those of the input."""

    operator: ClassVar[str] = "conv2d"
    may_be_zero: ClassVar[tuple[str, ...]] = ("padding",)
    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dtype: str = "bfloat16"
    bias: bool = False

    @property
    def out_height(self) -> Any:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> Any:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def outputs(self) -> Any:
        return self.batch * self.out_channels * self.out_height * self.out_width

    @property
    def weights(self) -> Any:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.outputs * (self.in_channels // self.groups) * self.kernel**2

    @property
    def cuda_core_flops(self) -> Any:
        return +self.bias * self.outputs

    @property
    def weight_bytes_read(self) -> Any:
        return (self.weights + +self.bias * self.out_channels) * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        inputs = self.batch * self.in_channels * self.height * self.width
        return inputs * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.outputs * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Input gradient and weight gradient, each with the FLOPs of forward."""
        plain = replace(self, bias=False)
        positions = self.batch * self.out_height * self.out_width
        return (plain, plain, *self.bias_gradient(positions, self.out_channels, self.dtype))


@dataclass(frozen=True)
class Convolution(TensorCoreOperator):
    """A convolution of one, two or three dimensions of any form, or a transposed one.

    Its cost depends on counts only: ``in_positions`` and ``out_positions`` of one feature map,
    ``taps`` of the window. [batch, in_channels, *positions], weights of [out_channels,
    in_channels / groups, *window]; transposed, of [in_channels, out_channels / groups, *window].
    """

    operator: ClassVar[str] = "convolution"
    batch: int
    in_channels: int
    out_channels: int
    in_positions: int
    out_positions: int
    taps: int
    groups: int = 1
    transposed: bool = False
    dtype: str = "bfloat16"
    bias: bool = False

    @property
    def weights(self) -> Any:
        return self.in_channels * self.out_channels // self.groups * self.taps

    @property
    def windows(self) -> Any:
        """Places at which the window is applied: of the output, or, transposed, of the input."""
        return self.out_positions + +self.transposed * (self.in_positions - self.out_positions)

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.batch * self.windows * self.weights

    @property
    def outputs(self) -> Any:
        return self.batch * self.out_channels * self.out_positions

    @property
    def cuda_core_flops(self) -> Any:
        return +self.bias * self.outputs

    @property
    def weight_bytes_read(self) -> Any:
        return (self.weights + +self.bias * self.out_channels) * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        inputs = self.batch * self.in_channels * self.in_positions
        return inputs * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.outputs * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Input gradient and weight gradient, each with the FLOPs of forward."""
        plain = replace(self, bias=False)
        positions = self.batch * self.out_positions
        return (plain, plain, *self.bias_gradient(positions, self.out_channels, self.dtype))


@dataclass(frozen=True)
class Norm(Operator):
    """``rmsnorm`` or ``layernorm`` of each of ``rows`` rows of ``cols``, then scale (and shift).

    ``transposed``: the input lies column by column in memory, as a convolution leaves it whose
    result is then seen as rows of channels. No byte more, but a slower walk.
    """

    operator: ClassVar[str] = "norm"
    rows: int
    cols: int
    kind: str = "rmsnorm"
    dtype: str = "bfloat16"
    transposed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("rmsnorm", "layernorm"):
            raise ValueError(f"Norm.kind = {self.kind!r}: expected rmsnorm or layernorm")

    @property
    def parameters(self) -> Any:
        return self.cols * {"rmsnorm": 1, "layernorm": 2}[self.kind]

    @property
    def cuda_core_flops(self) -> Any:
        """rmsnorm: square, sum, scale, weight; layernorm: mean, centre, and shift besides."""
        return self.rows * self.cols * {"rmsnorm": 4, "layernorm": 7}[self.kind]

    @property
    def weight_bytes_read(self) -> Any:
        return self.parameters * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.rows * self.cols * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.cols * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Reads the input, its weight and the output's gradient; writes those of the first two."""
        gradient = self.rows * self.cols * item_bytes(self.dtype)
        name, twice = f"{self.kind}_backward", 2 * self.cuda_core_flops
        read, written = self.bytes_read + gradient, gradient + self.weight_bytes_read
        return (Other(name, read=read, written=written, arithmetic=twice, dtype=self.dtype),)


@dataclass(frozen=True)
class ChannelNorm(Operator):
    """A norm whose scale goes by channel: ``batchnorm`` by known statistics, or ``groupnorm``.

    ``elements`` of the feature map; ``vectors`` of one number a channel: scale and shift, and for
    ``batchnorm`` mean and variance.
    """

    operator: ClassVar[str] = "channel_norm"
    may_be_zero: ClassVar[tuple[str, ...]] = ("vectors",)
    elements: int
    channels: int
    kind: str = "batchnorm"
    dtype: str = "bfloat16"
    vectors: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("batchnorm", "groupnorm"):
            raise ValueError(f"ChannelNorm.kind = {self.kind!r}: expected batchnorm or groupnorm")

    @property
    def cuda_core_flops(self) -> Any:
        """batchnorm: centre, divide, scale, shift; groupnorm: what a layernorm does."""
        return self.elements * {"batchnorm": 4, "groupnorm": 7}[self.kind]

    @property
    def weight_bytes_read(self) -> Any:
        return self.vectors * self.channels * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.elements * item_bytes(self.dtype) + self.weight_bytes_read

    @property
    def bytes_written(self) -> Any:
        return self.elements * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Reads the input, its vectors and the output's gradient; writes those of the first two."""
        gradient = self.elements * item_bytes(self.dtype)
        name, twice = f"{self.kind}_backward", 2 * self.cuda_core_flops
        read, written = self.bytes_read + gradient, gradient + self.weight_bytes_read
        return (Other(name, read=read, written=written, arithmetic=twice, dtype=self.dtype),)


@dataclass(frozen=True)
class Softmax(Operator):
    """Softmax over each of ``rows`` rows of ``cols``; the result in ``out_dtype``."""

    operator: ClassVar[str] = "softmax"
    rows: int
    cols: int
    dtype: str = "bfloat16"
    out_dtype: str | None = None

    @property
    def cuda_core_flops(self) -> Any:
        """Maximum, subtract, exponential, sum, divide."""
        return 5 * self.rows * self.cols

    @property
    def bytes_read(self) -> Any:
        return self.rows * self.cols * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.cols * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """y * (dy - sum(y * dy)), from the result and its gradient."""
        elements, dtype = self.rows * self.cols, self.out_dtype or self.dtype
        return (Elementwise(elements, 2, flops_per_element=4, dtype=dtype, out_dtype=self.dtype),)


@dataclass(frozen=True)
class Reduction(Operator):
    """``cols`` numbers of each of ``rows`` to one (a sum, a mean, a maximum), or to ``outputs``."""

    operator: ClassVar[str] = "reduction"
    rows: int
    cols: int
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    outputs: int = 1

    @property
    def cuda_core_flops(self) -> Any:
        return self.rows * self.cols

    @property
    def bytes_read(self) -> Any:
        return self.rows * self.cols * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.outputs * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Each number's gradient from that of its sum; nothing of the input is read again."""
        elements, dtype = self.rows * self.cols, self.out_dtype or self.dtype
        return (Elementwise(elements, 0, 1, 1, dtype, self.rows, self.dtype),)


@dataclass(frozen=True)
class Elementwise(Operator):
    """A pointwise map of ``inputs`` tensors of ``elements`` to ``outputs`` tensors.

    ``broadcast``: elements, in all, of further inputs that are smaller than the output. The
    result is of ``out_dtype``: a comparison writes bool, a product with float32 writes float32.
    ``transposed``: one of the inputs lies column by column in memory and another row by row.
    """

    operator: ClassVar[str] = "elementwise"
    may_be_zero: ClassVar[tuple[str, ...]] = ("inputs", "broadcast")
    elements: int
    inputs: int = 1
    outputs: int = 1
    flops_per_element: int = 1
    dtype: str = "bfloat16"
    broadcast: int = 0
    out_dtype: str | None = None
    transposed: bool = False

    @property
    def cuda_core_flops(self) -> Any:
        return self.elements * self.flops_per_element

    @property
    def bytes_read(self) -> Any:
        return (self.elements * self.inputs + self.broadcast) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.elements * self.outputs * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Reads the inputs and the gradients of the outputs; writes a gradient for each input,
        with twice the FLOPs (the function's derivative, and its product)."""
        gradients = self.elements * self.outputs * item_bytes(self.out_dtype or self.dtype)
        return (
            Other(
                "elementwise_backward",
                read=self.bytes_read + gradients,
                written=self.bytes_read,
                arithmetic=2 * self.cuda_core_flops,
                dtype=self.dtype,
            ),
        )


@dataclass(frozen=True)
class Gather(Operator):
    """``rows`` rows of ``cols`` picked from a table by int64 index: an embedding, a selection."""

    operator: ClassVar[str] = "gather"
    rows: int
    cols: int
    dtype: str = "bfloat16"

    @property
    def bytes_read(self) -> Any:
        return self.rows * (self.cols * item_bytes(self.dtype) + item_bytes("int64"))

    @property
    def bytes_written(self) -> Any:
        return self.rows * self.cols * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """Each row's gradient is added to that of the row it was picked from."""
        read, adds = self.bytes_read + self.bytes_written, self.rows * self.cols
        written = self.bytes_written
        return (
            Other("scatter_add", read=read, written=written, arithmetic=adds, dtype=self.dtype),
        )


@dataclass(frozen=True)
class Copy(Operator):
    """``elements`` moved: contiguous, permuted, concatenated, padded, or cast to ``out_dtype``.

    ``out_elements``: elements written where they are not those read (zeros padded around them).
    """

    operator: ClassVar[str] = "copy"
    elements: int
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    out_elements: int | None = None

    @property
    def bytes_read(self) -> Any:
        return self.elements * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        written = self.elements if self.out_elements is None else self.out_elements
        return written * item_bytes(self.out_dtype or self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """The way back."""
        way_back = replace(self, dtype=self.out_dtype or self.dtype, out_dtype=self.dtype)
        if self.out_elements is None:
            return (way_back,)
        return (replace(way_back, elements=self.out_elements, out_elements=self.elements),)


@dataclass(frozen=True)
class Other(Operator):
    """An operator that no formula here describes, with the bytes that it was seen to touch."""

    operator: ClassVar[str] = "other"
    may_be_zero: ClassVar[tuple[str, ...]] = ("read", "written", "arithmetic")
    name: str
    read: float = 0
    written: float = 0
    arithmetic: int = 0
    dtype: str = "bfloat16"

    @property
    def cuda_core_flops(self) -> Any:
        return self.arithmetic

    @property
    def bytes_read(self) -> Any:
        return self.read

    @property
    def bytes_written(self) -> Any:
        return self.written


OPERATORS: dict[str, type[Operator]] = {
    cls.operator: cls
    for cls in (
        Matmul,
        GroupedMatmul,
        GroupedMatmulWeightGradient,
        MoeMlp,
        Attention,
        AttentionBackward,
        Conv2d,
        Convolution,
        Norm,
        ChannelNorm,
        Softmax,
        Reduction,
        Elementwise,
        Gather,
        Copy,
        Other,
    )
}
"""Every operator class by the name of its kind: the one way from a stored row to an operator."""


def grid(operator: type[Operator], **shape: Any) -> Any:
    """One operator whose numeric fields are ``int64`` arrays, broadcast against each other.

    The result has the same properties as a single operator, each an array of the common shape,
    flattened. It is not to be compared or hashed.

    Raises ``ValueError`` where a value is not positive or shapes do not broadcast.
    """
    numeric = {n: v for n, v in shape.items() if v is not None and not isinstance(v, str | bool)}
    arrays = np.broadcast_arrays(*(np.asarray(v) for v in numeric.values()))
    as_int = (a.astype(np.int64) if a.dtype.kind in "iub" else a for a in arrays)
    return operator(**{**shape, **dict(zip(numeric, (a.ravel() for a in as_int), strict=True))})


def is_grid(op: Operator) -> bool:
    """Whether ``op`` was built by :func:`grid`."""
    return any(isinstance(v, np.ndarray) for v in vars(op).values())


def grid_points(op: Operator) -> Iterator[Operator]:
    """The single operators of a grid, one by one, in order."""
    arrays = {n: v for n, v in vars(op).items() if isinstance(v, np.ndarray)}
    for values in zip(*arrays.values(), strict=True):
        yield replace(op, **{n: v.item() for n, v in zip(arrays, values, strict=True)})
