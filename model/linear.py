"""The small layers that every model is made of: linear maps, convolutions, norms, activations.

Each layer takes the number of rows it works on (tokens of all sequences of a batch) and yields
the operators that PyTorch dispatches for it when run eagerly; views cost nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Call, Child, Layer, Live, Step, call, free
from model.ops import Conv2d, Copy, Elementwise, Gather, Matmul, Norm, item_bytes

SIGMOID_FLOPS = 4
"""Negate, exponential, add, divide: a transcendental function counts as one operation."""
ACTIVATION_FLOPS = {"silu": SIGMOID_FLOPS + 1, "gelu": 5, "relu": 1}
"""Elementary operations of one element; gelu: divide, erf, add and two products."""


def cast(elements: Any, dtype: str, out_dtype: str) -> Iterator[Call]:
    """The copy that changes a tensor's type, or nothing where it already has it."""
    if dtype != out_dtype:
        yield call(Copy(elements, dtype, out_dtype))


def quantised(elements: Any, dtype: str, weight_dtype: str | None) -> Iterator[Call]:
    """The kernel that makes activations as narrow as weights of float8, which are multiplied as
    they are; weights of other types are widened on the way, and activations stay as they are."""
    if multiplies_narrow(weight_dtype):
        yield call(Elementwise(elements, dtype=dtype, out_dtype=weight_dtype))


def multiplies_narrow(weight_dtype: str | None) -> bool:
    return weight_dtype is not None and weight_dtype.startswith("float8_e")


def product_dtypes(dtype: str, weight_dtype: str | None) -> dict[str, str | None]:
    """The dtype fields of a product of activations of ``dtype``."""
    if multiplies_narrow(weight_dtype):
        return {"dtype": weight_dtype, "out_dtype": dtype}
    return {"dtype": dtype, "weight_dtype": weight_dtype}


def add(elements: Any, dtype: str, transposed: bool = False, axes: int = 1) -> Call:
    """A residual connection: the sum of two tensors of one shape."""
    return call(Elementwise(elements, 2, dtype=dtype, transposed=transposed, axes=axes))


@dataclass(frozen=True)
class Linear(Layer):
    """``rows`` vectors of ``inputs`` times a weight matrix [outputs, inputs], plus a bias.

    ``weight_dtype``: the type the matrix is stored in, if not ``dtype``. Of float8 the product is
    one of float8, and the vectors are made so first; int8 and int4 are widened within the product.
    """

    mirrors = "torch.nn.Linear"
    rows: int
    inputs: int
    outputs: int
    bias: bool = False
    dtype: str = "bfloat16"
    weight_dtype: str | None = None

    def forward(self) -> Iterator[Step]:
        elements = self.rows * self.inputs
        made = list(quantised(elements, self.dtype, self.weight_dtype))
        yield from made
        dtypes: Any = product_dtypes(self.dtype, self.weight_dtype)
        yield call(Matmul(m=self.rows, n=self.outputs, k=self.inputs, bias=self.bias, **dtypes))
        if made:
            yield free(elements, str(self.weight_dtype))

    def parameters(self) -> Any:
        return self.inputs * self.outputs + +self.bias * self.outputs


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution over [batch, in_channels, side, side] with a square kernel.

    ``first``: its input is the image, which needs no gradient.
    """

    mirrors = "torch.nn.Conv2d"
    batch: int
    in_channels: int
    out_channels: int
    side: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = False
    dtype: str = "bfloat16"
    first: bool = False

    @property
    def op(self) -> Conv2d:
        return Conv2d(
            batch=self.batch,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            height=self.side,
            width=self.side,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            bias=self.bias,
            dtype=self.dtype,
        )

    def forward(self) -> Iterator[Step]:
        yield call(self.op, gradient="weights" if self.first else "all")

    def parameters(self) -> Any:
        return self.op.weights + +self.bias * self.out_channels


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Mean and variance of each of ``rows`` rows of ``cols``, then scale and shift: one kernel.

    ``transposed``: as in :class:`model.ops.Norm`.
    """

    mirrors = "torch.nn.LayerNorm"
    rows: int
    cols: int
    dtype: str = "bfloat16"
    transposed: bool = False

    def forward(self) -> Iterator[Step]:
        # Mean and deviation of each row, kept for a gradient that nobody asks for.
        statistics = 2 * self.rows * item_bytes(self.dtype)
        yield Live(statistics)
        yield call(Norm(self.rows, self.cols, "layernorm", self.dtype, self.transposed))
        yield Live(-statistics)

    def parameters(self) -> Any:
        return 2 * self.cols


