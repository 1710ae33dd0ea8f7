"""What all operators share: a shape, counts of work and of bytes, a gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

import numpy as np

from model.ops.dtypes import item_bytes


def _below(value: Any, least: int) -> bool:
    """Whether a number, or one of an array of them, is less; a symbol is not."""
    if isinstance(value, _NUMBERS):
        return value < least
    return isinstance(value, _ARRAYS) and bool(np.any(value < least))


_NUMBERS, _ARRAYS = (int, float), (np.ndarray, np.number)
"""Made once: a union is made anew each time that it is written out, and operators are many."""


@cache
def _sized(cls: type[Operator]) -> tuple[str, ...]:
    """The fields of an operator that may hold a size: all but its flags."""
    return tuple(f.name for f in fields(cls) if not isinstance(f.default, bool))


@cache
def _least(cls: type[Operator]) -> tuple[tuple[str, int], ...]:
    """The smallest that each size may be."""
    sized = _sized(cls)  # type: ignore[arg-type]
    return tuple((name, 0 if name in cls.may_be_zero else 1) for name in sized)


@cache
def _dtypes(cls: type[Operator]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.name.endswith("dtype"))


@dataclass(frozen=True)
class Operator:
    """What all operators share. Subclasses are frozen dataclasses of scalars with formulas."""

    operator: ClassVar[str]
    """The kind of operator, as it stands in the ``kind`` column of every table."""
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        values = vars(self)
        for name, least in _least(type(self)):  # type: ignore[arg-type]
            if _below(values[name], least):
                kind = "a positive number" if least else "zero or a positive number"
                raise ValueError(f"{type(self).__name__}.{name} = {values[name]}: expected {kind}")
        for name in _dtypes(type(self)):  # type: ignore[arg-type]
            if values[name] is not None:
                item_bytes(values[name])

    def shape(self) -> dict[str, Any]:
        """The numeric fields by name (no dtypes, flags or fields left at None)."""
        values = vars(self)
        pairs = ((name, values[name]) for name in _sized(type(self)))  # type: ignore[arg-type]
        return {n: v for n, v in pairs if v is not None and not isinstance(v, str)}

    @property
    def tensor_core_flops(self) -> Any:
        return 0

    @property
    def cuda_core_flops(self) -> Any:
        return 0

    @property
    def flops(self) -> Any:
        return self.cuda_core_flops

    @property
    def min_flops(self) -> Any:
        return self.flops

    @property
    def weight_bytes_read(self) -> Any:
        """The part of ``bytes_read`` that is parameters: found in DRAM at every step of a model."""
        return 0

    @property
    def link_bytes(self) -> Any:
        """What one card sends over the link to others."""
        return 0

    @property
    def bytes_read(self) -> Any:
        raise NotImplementedError

    @property
    def bytes_written(self) -> Any:
        raise NotImplementedError

    @property
    def bytes(self) -> Any:
        return self.bytes_read + self.bytes_written

    def backward(self) -> tuple[Operator, ...]:
        """The operators of the gradient. By default: as many bytes and FLOPs again as forward."""
        return (self,)


class TensorCoreOperator(Operator):
    """An operator whose work is matrix products: ``flops`` is what torch's counter counts."""

    @property
    def flops(self) -> Any:
        return self.tensor_core_flops


class SumsGiven:
    """Bytes and arithmetic of an operator that no formula describes: what it was told."""

    read: float
    written: float
    arithmetic: int

    @property
    def cuda_core_flops(self) -> Any:
        return self.arithmetic

    @property
    def bytes_read(self) -> Any:
        return self.read

    @property
    def bytes_written(self) -> Any:
        return self.written
