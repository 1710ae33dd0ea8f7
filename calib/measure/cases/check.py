"""Whether a case computes what it should: its output against a reference of wider numbers.

The reference of a torch case is the same function on inputs widened from 16 bits to float32, and
from float32 to float64; that of one of our kernels is the reference beside it. Memory that the
allocator is about to hand out is filled with NaN first, so an output with a hole is found out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Case
from calib.measure.cases.products import product_float8, product_int8, product_tf32
from kernels import attention, attention_decode, conv, mlp, norm, stream

ROUNDINGS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-12}
"""One rounding of the result, relative; that of float32 leaves room for factors cut to tf32."""
_MOST_ROUNDINGS = 16
_WIDER = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float32: torch.float64,
}


def _product_reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float64) @ w.to(torch.float64).T


def _grouped_reference(x: torch.Tensor, w: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    return mlp.grouped_reference(x, w.transpose(1, 2), offs)


REFERENCES: dict[Any, Callable[..., Any]] = {
    attention.attention: attention.attention_reference,
    attention_decode.decode_attention: attention_decode.decode_reference,
    conv.conv2d: conv.conv2d_reference,
    mlp.linear: mlp.linear_reference,
    mlp.grouped_linear: mlp.grouped_reference,
    norm.rms_norm: norm.rms_norm_reference,
    norm.layer_norm: norm.layer_norm_reference,
    norm.softmax: norm.softmax_reference,
    stream.copy: stream.copy_reference,
    stream.scale: stream.scale_reference,
    stream.add: stream.add_reference,
    product_tf32: _product_reference,
    product_float8: _product_reference,
    product_int8: _product_reference,
    getattr(F, "grouped_mm", None) or torch._grouped_mm: _grouped_reference,
}
"""References that are not the function itself on wider inputs."""
UNCHECKED = (torch.empty, torch.histc)
"""The one promises no content, and the other's bins have edges that move with the type."""


SDPA = F.scaled_dot_product_attention
PIECES: dict[Any, tuple[tuple[int, ...], tuple[str, ...]]] = {
    F.linear: ((0,), ()),
    product_tf32: ((0,), ()),
    product_float8: ((0,), ()),
    product_int8: ((0,), ()),
    mlp.linear: ((0,), ()),
    torch.bmm: ((0, 1), ()),
    SDPA: ((0, 1, 2), ("attn_mask",)),
    attention.attention: ((0, 1, 2), ("bias",)),
    attention_decode.decode_attention: ((0, 1, 2), ()),
    F.conv2d: ((0,), ()),
    conv.conv2d: ((0,), ()),
    F.layer_norm: ((0,), ()),
    norm.layer_norm: ((0,), ()),
    norm.rms_norm: ((0,), ()),
    F.softmax: ((0,), ()),
    norm.softmax: ((0,), ()),
    stream.copy: ((0,), ()),
    stream.scale: ((0,), ()),
    stream.add: ((0, 1), ()),
}
"""Functions whose output is cut along its first dimension where these inputs are: their places,
and their names."""
ATTENTIONS = (SDPA, attention.attention, attention_decode.decode_attention)
_MOST_PIECES = 256


def pieces(case: Case, count: int) -> list[tuple[tuple[slice, ...], Case]]:
    """``case`` in up to ``count`` parts along the first dimension (attention of one sequence: along
    its heads), each with the part of the output that is its own; one part where the function is
    not known to come in parts."""
    places, names = PIECES.get(case.func, ((), ()))
    if not places:
        return [((), case)]
    first = case.args[0]
    axis = int(case.func in ATTENTIONS and first.shape[0] == 1)
    length = case.args[places[-1]].shape[axis]  # of attention: the heads that keys have
    count = min(count, length)
    edges = [length * i // count for i in range(count + 1)]
    parts = []
    for start, stop in itertools.pairwise(edges):

        def cut(x: torch.Tensor, start: int = start, stop: int = stop) -> torch.Tensor:
            each = x.shape[axis] // length  # query heads of a key head; 0: broadcast
            return x if each == 0 else x[_along(axis, each * start, each * stop)]

        args = [cut(x) if i in places else x for i, x in enumerate(case.args)]
        keywords = {
            n: cut(x) if n in names and x is not None else x for n, x in case.keywords.items()
        }
        each = first.shape[axis] // length
        part = _along(axis, each * start, each * stop)
        parts.append((part, Case(case.func, *args, **keywords)))
    return parts


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(start, stop))


def reference_of(case: Case) -> Any:
    """The output of ``case`` in wider numbers."""
    if case.func in REFERENCES:
        return REFERENCES[case.func](*case.args, **case.keywords)
    wide = [_wide(x) for x in case.args]
    return case.func(*wide, **{name: _wide(x) for name, x in case.keywords.items()})


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _WIDER:
        return value.to(_WIDER[value.dtype])
    return value


def error_of(case: Case) -> str:
    """What is wrong with the output of ``case``, in words; empty where it is right."""
    if case.func in UNCHECKED:
        return ""
    try:
        return _error_of_whole(case)
    except torch.OutOfMemoryError:
        if case.func not in PIECES:
            raise
    return _error_in_pieces(case)


def _error_in_pieces(case: Case) -> str:
    """The same where a wider reference does not fit: of a part at a time, in ever more parts.

    Raises ``torch.OutOfMemoryError`` where even the smallest does not fit.
    """
    poison([case.args[0]])
    (found,) = _tensors(case())
    count = 4
    while True:
        try:
            for part, one in pieces(case, count):
                (expected,) = _tensors(reference_of(one))
                if error := _difference(found[part], expected):
                    return error
            return ""
        except torch.OutOfMemoryError:
            if count >= _MOST_PIECES:
                raise
            count *= 4


def _error_of_whole(case: Case) -> str:
    expected = list(_tensors(reference_of(case)))
    poison(expected)
    found = list(_tensors(case()))
    if len(found) != len(expected):
        return f"{len(found)} outputs: expected {len(expected)}"
    return next((e for e in map(_difference, found, expected) if e), "")


def poison(like: list[torch.Tensor]) -> None:
    """Fill and free memory of the sizes that outputs shaped as ``like`` will take: torch's
    allocator hands the blocks freed last out again."""
    for out in like:
        for dtype in _WIDER:
            torch.full_like(out, torch.nan, dtype=dtype)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """The tensors to compare: of (values, indices) the values, in order of size."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, tuple):
        yield output[0].sort(-1).values


def _difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Each element may be off by 16 roundings, relative to its size and the result's mean size."""
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)}: expected {tuple(expected.shape)}"
    if not found.is_floating_point():
        wrong = found != expected  # an integer product is exact in float64 too
    else:
        share = _MOST_ROUNDINGS * ROUNDINGS.get(found.dtype, 2.0**-20)
        wide = expected.to(torch.float64 if found.dtype == torch.float64 else torch.float32)
        limit = share * (wide.abs() + wide.square().mean().sqrt())
        wrong = ~((found.to(wide.dtype) - wide).abs() <= limit)
    count = int(wrong.sum())
    return f"{count} of {wrong.numel()} elements are not the reference's" if count else ""
