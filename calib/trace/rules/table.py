"""The table: which rule turns a dispatched operator into ours, and what none of them knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from calib.trace.rules import attention, fused, moves, narrow, pointwise, products
from calib.trace.rules.rows import Part, Row, Rule
from model.layer import Call
from model.ops import REST, Counted, Operator, Other

_FAMILIES = (moves, pointwise, products, attention, narrow, fused)
RULES: dict[str, Rule] = {name: rule for one in _FAMILIES for name, rule in one.RULES.items()}
SYNCS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"),
    *("bincount", "_linalg_check_errors", "_nested_tensor_from_mask_left_aligned"),
)
"""Operators whose result the host waits for: its value, or how large it is."""


def has_rule(name: str) -> bool:
    """Whether a rule knows an operator by name, in place or not."""
    return name in RULES or name.rstrip("_") in RULES


def operators_of(row: Row) -> tuple[Operator | Part, ...]:
    """Ours for one of theirs; what no rule knows is ``Other`` with its bytes, never nothing."""
    if row.outputs and row.out.numel == 0:
        return moves.allocated(row)
    rule = RULES.get(row.name) or RULES.get(row.base)
    if rule is None and row.counted is not None:
        return counted(row, row.counted)
    if rule is None:
        rule = pointwise.elementwise if row.pointwise else moves.unspoken
    return rule(row)


def counted(row: Row, flops: int) -> tuple[Operator, ...]:
    """An operator of which somebody's formula says the products, in the type of its first tensor
    of numbers; every input is read once and every result written once."""
    known = moves.other(row)[0]
    numbers = (s.dtype for s in (*row.inputs, *row.outputs) if s.is_floating)
    return (Counted(row.base, flops, known.read, known.written, dtype=next(numbers, known.dtype)),)


def waits(row: Row) -> bool:
    """Whether the host waits for the device: values or sizes asked for, or moved to another."""
    if row.base in SYNCS:
        return True
    if row.base == "index":
        return any(size.dtype == "bool" for size in row.inputs[1:])
    devices = {size.device for size in (*row.inputs, *row.outputs) if size.shape}
    return row.base in ("_to_copy", "copy") and len(devices) > 1


def spans(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """[first, end) of what becomes calls together: a row, or the rows that are one norm."""
    norms = {first: end for first, end, _ in pointwise.rms_norms(rows)}
    position = 0
    while position < len(rows):
        end = norms.get(position, position + 1)
        yield position, end
        position = end


def calls_of(rows: Iterable[Row]) -> Iterator[Call]:
    """Rows as calls, in order. What a norm does to its scale alone, as Gemma's does, which casts it
    and adds 1, are calls of their own behind it."""
    listed = list(rows)
    norms = {first: norm for first, _, norm in pointwise.rms_norms(listed)}
    for first, end in spans(listed):
        row = listed[first]
        if first not in norms:
            yield from calls_of_row(row)
            continue
        span = listed[first:end] if len(listed[end - 1].out.shape) > 1 else ()
        scale = [r for r in span if len(r.out.shape) == 1]
        yield Call(row.path, norms[first], launches=end - first - len(scale))
        for apart in scale:
            yield from calls_of_row(apart)


def calls_of_row(row: Row) -> Iterator[Call]:
    for part in operators_of(row):
        if isinstance(part, Part):
            yield Call(row.path, part.op, part.count, part.launches, sync=waits(row))
            continue
        belongs = isinstance(part, Other) and part.name == REST
        yield Call(row.path, part, launches=0 if belongs else 1, sync=waits(row))


def unknown(calls: Iterable[Call]) -> dict[str, int]:
    """Operators that no rule knows, by name, with how often they ran."""
    found: dict[str, int] = {}
    for call in calls:
        op = call.op
        if isinstance(op, Other) and op.unknown:
            found[op.name] = found.get(op.name, 0) + call.count
    return found
