"""What normalises rows or channels: norms and softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator
from model.ops.pointwise import Elementwise, Other


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
        return (Other(name, read, written, twice, self.dtype, walked=self.rows),)


@dataclass(frozen=True)
class ChannelNorm(Operator):
    """A norm whose scale goes by channel: ``batchnorm`` by known statistics, or ``groupnorm``.

    ``elements`` of the feature map; ``vectors`` of one number a channel: scale and shift, and for
    ``batchnorm`` mean and variance. ``planes``: channels of all maps of a batch, where each lies by
    itself; None: of one map, or of maps that lie place by place. It changes no byte, but a plane is
    the work of a block.
    """

    operator: ClassVar[str] = "channel_norm"
    may_be_zero: ClassVar[tuple[str, ...]] = ("vectors",)
    elements: int
    channels: int
    kind: str = "batchnorm"
    dtype: str = "bfloat16"
    vectors: int = 4
    planes: int | None = None

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
        walked = self.rows
        return (Elementwise(elements, 2, 1, 4, dtype, out_dtype=self.dtype, walked=walked),)
