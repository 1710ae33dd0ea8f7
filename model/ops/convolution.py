"""Convolutions of two dimensions, and of any number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator, TensorCoreOperator
from model.ops.pointwise import bias_gradient


class _Convolution(TensorCoreOperator):
    """What follows from a convolution's counts: ``weights``, and positions of one feature map."""

    batch: int
    in_channels: int
    out_channels: int
    dtype: str
    bias: bool
    in_positions: Any
    out_positions: Any

    @property
    def weights(self) -> Any:
        raise NotImplementedError

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
        this: Any = self  # one of the dataclasses below
        plain = replace(this, bias=False)
        positions = self.batch * self.out_positions
        return (plain, plain, *bias_gradient(self, positions, self.out_channels, self.dtype))


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """[batch, in_channels, height, width] with square ``kernel``: sizes are those of the input.

    ``planar``: the map lies channel by channel, not place by place. It changes no byte, but some
    libraries move such a map to the other layout first. Of up to
    ``few_channels``, an image's, it is not told. ``one_way``: the library's kernel writes the
    result as the map lay, which is not moved back.
    """

    operator: ClassVar[str] = "conv2d"
    may_be_zero: ClassVar[tuple[str, ...]] = ("padding",)
    few_channels: ClassVar[int] = 4
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
    planar: bool = False
    one_way: bool = False

    @property
    def out_height(self) -> Any:
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> Any:
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def in_positions(self) -> Any:  # type: ignore[override]
        return self.height * self.width

    @property
    def out_positions(self) -> Any:  # type: ignore[override]
        return self.out_height * self.out_width

    @property
    def weights(self) -> Any:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.outputs * (self.in_channels // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Convolution(_Convolution):
    """A convolution of one, two or three dimensions of any form, or a transposed one.

    Its cost depends on counts only: ``in_positions`` and ``out_positions`` of one feature map,
    ``taps`` of the window. [batch, in_channels, *positions], weights of [out_channels,
    in_channels / groups, *window]; transposed, of [in_channels, out_channels / groups, *window].
    ``one_way`` as of :class:`Conv2d`.
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
    one_way: bool = False

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
