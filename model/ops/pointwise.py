"""What moves bytes and computes little: reductions, pointwise arithmetic, gathers, copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator, SumsGiven


@dataclass(frozen=True)
class Reduction(Operator):
    """``cols`` numbers of each of ``rows`` to one (a sum, a mean, a maximum), or to ``outputs``.

    ``alone``: a row has one block of threads, however long it is and however few they are: the
    moments of a channel. No byte more.
    """

    operator: ClassVar[str] = "reduction"
    rows: int
    cols: int
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    outputs: int = 1
    alone: bool = False

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
    ``axes``: 1 where all tensors are walked as one run of memory; else the dimensions that are left
    when neighbours are merged wherever all tensors allow it, at least 2. Each of them is a division
    for every element that is read or written.
    ``walked``: rows of which each is read for a sum first and again for the result (the gradient of
    a softmax); 0: none. No byte more, as long as a cache holds them.
    """

    operator: ClassVar[str] = "elementwise"
    may_be_zero: ClassVar[tuple[str, ...]] = ("inputs", "broadcast", "walked")
    elements: int
    inputs: int = 1
    outputs: int = 1
    flops_per_element: int = 1
    dtype: str = "bfloat16"
    broadcast: int = 0
    out_dtype: str | None = None
    transposed: bool = False
    axes: int = 1
    walked: int = 0

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
    ``axes``, ``transposed``: as in :class:`Elementwise`, of what is read and what is written.
    """

    operator: ClassVar[str] = "copy"
    elements: int
    dtype: str = "bfloat16"
    out_dtype: str | None = None
    out_elements: int | None = None
    transposed: bool = False
    axes: int = 1

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


POOLS = (
    *("max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
)
"""Names of ``Other`` that slide a window: ``arithmetic`` counts its places, of all results."""
REST = "rest"
"""Name of bytes that belong to the operator before them and are moved by its launch."""


@dataclass(frozen=True)
class Other(SumsGiven, Operator):
    """An operator that no formula here describes, with the bytes that it was seen to touch.

    ``unknown``: nobody has said that these bytes and this arithmetic are all of its work, so that
    whatever it is a part of costs at least so much. ``walked``: as in :class:`Elementwise`.
    """

    operator: ClassVar[str] = "other"
    may_be_zero: ClassVar[tuple[str, ...]] = ("read", "written", "arithmetic", "walked")
    name: str
    read: float = 0
    written: float = 0
    arithmetic: int = 0
    dtype: str = "bfloat16"
    unknown: bool = False
    walked: int = 0


def bias_gradient(op: Operator, rows: Any, cols: Any, dtype: str) -> tuple[Operator, ...]:
    """Where ``op`` has a bias: the sum of the output's gradient over its rows."""
    if not getattr(op, "bias", False):
        return ()
    return (Reduction(cols, rows, dtype=dtype),)
