"""The architectures that a configuration can name, and how one is built from its dimensions."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

ARCHITECTURES = {
    "deepseek_ocr": "model.deepseek_ocr.DeepseekOCRModel",
    "deepseek_ocr_2": "model.deepseek_ocr_2.DeepseekOCR2Model",
    "deepseek_ocr_vendor": "model.deepseek_ocr_vendor.VendorDeepseekOCR",
    "llama": "model.causal_lm.Llama",
    "qwen3_moe": "model.causal_lm.Qwen3Moe",
    "vit": "model.vit.Vit",
}
"""Name -> module and class; only the one that is asked for is loaded."""


def class_of(architecture: str) -> type[Any]:
    """The class of ``architecture``. Raises ``ValueError`` for one that does not exist."""
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ValueError(f"architecture = {architecture!r}: expected one of {known}")
    module, _, name = ARCHITECTURES[architecture].rpartition(".")
    found: type[Any] = getattr(import_module(module), name)
    return found


def build(architecture: str, **dimensions: Any) -> Any:
    """The model of ``architecture`` with the given ``dimensions``, published ones elsewhere.

    Raises ``ValueError`` for an architecture or a dimension that does not exist.
    """
    cls = class_of(architecture)
    known_dimensions = [field.name for field in fields(cls)]
    for dimension in dimensions:
        if dimension not in known_dimensions:
            expected = ", ".join(known_dimensions)
            raise ValueError(f"{architecture} has no dimension {dimension!r}: expected {expected}")
    return cls(**dimensions)
