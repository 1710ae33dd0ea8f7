"""What a profiler wrote down of a call, as what the dispatcher was asked to do.

The call is made once more, with tensors that have no contents, and the recorder listens: what a
trace shows becomes the same operators as what a model runs. The profiler writes all arguments of
the schema in order: of a tensor its sizes, strides and type, of anything else its value as text,
and nothing of what it does not know, such as None or a text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from calib.trace.recorder import Recorder
from calib.trace.rules.rows import Row, decomposes
from calib.trace.rules.table import operators_of

TYPES = {
    **{"float": torch.float32, "double": torch.float64, "bool": torch.bool},
    **{"c10::Half": torch.float16, "c10::BFloat16": torch.bfloat16},
    **{"long int": torch.int64, "long": torch.int64, "int": torch.int32},
    **{"short int": torch.int16, "signed char": torch.int8, "unsigned char": torch.uint8},
    **{"c10::Float8_e4m3fn": torch.float8_e4m3fn, "c10::Float8_e5m2": torch.float8_e5m2},
}
"""Types of tensors as the profiler calls them."""
NUMBERS = {
    **{0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64},
    **{5: torch.float16, 6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16},
}
"""Types of tensors by their numbers (c10/core/ScalarType.h), as an argument that is one is written
down."""
NUMBERS_OF_PYTHON = {"double": 1.0, "long int": 1}
"""Tensors without a dimension are mostly numbers that a model's code adds or multiplies by; the
profiler does not tell them from others, and writes down no value."""
MOST_ARGUMENTS = 40
_ATEN = re.compile(r"aten::(\w+)")


class Unknown(Exception):
    """An argument that is not written down, or not as one of its kind."""


@dataclass(frozen=True)
class Called:
    """A call: ``name`` as "aten::addmm"; of each argument its sizes, strides (of a list of tensors
    those of each), type and value. ``strides`` and ``inputs`` may be missing altogether: then
    tensors are dense, and values not known."""

    name: str
    dims: tuple[Any, ...]
    types: tuple[Any, ...]
    strides: tuple[Any, ...] = ()
    inputs: tuple[Any, ...] = ()

    def without(self, left_out: Sequence[bool]) -> Called:
        """The call without some of its arguments."""
        parts = (self.dims, self.types, self.strides, self.inputs)
        kept = (
            tuple(v for v, out in zip(part, left_out, strict=True) if not out)
            if len(part) == len(left_out)
            else ()
            for part in parts
        )
        return Called(self.name, *kept)

    @property
    def arguments(self) -> list[tuple[Any, Any, Any, Any]]:
        """(sizes, type, strides or None, value or "")."""
        count = len(self.types)
        known = len(self.dims) == count
        strides = self.strides if len(self.strides) == count else (None,) * count
        inputs = self.inputs if len(self.inputs) == count else ("",) * count
        return list(zip(self.dims, self.types, strides, inputs, strict=True)) if known else []


@lru_cache(maxsize=65536)
def rows_of(called: Called) -> tuple[Row, ...]:
    """What the dispatcher sees of ``called``. Nothing where it is not torch's own, where a trace
    shows what it is made of, or where too little is written down to make the call again."""
    if not 0 < len(called.arguments) <= MOST_ARGUMENTS:
        return ()
    for func in _overloads(called.name):
        results = [a.is_out for a in func._schema.arguments]
        if any(results):  # what a result is written to is none of what is read
            if len(results) == len(called.arguments):
                return rows_of(called.without(results))
            continue
        try:
            arguments = _arguments(func, called)
        except Unknown:
            continue
        if decomposes(func):
            return ()
        rows = _heard(func, *arguments)
        if rows:
            return rows
    return ()


def _overloads(name: str) -> Iterator[Any]:
    matched = _ATEN.fullmatch(name)
    packet = getattr(torch.ops.aten, matched[1], None) if matched else None
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return
    # The one that works on tensors before those that take a number in place of one.
    for overload in sorted(
        packet.overloads(), key=lambda o: (o.startswith("out"), "Scalar" in o, o)
    ):
        suffix = "" if overload == "default" else f".{overload}"
        if torch._C._dispatch_has_kernel(name + suffix):
            yield getattr(packet, overload)


def _arguments(func: Any, called: Called) -> tuple[list[Any], dict[str, Any]]:
    schema = func._schema.arguments
    if len(schema) != len(called.arguments):
        raise Unknown
    plain, named = [], {}
    for argument, written in zip(schema, called.arguments, strict=True):
        value = _argument(argument, *written)
        if argument.kwarg_only:
            named[argument.name] = value
        else:
            plain.append(value)
    return plain, named


def _argument(argument: Any, sizes: Any, kind: Any, strides: Any, text: Any) -> Any:
    wanted = str(argument.type)
    if "List[Tensor]" in wanted or "List[Optional[Tensor]]" in wanted:
        return _tensors(sizes, kind, strides)
    if argument.name == "other" and not sizes and kind in NUMBERS_OF_PYTHON:
        return NUMBERS_OF_PYTHON[kind]
    if "Tensor" in wanted and kind in TYPES:
        return _tensor(sizes, TYPES[kind], strides)
    if "Tensor" in wanted and (kind or not wanted.startswith("Optional")):
        raise Unknown
    if text in ("", None):
        if kind and wanted in _DECIDE:
            raise Unknown
        return _left_out(argument, wanted)
    if kind in TYPES and "Tensor" not in wanted and sizes:
        raise Unknown  # a tensor where this overload takes none
    return _number(argument, wanted, str(text))


_DECIDE = ("bool", "int", "List[int]")
"""Types of arguments whose value says what is computed: not written down, it is not known."""


def _left_out(argument: Any, wanted: str) -> Any:
    """What an argument is of which nothing is written down."""
    if argument.has_default_value():
        return argument.default_value
    if wanted.startswith("Optional"):
        return None
    raise Unknown


def _number(argument: Any, wanted: str, text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if text in ("inf", "-inf", "nan"):
            return float(text)
        raise Unknown from None
    plain = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(v, bool | int | float) for v in plain):
        raise Unknown
    if str(argument.real_type).find("ScalarType") >= 0:
        if not isinstance(value, int) or value not in NUMBERS:
            raise Unknown
        return NUMBERS[value]
    if any(name in str(argument.real_type) for name in ("Layout", "Device", "MemoryFormat")):
        return None if wanted.startswith("Optional") else _left_out(argument, wanted)
    return value


def _tensors(sizes: Any, kind: Any, strides: Any) -> list[torch.Tensor]:
    kinds = kind if isinstance(kind, tuple) else ()
    if not kinds or len(kinds) != len(sizes) or not all(k in TYPES for k in kinds):
        raise Unknown  # older profilers write no types of a list's tensors
    places = strides if strides is not None and len(strides) == len(sizes) else [None] * len(sizes)
    return [_tensor(s, TYPES[k], at) for s, k, at in zip(sizes, kinds, places, strict=True)]


def _tensor(sizes: Sequence[int], dtype: torch.dtype, strides: Any) -> torch.Tensor:
    shape, known = tuple(sizes), strides is not None and len(strides) == len(sizes)
    try:
        if known:
            return torch.empty_strided(shape, tuple(strides), dtype=dtype, device="meta")
        return torch.empty(shape, dtype=dtype, device="meta")
    except (RuntimeError, TypeError, OverflowError, ValueError):
        raise Unknown from None  # of no tensor that there is


def _heard(func: Any, plain: list[Any], named: dict[str, Any]) -> tuple[Row, ...]:
    """What the call comes to. Nothing where that depends on contents, and of a call that no card
    can have run: torch refuses it, or our rules know no such form."""
    recorder = Recorder(torch.nn.Identity(), on_card=True)
    try:
        with torch.inference_mode(), recorder:
            func(*plain, **named)
        rows = tuple(event for event in recorder.events if isinstance(event, Row))
        for row in rows:
            operators_of(row)
    except Exception:  # what torch says of what it cannot take is of many kinds
        return ()
    finally:
        recorder.close()
    return rows
