"""Recorded operators as ours, for a model that nobody described: by the rules that tracing has.

A profile holds the shapes and types of tensor arguments, and neither numbers, lists of tensors nor
results. What a rule needs besides is taken from what is around it, and this is where:

- how tensors lie in memory: :mod:`benchmarks.recorded.layouts`;
- a result: of maps, products, norms, attention by their inputs; of anything else the first input of
  the next operators that could have read it, else the first input;
- the stride and padding of a convolution: those that lead to as many places as a reader has, with
  a window kept whole at the border (padding (k - 1) / 2), or none where windows do not overlap;
- a reduction runs over the last dimension, a softmax too; a cast's type is the next reader's;
- a list that is joined (cat) is its result as the next operator reads it: the latest result that
  is a part of it, and the rest;
- attention as many queries as keys, without a mask, is causal in passes that continue text;
- the experts of a token: rows of the product over rows of the last topk.

So these calls are nearly, not exactly, those of a trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import Any

import torch

from benchmarks.recorded.layouts import CLONES, Memory, written
from benchmarks.recorded.record import Recorded
from benchmarks.recorded.shapes import shapes_of
from benchmarks.recorded.windows import convolution, convolved, sized
from calib.trace.rules.moves import JOINS
from calib.trace.rules.pointwise import MAPS
from calib.trace.rules.rows import (
    Part,
    Row,
    Size,
    argument_names,
    dtype_name,
    is_pointwise,
    name_of,
)
from calib.trace.rules.table import calls_of, operators_of
from calib.trace.tree import TracedLayer
from model.ops import Operator
from model.workload import Phase

DTYPES = {
    **{"float": "float32", "double": "float64", "c10::BFloat16": "bfloat16"},
    **{"BFloat16": "bfloat16", "c10::Half": "float16", "Half": "float16", "long_int": "int64"},
    **{"long": "int64", "int": "int32", "unsigned_char": "uint8", "bool": "bool"},
}
"""Types as a profiler names them; any other goes by its own name."""
ALIASES = {"_batch_norm_impl_index": "native_batch_norm", "cudnn_batch_norm": "native_batch_norm"}
"""Composite operators under the name that the rules know."""
AHEAD = 10
"""Operators among which a result's reader is looked for."""
KEPT = ("softmax", "norm", "dropout", "clone", "contiguous", "cumsum", "sort", "triu", "tril")
CONTINUES = ("prefill", "decode")
"""Passes of a model that continues text: a query sees no later key, unless a mask says what it
sees."""
POSITIONS = ("int64", "int32", "float32", "float64")
OF_GROUPS = 5
"""Dimensions of keys that are repeated for the heads of a group: [batch, groups, heads, ...]."""
PLAIN = 3
"""Inputs of attention without a mask."""
COMPARISONS = (
    *("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "bitwise_not", "logical_not"),
    *("logical_and", "logical_or", "logical_xor"),
)
REDUCES = ("mean", "sum", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin", "var")


def recorded_phase(one: Recorded) -> Phase:
    """The operators of ``one`` as a pass, each at its recorded path."""
    listed = list(rows_of(one))
    return Phase(TracedLayer(one.model, tuple(calls_of(listed))), one.repeat)


@dataclass(frozen=True)
class Around:
    """What is known of an operator's place.

    ``after``: inputs of the next operators; ``reader``: the name of the first whose inputs are
    known. ``before``, ``behind``: how many lists were joined just before and just after.
    ``number``: of its module's call. ``routes``: [tokens, experts] of the last topk. ``causal``:
    of text that is continued. ``memory``: what was written before.
    """

    after: Sequence[Sequence[Size]]
    number: int
    routes: tuple[int, ...]
    causal: bool
    before: int
    behind: int
    reader: str
    memory: Memory


def rows_of(one: Recorded) -> Iterator[Row]:
    table = one.operators
    sizes = [
        tuple(
            sized(shape, DTYPES.get(dtype, dtype))
            for shape, dtype in zip(shapes_of(shapes), dtypes.split(), strict=False)
        )
        for shapes, dtypes in zip(table["shapes"], table["dtypes"], strict=True)
    ]
    number, top_k_of, memory = 0, (), Memory()
    paths, atens = table["path"].tolist(), table["aten"].tolist()
    for i, (path, aten) in enumerate(zip(paths, atens, strict=True)):
        number += i > 0 and path != paths[i - 1]
        if aten == "topk" and sizes[i]:
            top_k_of = sizes[i][0].shape
        next_one = next((j for j in range(i + 1, min(i + 1 + AHEAD, len(sizes))) if sizes[j]), i)
        around = Around(
            after=sizes[i + 1 : i + 1 + AHEAD],
            number=number,
            routes=top_k_of,
            causal=one.phase in CONTINUES,
            before=joins(reversed(atens[max(i - AHEAD, 0) : i])),
            behind=joins(atens[i + 1 : i + 1 + AHEAD]),
            reader=atens[next_one],
            memory=memory,
        )
        found = row(path, aten, memory.read(base_of(aten), sizes[i]), around)
        if found.outputs and (sizes[i] or found.base in JOINS):
            memory.write(found.base, found.out, found.base in JOINS)
        yield found


def joins(atens: Iterable[str]) -> int:
    """How many of them, one after the other, join lists."""
    return sum(1 for _ in takewhile(lambda aten: base_of(aten) in JOINS, atens))


def base_of(aten: str) -> str:
    return aten.partition(".")[0].rstrip("_")


def row(path: str, aten: str, sizes: Sequence[Size], around: Around) -> Row:
    """Where what is known is not enough for the operator's rule, its bytes are all we say."""
    try:
        found = ruled(path, aten, sizes, around)
        if sum(one.bytes for one in operators(found)) >= 0:
            return found
    except MISSING:
        pass
    name = f"recorded {aten.partition('.')[0]}"
    given = {f"input{i}": size for i, size in enumerate(sizes)}
    made = tuple(sizes[:1]) or (sized((1,), "int64"),)
    return Row(path, name, given, made, module=around.number)


MISSING = (
    *(KeyError, TypeError, IndexError, ValueError, AttributeError),
    *(ZeroDivisionError, RuntimeError),
)
"""What a rule raises where an argument is not there, or is of another form."""


def operators(found: Row) -> list[Operator]:
    """Raises what is ``MISSING`` where one of them cannot count itself."""
    return [part.op if isinstance(part, Part) else part for part in operators_of(found)]


def ruled(path: str, aten: str, sizes: Sequence[Size], around: Around) -> Row:
    name, func = aten.partition(".")[0], function(aten)
    base = name.rstrip("_")
    given: dict[str, Any] = defaults(func)
    names = tensor_arguments(func) if func else [f"input{i}" for i in range(len(sizes))]
    given |= dict(zip(names, sizes, strict=False))
    pointwise = base in MAPS or (func is not None and is_pointwise(func))
    known = written(base, result(base, sizes, pointwise, around), sizes, pointwise)
    if base == "convolution":
        given |= convolution(sizes[0].shape, sizes[1].shape, known.shape)
    given |= guessed(base, sizes, known, around)
    pairs = sizes[0].shape[0] if base == "_grouped_mm" else 0
    routed: tuple[tuple[int, ...], ...] = ()
    routes = around.routes
    if len(routes) == 2 and pairs and pairs % routes[0] == 0:
        routed = ((routes[0], pairs // routes[0]),)
    called = ALIASES.get(base, name_of(func) if func else name)
    return Row(path, called, given, (known,), pointwise, around.number, routed)


def function(aten: str) -> Any:
    """The operator of torch; None where this version has none of the name."""
    name, _, overload = aten.partition(".")
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, overload or "default", None) if packet else None


def tensor_arguments(func: Any) -> list[str]:
    kinds = ("Tensor", "Optional[Tensor]")
    return [a.name for a in func._schema.arguments if str(a.type) in kinds]


def defaults(func: Any) -> dict[str, Any]:
    if func is None:
        return {}
    known = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return {**dict.fromkeys(argument_names(func)), **known}


def result(base: str, sizes: Sequence[Size], pointwise: bool, around: Around) -> Size:
    """What the operator returns, as far as its inputs or its readers say."""
    if not sizes:
        return joined(around) if base in JOINS else created(base, around.after)
    first = sizes[0]
    if base == "_to_copy":
        return sized(first.shape, cast_type(first, around.after))
    if base == "convolution":
        return convolved(first, sizes[1], around.after)
    shapes = [s.shape for s in sizes]
    if pointwise:
        return sized(tuple(torch.broadcast_shapes(*shapes)), result_type(base, sizes))
    shape = result_shape(base, shapes)
    if shape is not None:
        return sized(shape, first.dtype)
    return read_next(sizes, around.after) or first


def new_keys(around: Around) -> int | None:
    """Of keys or values that attention reads next: as many as its queries."""
    inputs = next((some for some in around.after if some), ())
    is_cache = "attention" in around.reader and len(inputs) > 2
    return inputs[0].shape[-2] if is_cache else None


def result_type(base: str, sizes: Sequence[Size]) -> str:
    """Of a map: as torch promotes its inputs, those without dimensions behind all others."""
    if base in COMPARISONS:
        return "bool"
    numbers = sizes[1:] if base == "where" and len(sizes) > 1 else sizes
    types = {s.dtype for s in numbers if s.shape} or {s.dtype for s in numbers}
    return dtype_name(reduce(torch.promote_types, (getattr(torch, name) for name in types)))


def created(base: str, after: Sequence[Sequence[Size]]) -> Size:
    """What is made of nothing: of positions the next numbers that can be some."""
    sizes = [s for some in after for s in some]
    if base == "arange":
        sizes = [s for s in sizes if len(s.shape) == 1 and s.dtype in POSITIONS]
    return sizes[0] if sizes else sized((1,), "int64")


def joined(around: Around) -> Size:
    """A list's tensors side by side, as the next operator reads them: before attention its keys and
    values; of anything else its first input."""
    inputs = next((some for some in around.after if some), ())
    if not inputs:
        return sized((1,), "int64")
    many = 1 + around.before + around.behind
    if "attention" in around.reader and len(inputs) > 2:
        return inputs[max(2 - around.behind, 0) if many > 1 else 1]
    if around.reader.startswith(("bmm", "baddbmm")) and many > 1:
        return inputs[-1]
    if base_of(around.reader) in CLONES and len(inputs[0].shape) == OF_GROUPS:
        heads, _, *rest = inputs[0].shape[1:]
        return sized((inputs[0].shape[0], heads, *rest), inputs[0].dtype)
    return inputs[0]


def result_shape(base: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Where the inputs' shapes say it; else None."""
    shape: tuple[int, ...] | None = None
    if base in ("mm", "bmm"):
        shape = (*shapes[0][:-1], shapes[1][-1])
    elif base in ("addmm", "baddbmm"):
        shape = (*shapes[1][:-1], shapes[2][-1])
    elif base == "embedding" and len(shapes) > 1:
        shape = (*shapes[1], shapes[0][-1])
    elif "attention" in base and len(shapes) > 2:
        shape = (*shapes[0][:-1], shapes[2][-1])
    elif base in REDUCES:
        shape = (*shapes[0][:-1], 1)
    elif any(word in base for word in KEPT):
        shape = shapes[0]
    return shape


def cast_type(first: Size, after: Sequence[Sequence[Size]]) -> str:
    """That of the next reader of as many elements; else the other of float32 and bfloat16."""
    alike = (s.dtype for some in after for s in some if s.numel == first.numel)
    usual = "bfloat16" if first.dtype == "float32" else "float32"
    return next((dtype for dtype in alike if dtype != first.dtype), usual)


def read_next(sizes: Sequence[Size], after: Sequence[Sequence[Size]]) -> Size | None:
    """The first later input, if it is of the same type."""
    size = next((s for some in after for s in some), None)
    return size if size is not None and size.dtype == sizes[0].dtype else None


def guessed(base: str, sizes: Sequence[Size], out: Size, around: Around) -> dict[str, Any]:
    """Arguments that are no tensors, and lists of them."""
    if base in JOINS:
        values = around.before > 0 == around.behind
        return {"tensors": around.memory.parts(out, new_keys(around), values)}
    if "attention" in base and len(sizes) > 2:
        alike = sizes[0].shape[-2] == sizes[1].shape[-2] > 1
        return {"is_causal": around.causal and alike and len(sizes) == PLAIN}
    if base == "index":
        picked = out.shape[:-1] if out.shape[-1:] == sizes[0].shape[-1:] else out.shape
        return {"indices": [sized(picked, "int64")]}
    if base == "native_layer_norm":
        return {"normalized_shape": list(sizes[1].shape) if len(sizes) > 1 else out.shape[-1:]}
    if "softmax" in base:
        return {"dim": -1}
    return {"C": sizes[0].shape[1]} if base == "native_group_norm" else {}
