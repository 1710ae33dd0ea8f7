"""How fast is fast enough, what a card costs, and what a server is asked: the keys ``limit.*``,
``price.*`` and ``serve.*``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from calib.steps.settings.words import Part

A_TIME = "a time above 0 with its unit, one of s, ms, us, such as 20ms"
LENGTHS = "a whole number from 1 to 16,777,216, or a list of at most 100 of them"


class LimitRequest(Part):
    """The most that an output token and the first one may take [s]; None: nothing is asked."""

    tpot: float | None = Field(default=None, description=A_TIME)
    ttft: float | None = Field(default=None, description=A_TIME)

    @field_validator("tpot", "ttft", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        return seconds_of(value)


class PriceRequest(Part):
    """``per_hour``: of a card, in whatever currency."""

    per_hour: Annotated[float, Field(strict=True, gt=0, le=1e6)] | None = None

    @field_validator("per_hour", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and abs(value) < 2**53 else value


Length = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Lengths = Annotated[
    tuple[Length, ...],
    Field(min_length=1, max_length=100),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,)),
]


class ServeRequest(Part):
    """``isl``, ``osl``: tokens in and out, all with all. ``batches``: how many batches of a replica
    are tried, from 1 to ``most``. ``cache``: None: bfloat16. ``apart``:
    also with prompts on cards of their own."""

    isl: Lengths = Field(default=(1024,), description=LENGTHS)
    osl: Lengths = Field(default=(1024,), description=LENGTHS)
    cards: Annotated[int, Field(strict=True, ge=1, le=4096)] = 8
    batches: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100
    most: Annotated[int, Field(strict=True, ge=1, le=2**20)] = 4096
    cache: Literal["bfloat16", "fp8"] | None = None
    apart: Annotated[bool, Field(strict=True)] = False


def seconds_of(value: Any) -> Any:
    """ "20ms" -> 0.02; None stays. Raises ``ValueError`` for what is no time with a unit: a bare
    number would be seconds to one and milliseconds to another."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*(s|ms|us)\s*", str(value))
    scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
    try:
        seconds = float(found[1]) * scale[found[2]] if found else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{value!r}: expected {A_TIME}")
    return seconds
