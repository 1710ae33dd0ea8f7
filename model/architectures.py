"""The architectures that a configuration can name, and how one is built from its dimensions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from model.causal_lm import Llama, Qwen3Moe
from model.deepseek_ocr import DeepseekOCRModel
from model.deepseek_ocr_2 import DeepseekOCR2Model
from model.deepseek_ocr_vendor import VendorDeepseekOCR
from model.vit import Vit

ARCHITECTURES: dict[str, type] = {
    "deepseek_ocr": DeepseekOCRModel,
    "deepseek_ocr_2": DeepseekOCR2Model,
    "deepseek_ocr_vendor": VendorDeepseekOCR,
    "llama": Llama,
    "qwen3_moe": Qwen3Moe,
    "vit": Vit,
}


def build(architecture: str, **dimensions: Any) -> Any:
    """The model of ``architecture`` with the given ``dimensions``, published ones elsewhere.

    Raises ``ValueError`` for an architecture or a dimension that does not exist.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ValueError(f"architecture = {architecture!r}: expected one of {known}")
    cls = ARCHITECTURES[architecture]
    known_dimensions = [field.name for field in fields(cls)]
    for name in dimensions:
        if name not in known_dimensions:
            expected = ", ".join(known_dimensions)
            raise ValueError(f"{architecture} has no dimension {name!r}: expected {expected}")
    return cls(**dimensions)
