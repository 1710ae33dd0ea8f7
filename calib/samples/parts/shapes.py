"""Operators as JSON, and the gate for those that are read: fields, types, sizes, words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, fields, replace
from functools import cache
from math import isfinite
from typing import Any

import numpy as np

from calib.errors import CalibError, one_of
from model.ops import (
    ITEM_BYTES,
    OPERATORS,
    Collective,
    Conv2d,
    Copy,
    Elementwise,
    GroupedMatmul,
    MoeMlp,
    Operator,
)
from model.ops.routing import experts_touched

LARGEST = 2**40
"""What every dimension and count lies below."""
MOST_BYTES, MOST_FLOPS = 2.0**53, 2.0**63
"""What an operator's totals lie below: more bytes than any memory holds, more arithmetic than any
card does within an hour; both are whole in float64 and int64, in which totals are computed."""
_TOTALS = ("read", "written", "arithmetic", "products")
"""Of an operator without a formula: bytes and arithmetic in all, and not dimensions."""
_SINCE_2 = (
    *("axes", "mask", "out_dtype", "out_elements", "planar", "recompute", "transposed"),
    "weight_dtype",
)
_SINCE_3 = (
    *("alone", "one_way", "out_dtype", "planes", "unknown", "v_head_dim", "walked"),
    "weight_dtype",
)
MAY_LACK: dict[str, frozenset[str]] = {
    "1": frozenset((*_SINCE_2, *_SINCE_3)),
    "2": frozenset((*_SINCE_2, *_SINCE_3)),
    "3": frozenset(_SINCE_3),
}
"""Fields that operators did not have yet when files of a version were written: they get their
defaults. A field that comes later is added to ``_SINCE_3`` (a test says so)."""


class Refused(ValueError):
    """A ``value`` of a ``column`` that is not accepted, and what is."""

    def __init__(self, column: str, value: Any, expected: str) -> None:
        super().__init__(f"{column} = {shown(value)}: expected {expected}")
        self.expected = expected


def shown(value: Any) -> str:
    """A value in a message: on one line, and not for ever."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def op_to_json(op: Operator) -> str:
    """All fields of an operator as JSON, in a fixed order."""
    return json.dumps(asdict(op))


def op_from_json(kind: str, text: str) -> Operator:
    """Raises ``CalibError`` that names the field, its value and what is accepted."""
    try:
        return parse(kind, text, MAY_LACK["1"])
    except Refused as refused:
        raise CalibError(f"samples: {refused}")


def parse(kind: str, text: str, may_lack: frozenset[str]) -> Operator:
    """The operator that a row holds. Raises ``Refused``."""
    if kind not in OPERATORS:
        raise Refused("kind", kind, one_of(kind, OPERATORS))
    values, rules = _object(text), _rules(kind)
    if values.keys() != rules.keys():
        _check_names(kind, text, values.keys(), rules.keys() - may_lack)
    for name, value in values.items():
        _check(name, value, *rules[name])
    try:
        op = OPERATORS[kind](**values)
    except ValueError as error:  # words of its own, such as a norm's kind
        raise Refused("shape", text, str(error).rpartition("expected ")[2])
    _possible(op)
    return op


def _check_names(kind: str, text: str, found: Set[str], needed: Set[str]) -> None:
    rules = _rules(kind)
    for name in sorted(found - rules.keys()):
        raise Refused("shape", name, f"of the fields of {kind} {one_of(name, rules)}")
    for name in sorted(needed - found):
        raise Refused("shape", text, f"{name} beside them, as every {kind} has it")


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Refused("shape", text, "the fields of an operator as a JSON object")
    return values


@cache
def _rules(kind: str) -> Mapping[str, tuple[str, int, bool]]:
    """Of every field: its type (int, float, bool, str, dtype, total), the least that it may be,
    whether it may be null."""
    operator, rules = OPERATORS[kind], {}
    for field in fields(operator):
        types = str(field.type).split(" | ")
        word = "dtype" if field.name.endswith("dtype") else types[0]
        word = "total" if field.name in _TOTALS else word
        least = 0 if field.name in operator.may_be_zero else 1
        rules[field.name] = (word, least, "None" in types)
    return rules


def _check(name: str, value: Any, word: str, least: int, may_be_null: bool) -> None:
    """Raises ``Refused`` where a field is not of its type or lies outside its bounds."""
    if word == "int" and type(value) is int and least <= value < LARGEST:
        return
    if value is None and may_be_null:
        return
    if word == "bool":
        fine, expected = isinstance(value, bool), "true or false"
    elif word == "str":
        fine, expected = isinstance(value, str) and bool(value), "a word"
    elif word == "dtype":
        fine, expected = isinstance(value, str) and value in ITEM_BYTES, ""
        expected = "" if fine else one_of(str(value), ITEM_BYTES)
    elif word == "total":
        fine, expected = _number(value) and 0 <= value < MOST_FLOPS, "from 0 to below 2^63"
    elif word == "float":
        fine, expected = _number(value) and 0 < value < LARGEST, "above 0 and below 2^40"
    else:
        fine, expected = False, f"a whole number from {least} to below 2^40"
    if not fine:
        raise Refused(f"shape.{name}", value, expected + (", or null" if may_be_null else ""))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _possible(op: Operator) -> None:
    """Raises ``Refused`` for sizes that do not go together, or beyond what any card holds."""
    for many, few in (("in_channels", "groups"), ("out_channels", "groups"), ("heads", "kv_heads")):
        if hasattr(op, many) and getattr(op, many) % getattr(op, few):
            raise Refused(f"shape.{few}", getattr(op, few), f"a divisor of {many}")
    if isinstance(op, Collective) and op.ranks % op.nodes:
        raise Refused("shape.nodes", op.nodes, "a divisor of ranks")
    if isinstance(op, Conv2d) and min(op.height, op.width) + 2 * op.padding < op.kernel:
        raise Refused("shape.kernel", op.kernel, "no more than the padded sides")
    if isinstance(op, GroupedMatmul | MoeMlp) and op.top_k > op.experts:
        raise Refused("shape.top_k", op.top_k, "no more than experts")
    if isinstance(op, MoeMlp):
        _check_distribution(op)
    if not (0 <= op.bytes < MOST_BYTES and 0 <= op.flops < MOST_FLOPS):
        raise Refused("shape", op_to_json(op), "below 2^53 bytes and 2^63 FLOP in all")


def _check_distribution(op: MoeMlp) -> None:
    try:
        with np.errstate(all="ignore"):
            touched = experts_touched(op.distribution, op.experts, op.top_k, op.tokens)
    except (ValueError, OverflowError) as error:
        touched, said = np.nan, str(error).rpartition("expected ")[2]
    else:
        said = "a law by which from one to all experts are touched"
    if not 0 < touched <= op.experts:
        raise Refused("shape.distribution", op.distribution, said)


def laid_out(op: Operator) -> Operator:
    """``op`` of an older file with the axes that its tensors had when it was measured: an even copy
    put two halves side by side, of a multiple of 128 in rows of 64; a sum with fewer elements
    repeated rows; one of two short ones was an outer sum."""
    if isinstance(op, Copy) and op.out_dtype in (None, op.dtype):
        odd = op.elements % 2
        return replace(
            op, axes=1 if odd or op.elements == 2 else 3 if op.elements % 128 == 0 else 2
        )
    if not isinstance(op, Elementwise):
        return op
    if op.inputs == 0 and op.broadcast:
        return replace(op, axes=3)
    repeated = op.inputs == 1 and 0 < op.broadcast < op.elements
    return replace(op, axes=1 + op.transposed + repeated)
