"""Bytes of one element, by dtype."""

from __future__ import annotations

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