@dataclass(frozen=True)
class RMSNorm(Layer):
    """Root mean square of each of ``rows`` rows of ``cols``, then scale.

    Written there as pow, mean, add, rsqrt and two products in float32, with a cast on either side
    where the model is not float32 itself: 8 launches, or 6.
    """

    mirrors = "UnlimitedOcrTextRMSNorm"
    rows: int
    cols: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        launches = 6 if self.dtype == "float32" else 8
        # At worst the float32 input and its square, or that and the normalised rows, are alive.
        elements = self.rows * self.cols
        inside = elements * (2 * item_bytes("float32") - item_bytes(self.dtype))
        yield Live(inside)
        yield call(Norm(self.rows, self.cols, kind="rmsnorm", dtype=self.dtype), launches=launches)
        yield Live(-inside)

    def parameters(self) -> Any:
        return self.cols


@dataclass(frozen=True)
class Activation(Layer):
    """A pointwise function of ``elements`` numbers that is one kernel: ``silu``, ``gelu``, ...

    ``axes``: of what it reads, as in :class:`model.ops.Elementwise`.
    """

    mirrors = "SiLUActivation, GELUActivation"
    elements: int
    kind: str
    dtype: str = "bfloat16"
    axes: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATION_FLOPS:
            known = ", ".join(ACTIVATION_FLOPS)
            raise ValueError(f"Activation.kind = {self.kind!r}: expected one of {known}")

    def forward(self) -> Iterator[Step]:
        flops = ACTIVATION_FLOPS[self.kind]
        made = Elementwise(self.elements, flops_per_element=flops, dtype=self.dtype)
        yield call(replace(made, axes=self.axes))


@dataclass(frozen=True)
class QuickGelu(Layer):
    """x * sigmoid(1.702 x), written there as three operators."""

    mirrors = "QuickGELUActivation"
    elements: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        yield call(Elementwise(self.elements, dtype=self.dtype))
        yield call(Elementwise(self.elements, flops_per_element=SIGMOID_FLOPS, dtype=self.dtype))
        yield free(self.elements, self.dtype)
        yield call(Elementwise(self.elements, inputs=2, dtype=self.dtype))
        yield free(self.elements, self.dtype)


@dataclass(frozen=True)
class Embedding(Layer):
    """``rows`` rows looked up in a table of [vocabulary, cols]."""

    mirrors = "torch.nn.Embedding"
    rows: int
    vocabulary: int
    cols: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        yield call(Gather(self.rows, self.cols, dtype=self.dtype))

    def parameters(self) -> Any:
        return self.vocabulary * self.cols


@dataclass(frozen=True)
class Mlp(Layer):
    """Two linear maps with biases and an activation between them, under the names they have there.

    ``names``: of the first map, the activation and the second map.
    """

    mirrors = "UnlimitedOcrSamMLPBlock, UnlimitedOcrMLP"
    rows: int
    hidden: int
    intermediate: int
    activation: str = "gelu"
    names: tuple[str, str, str] = ("lin1", "act", "lin2")
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        up, act, down = self.names
        yield Child(up, Linear(self.rows, self.hidden, self.intermediate, True, self.dtype))
        yield Child(act, self.act())
        yield free(self.rows * self.intermediate, self.dtype)
        yield Child(down, Linear(self.rows, self.intermediate, self.hidden, True, self.dtype))
        yield free(self.rows * self.intermediate, self.dtype)

    def act(self) -> Layer:
        elements = self.rows * self.intermediate
        if self.activation == "quick_gelu":
            return QuickGelu(elements, self.dtype)
        return Activation(elements, self.activation, self.dtype)


@dataclass(frozen=True)
class SwiGlu(Layer):
    """down(silu(gate(x)) * up(x)): three products."""

    mirrors = "UnlimitedOcrTextMLP, LlamaMLP"
    rows: int
    hidden: int
    intermediate: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None

    def forward(self) -> Iterator[Step]:
        elements = self.rows * self.intermediate
        widen = self.linear(self.hidden, self.intermediate)
        yield Child("gate_proj", widen)
        yield Child("act_fn", Activation(elements, "silu", self.dtype))
        yield free(elements, self.dtype)
        yield Child("up_proj", widen)
        yield call(Elementwise(elements, inputs=2, dtype=self.dtype))
        yield free(2 * elements, self.dtype)
        yield Child("down_proj", self.linear(self.intermediate, self.hidden))
        yield free(elements, self.dtype)

    def linear(self, inputs: Any, outputs: Any) -> Linear:
        return Linear(self.rows, inputs, outputs, dtype=self.dtype, weight_dtype=self.weight_dtype)
