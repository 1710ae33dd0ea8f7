"""Recorded operators as ours, for a model that nobody described: by the rules that tracing has.

A profile holds the shapes and types of tensor arguments, and neither numbers, lists of tensors nor
results. What a rule needs besides is taken from what is around it, and this is where:

- a result: of maps, products, norms by their inputs; of anything else the first input of the next
  operators that could have read it, else the first input;
- the stride and padding of a convolution: those that lead to that result, with a window kept whole
  at the border (padding (k - 1) / 2), or none where windows do not overlap;
- a reduction runs over the last dimension, a softmax too; a cast's type is the next reader's;
- the rows of a list that is joined (cat) are as many bytes as its result;
- the experts of a token: rows of the product over rows of the last topk.

So these calls are nearly, not exactly, those of a trace. Layouts are not known: all is contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.recorded.record import Recorded
from benchmarks.recorded.shapes import shapes_of
from calib.trace.rules.rows import Row, Size, argument_names, is_pointwise, name_of
from calib.trace.rules.table import calls_of, operators_of
from calib.trace.tree import TracedLayer
from model.workload import Phase

DTYPES = {
    **{"float": "float32", "double": "float64", "c10::BFloat16": "bfloat16"},
    **{"BFloat16": "bfloat16", "c10::Half": "float16", "Half": "float16", "long_int": "int64"},
    **{"long": "int64", "int": "int32", "unsigned_char": "uint8", "bool": "bool"},
}
"""Types as a profiler names them; any other goes by its own name."""
ALIASES = {"_batch_norm_impl_index": "native_batch_norm", "cudnn_batch_norm": "native_batch_norm"}
"""Composite operators under the name that the rules know."""
AHEAD = 4
"""Operators among which a result's reader is looked for."""
KEPT = ("softmax", "norm", "dropout", "clone", "contiguous", "cumsum", "sort", "triu", "tril")
REDUCES = ("mean", "sum", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin", "var")


def recorded_phase(one: Recorded) -> Phase:
    """The operators of ``one`` as a pass, each at its recorded path."""
    listed = list(rows_of(one))
    return Phase(TracedLayer(one.model, tuple(calls_of(listed))), one.repeat)


def rows_of(one: Recorded) -> Iterator[Row]:
    table = one.operators
    sizes = [
        tuple(
            Size(shape, DTYPES.get(dtype, dtype), expanded=(False,) * len(shape))
            for shape, dtype in zip(shapes_of(shapes), dtypes.split(), strict=False)
        )
        for shapes, dtypes in zip(table["shapes"], table["dtypes"], strict=True)
    ]
    number, top_k_of = 0, ()
    paths, atens = table["path"].tolist(), table["aten"].tolist()
    for i, (path, aten) in enumerate(zip(paths, atens, strict=True)):
        number += i > 0 and path != paths[i - 1]
        if aten == "topk" and sizes[i]:
            top_k_of = sizes[i][0].shape
        yield row(path, aten, sizes[i], sizes[i + 1 : i + 1 + AHEAD], number, top_k_of)


def row(
    path: str,
    aten: str,
    sizes: Sequence[Size],
    after: Sequence[Sequence[Size]],
    number: int,
    routes: tuple[int, ...],
) -> Row:
    """``after``: inputs of the next operators. ``routes``: [tokens, experts] of the last topk.

    Where what is known is not enough for the operator's rule, its bytes are all we say.
    """
    try:
        found = ruled(path, aten, sizes, after, number, routes)
        if operators_of(found):
            return found
    except MISSING:
        pass
    name = f"recorded {aten.partition('.')[0]}"
    given = {f"input{i}": size for i, size in enumerate(sizes)}
    return Row(path, name, given, tuple(sizes[:1]) or (sized((1,), "int64"),), module=number)


MISSING = (
    *(KeyError, TypeError, IndexError, ValueError, AttributeError),
    *(ZeroDivisionError, RuntimeError),
)
"""What a rule raises where an argument is not there, or is of another form."""


def ruled(
    path: str,
    aten: str,
    sizes: Sequence[Size],
    after: Sequence[Sequence[Size]],
    number: int,
    routes: tuple[int, ...],
) -> Row:
    name, func = aten.partition(".")[0], function(aten)
    base = name.rstrip("_")
    given: dict[str, Any] = defaults(func)
    names = tensor_arguments(func) if func else [f"input{i}" for i in range(len(sizes))]
    given |= dict(zip(names, sizes, strict=False))
    pointwise = func is not None and is_pointwise(func)
    known = result(base, sizes, pointwise, after)
    given |= guessed(base, sizes, known)
    pairs = sizes[0].shape[0] if base == "_grouped_mm" else 0
    routed: tuple[tuple[int, ...], ...] = ()
    if len(routes) == 2 and pairs and pairs % routes[0] == 0:
        routed = ((routes[0], pairs // routes[0]),)
    called = ALIASES.get(base, name_of(func) if func else name)
    return Row(path, called, given, (known,), pointwise, number, routed)


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


def result(
    base: str, sizes: Sequence[Size], pointwise: bool, after: Sequence[Sequence[Size]]
) -> Size:
    """What the operator returns, as far as its inputs or its readers say."""
    if not sizes:
        return next((s for some in after[:1] for s in some), sized((1,), "int64"))
    first = sizes[0]
    if base == "_to_copy":
        return sized(first.shape, cast_type(first, after))
    if pointwise:
        shape = torch.broadcast_shapes(*(s.shape for s in sizes))
        return sized(tuple(shape), max(sizes, key=lambda s: s.numel).dtype)
    shape = result_shape(base, [s.shape for s in sizes])
    if shape is not None:
        return sized(shape, first.dtype)
    return read_next(base, sizes, after) or first


def result_shape(base: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Where the inputs' shapes say it; else None."""
    shape: tuple[int, ...] | None = None
    if base in ("mm", "bmm"):
        shape = (*shapes[0][:-1], shapes[1][-1])
    elif base in ("addmm", "baddbmm"):
        shape = (*shapes[1][:-1], shapes[2][-1])
    elif base == "embedding" and len(shapes) > 1:
        shape = (*shapes[1], shapes[0][-1])
    elif base in REDUCES:
        shape = (*shapes[0][:-1], 1)
    elif any(word in base for word in KEPT):
        shape = shapes[0]
    return shape


def sized(shape: tuple[int, ...], dtype: str) -> Size:
    return Size(shape, dtype, expanded=(False,) * len(shape))


def cast_type(first: Size, after: Sequence[Sequence[Size]]) -> str:
    """That of the next reader of as many elements; else the other of float32 and bfloat16."""
    alike = (s.dtype for some in after for s in some if s.numel == first.numel)
    usual = "bfloat16" if first.dtype == "float32" else "float32"
    return next((dtype for dtype in alike if dtype != first.dtype), usual)


def read_next(base: str, sizes: Sequence[Size], after: Sequence[Sequence[Size]]) -> Size | None:
    """The first later input that this operator could have written."""
    for size in (s for some in after for s in some):
        if base != "convolution":
            return size if size.dtype == sizes[0].dtype else None
        same = len(size.shape) == len(sizes[0].shape) and size.shape[0] == sizes[0].shape[0]
        if same and size.shape[1] == sizes[1].shape[0]:
            return size
    return None


def guessed(base: str, sizes: Sequence[Size], out: Size) -> dict[str, Any]:
    """Arguments that are no tensors."""
    if base == "convolution":
        return convolution(sizes[0].shape, sizes[1].shape, out.shape)
    if base == "cat":
        return {"tensors": out}
    if base == "index":
        picked = out.shape[:-1] if out.shape[-1:] == sizes[0].shape[-1:] else out.shape
        return {"indices": [sized(picked, "int64")]}
    if base == "native_layer_norm":
        return {"normalized_shape": list(sizes[1].shape) if len(sizes) > 1 else out.shape[-1:]}
    return {"dim": -1} if "softmax" in base else {}


def convolution(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...]
) -> dict[str, Any]:
    """Stride and padding that lead from ``x`` to ``out``, both [batch, channels, ...]."""
    window, known = weight[2:], len(out) == len(x) and out[1] == weight[0]
    stride = [max(round(n / m), 1) for n, m in zip(x[2:], out[2:], strict=True)] if known else []
    stride = stride or list(window if window[0] > 7 else [1] * len(window))
    padding = [0 if s >= k else (k - 1) // 2 for s, k in zip(stride, window, strict=True)]
    groups = max(x[1] // weight[1], 1)
    return {
        **{"stride": stride, "padding": padding, "dilation": [1] * len(window)},
        **{"groups": groups, "transposed": False},
    }
