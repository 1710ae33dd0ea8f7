"""Types and ranges of a model's dimensions, read off the class of its architecture."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, create_model

from calib.steps.settings.words import Part
from model.architectures import class_of
from model.ops import ITEM_BYTES, is_floating

MOST = {"layers": 256, "experts": 4096, "heads": 4096, "vocabulary": 2**24, "positions": 2**27}
"""The largest of a dimension, by the end of its name. Each layer is many rows of every table."""
MOST_ELSE = 2**20
LONGEST = 64
"""Entries of a dimension that is a list."""


@cache
def dimensions_of(architecture: str) -> type[Part]:
    """The dimensions of a model, each of which may be left out: the class knows its default."""
    cls = class_of(architecture)
    zero = getattr(cls, "may_be_zero", ())
    hints = get_type_hints(cls)
    entries: dict[str, Any] = {
        entry.name: _field(entry.name, hints[entry.name], 0 if entry.name in zero else 1)
        for entry in fields(cls)
    }
    made: type[Part] = create_model("Dimensions", __base__=Part, **entries)
    return made


def _field(name: str, hint: Any, least: int) -> tuple[Any, Any]:
    """A field's type with its range, and what is accepted in words."""
    if name.endswith("dtype"):
        floating = hint is str  # tensors that are computed with; weights may be stored as integers
        known: Any = Literal[tuple(d for d in ITEM_BYTES if is_floating(d) or not floating)]
        return (known if floating else known | None), "bfloat16"
    most = next((most for end, most in MOST.items() if name.endswith(end)), MOST_ELSE)
    number: Any = Annotated[int, Field(strict=True, ge=least, le=most)]
    if hint is int:
        return number, least
    if hint == int | None:
        return number | None, None
    pair = "two" if hint == tuple[int, int] else f"at most {LONGEST}"
    words = f"a list of {pair} whole numbers from {least} to {most:,}"
    if hint == tuple[int, int]:
        return tuple[number, number], Field(default=(least, least), description=words)
    some = Annotated[tuple[number, ...], Field(max_length=LONGEST)]
    return some, Field(default=(), description=words)
