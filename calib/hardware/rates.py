"""At which rate a device multiplies a dtype that its datasheet has no line for.

A card's file states the dtypes that it has units for. All others take the way that a library takes:
a variant of a narrow type runs at the rate of the type, narrow factors that have no units are
unpacked to a wider type first, and a complex product is four real ones.
"""

from __future__ import annotations

from collections.abc import Mapping

LIKE = {
    **dict.fromkeys(("float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), "float8_e4m3fn"),
    **dict.fromkeys(("uint8", "qint8", "quint8", "int4", "uint4"), "int8"),
    "float4_e2m1fn_x2": "float4_e2m1fn",
    **dict.fromkeys(("int16", "int32", "int64"), "float32"),
}
"""Types of other names that the same units multiply; wider integers have no matrix units."""
UNPACKED = {
    "float4_e2m1fn": ("float8_e4m3fn", "bfloat16", "float16", "float32"),
    "float8_e4m3fn": ("bfloat16", "float16", "float32"),
    "int8": ("bfloat16", "float16", "float32"),
}
"""What a narrow type is multiplied as on a device that has no units for it: the first it has."""
COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
PRODUCTS_OF_COMPLEX = 4
"""Real multiply-adds in a complex one, which torch's counter counts as one."""

FLOAT64 = {
    **dict.fromkeys(("6.0", "7.0", "10.0"), 1 / 2),
    **dict.fromkeys(("6.1", "7.5"), 1 / 32),
    **dict.fromkeys(("8.0", "9.0"), 1.0),
    **dict.fromkeys(("8.6", "8.9", "10.3", "12.0"), 1 / 64),
}
"""Rate of float64 over that of float32 outside the matrix units, by compute capability: the
throughput of instructions in the CUDA C++ Programming Guide; of 8.0 and 9.0 that of the matrix
units, by the datasheets of the A100 and H100. Cards for export may have less."""
FLOAT64_OF_CPU = 1 / 2
"""A vector holds half as many."""

_INSTRUCTIONS = {"8": "mma", "12": "mma", "9": "wgmma", "10": "tcgen05"}
"""Major compute capability -> by which instruction its matrix units multiply: a warp's own, a group
of four warps', or one that works on a memory of its own (PTX ISA)."""


def instruction(compute_capability: str | None) -> str | None:
    """By which a card multiplies narrow floats; None of older cards, and of what is no card."""
    return _INSTRUCTIONS.get((compute_capability or "").split(".")[0])


def rate_of(
    dtype: str, peaks: Mapping[str, float], compute_capability: str | None, plain: float
) -> float | None:
    """FLOP/s of products of ``dtype``; None where the device has no way to multiply it.

    ``peaks``: by dtype, those that are stated; ``plain``: float32 outside the matrix units.
    """
    if dtype in peaks:
        return peaks[dtype]
    if dtype in COMPLEX:
        whole = rate_of(COMPLEX[dtype], peaks, compute_capability, plain)
        return whole and whole / PRODUCTS_OF_COMPLEX
    if dtype == "float64":
        share = FLOAT64.get(compute_capability) if compute_capability else FLOAT64_OF_CPU
        return share and plain * share
    like = LIKE.get(dtype, dtype)
    ways = (like, *UNPACKED.get(like, ()))
    return next((peaks[name] for name in ways if name in peaks), None)


_REFUSED = ("float8_e4m3fn", "float4_e2m1fn")
"""Narrow types that torch multiplies on units of theirs alone (``torch._scaled_mm``): elsewhere it
raises."""


def refuses(dtype: str, peaks: Mapping[str, float], compute_capability: str | None) -> bool:
    """Whether torch multiplies ``dtype`` on other cards, and on this one not."""
    like = LIKE.get(dtype, dtype)
    return compute_capability is not None and like in _REFUSED and like not in peaks
