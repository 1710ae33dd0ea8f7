"""How a release stores one weight matrix [n, k] that it quantised, to the byte.

    bytes = n k bits / 8 + blocks (scale + zero point) + what there is once a row, column or matrix

A block is what shares a scale: ``rows`` x ``cols`` of the matrix, of 0 all of them. Layouts are
those of the tensors that files hold, whose names the functions say: of compressed-tensors'
compressors, AutoAWQ's and GPTQ's linear layers, bitsandbytes' ``QuantState.as_dict``, modelopt's
exports, and the published files of gpt-oss and DeepSeek-V3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from model.ops import item_bytes


@dataclass(frozen=True)
class Format:
    """``weight``: type of a number in memory. ``activation``: what it is multiplied with where a
    card has units for that, of compute capability ``needs`` at least; None: it is widened to the
    type of the activations. ``unpacks``: a kernel of its own widens the whole matrix where there is
    more than one row. ``scale``: bytes of a block's; ``zero_bits``: of a block's zero point.
    ``by_row``, ``by_col``, ``once``: bytes for each row, column, and matrix."""

    weight: str
    activation: str | None = None
    needs: tuple[int, int] = (0, 0)
    rows: int = 1
    cols: int = 0
    scale: float = 0.0
    zero_bits: float = 0.0
    by_row: float = 0.0
    by_col: float = 0.0
    once: float = 0.0
    unpacks: bool = False

    def numbers_bytes(self, n: int, k: int) -> int:
        """Of the matrix alone, in whole bytes."""
        return ceil(n * k * item_bytes(self.weight))

    def beside_bytes(self, n: int, k: int) -> float:
        """Of scales, zero points and all else."""
        blocks = ceil(n / (self.rows or n)) * ceil(k / (self.cols or k))
        of_blocks = blocks * (self.scale + self.zero_bits / 8)
        return of_blocks + n * self.by_row + k * self.by_col + self.once

    def stored_bytes(self, n: int, k: int) -> float:
        return self.numbers_bytes(n, k) + self.beside_bytes(n, k)

    def multiplies_narrow(self, card: str | None) -> bool:
        """Whether ``card``, a compute capability, has units for both factors as they are."""
        if self.activation is None or card is None:
            return False
        major, minor = card.split(".")
        return (int(major), int(minor)) >= self.needs

    def words(self) -> str:
        """ "float8_e4m3fn, a scale for 128 x 128"."""
        block = " x ".join(str(side or "all") for side in (self.rows, self.cols))
        return f"{self.weight}, a scale for {block}" if self.scale else self.weight


FLOAT8, FLOAT4, INT8, INT4 = "float8_e4m3fn", "float4_e2m1fn", "int8", "int4"
WITH_FLOAT8, WITH_INT8, WITH_FLOAT4 = (8, 9), (7, 5), (10, 0)
"""Compute capability from which matrix units multiply them (CUDA C++ Programming Guide)."""


def float8(rows: int, cols: int, scale: float, static: bool = False, once: float = 0.0) -> Format:
    """``weight``, ``weight_scale(_inv)``, and ``input_scale`` where activations' is static."""
    inputs = scale if static else 0.0
    return Format(FLOAT8, FLOAT8, WITH_FLOAT8, rows, cols, scale, once=once + inputs)


def awq(bits: int, group: int, zero: bool = True) -> Format:
    """``qweight``, ``qzeros`` in int32, ``scales`` in float16."""
    return Format(f"int{bits}", cols=group, scale=2, zero_bits=bits if zero else 0)


def gptq(bits: int, group: int) -> Format:
    """As AWQ's, and ``g_idx`` in int32; zero points also where all of them are the same."""
    return Format(f"int{bits}", cols=group, scale=2, zero_bits=bits, by_col=4)


def mxfp4() -> Format:
    """``blocks`` and ``scales``: a byte, a power of two, for 32."""
    return Format(FLOAT4, cols=32, scale=1)


def nvfp4(both: bool = True) -> Format:
    """``weight``, ``weight_scale`` in float8 for 16, ``weight_scale_2`` and, where activations are
    quantised too, ``input_scale`` in float32."""
    if not both:
        return Format(FLOAT4, cols=16, scale=1, once=4)
    return Format(FLOAT4, FLOAT4, WITH_FLOAT4, cols=16, scale=1, once=8)


NESTED_BLOCK = 256
QUANT_MAP = 4 * 16
"""Bytes of the sixteen values of a four-bit type, stored with every matrix."""
QUANT_STATE = 86
"""Bytes of the JSON beside it; they differ by a few with the digits of a shape."""


def bitsandbytes4(nested: bool, block: int = 64) -> Format:
    """``weight`` as bytes of two; ``absmax`` in float32 for 64, or in a byte with a float32 for 256
    of those (``nested_absmax``) and the 256 values of that byte. A block runs on over rows."""
    if not nested:
        return Format(INT4, cols=block, scale=4, once=QUANT_MAP + QUANT_STATE, unpacks=True)
    once = QUANT_MAP + QUANT_STATE + 4 * 256
    return Format(INT4, cols=block, scale=1 + 4 / NESTED_BLOCK, once=once, unpacks=True)


def bitsandbytes8() -> Format:
    """``weight``, ``SCB`` in float32 for a row, ``weight_format``."""
    return Format(INT8, INT8, WITH_INT8, scale=4, once=1)


def packed(
    bits: int, rows: int, cols: int, scale: float, zero: bool = False, order: bool = False
) -> Format:
    """compressed-tensors: ``weight_packed``, ``weight_scale``, ``weight_zero_point``,
    ``weight_g_idx`` and ``weight_shape`` of two int64."""
    index = 4.0 if order else 0.0
    zeros = bits if zero else 0
    return Format(f"int{bits}", None, (0, 0), rows, cols, scale, zeros, by_col=index, once=16)
