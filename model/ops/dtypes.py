"""Bytes of one element, by dtype."""

from __future__ import annotations

ITEM_BYTES: dict[str, int | float] = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
    **dict.fromkeys(("float32", "tf32", "int32", "uint32", "qint32", "complex32"), 4),
    **dict.fromkeys(("bfloat16", "float16", "int16", "uint16", "bits16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("float8_e8m0fnu", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8", "quint4x2", "quint2x4"), 1),
    **dict.fromkeys(("bits8", "bits1x8", "bits2x4", "bits4x2"), 1),
    **dict.fromkeys(("int4", "uint4", "float4_e2m1fn"), 0.5),
}
"""Bytes of one element by dtype name. ``tf32`` is float32 in memory, multiplied on tensor cores;
``float4_e2m1fn_x2`` is torch's pair of ``float4_e2m1fn`` in one byte."""


def item_bytes(dtype: str) -> int | float:
    """Bytes of one element of ``dtype``. Raises ``ValueError`` for a name that is not known."""
    if dtype not in ITEM_BYTES:
        raise ValueError(f"dtype = {dtype!r}: expected one of {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[dtype]


def is_floating(dtype: str) -> bool:
    """Whether a gradient can flow through tensors of ``dtype``."""
    return "float" in dtype or "complex" in dtype or dtype == "tf32"
