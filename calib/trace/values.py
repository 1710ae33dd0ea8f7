"""Tensors without contents, but for small ones made of numbers, whose contents are known.

Code that builds a model, or lays out an image's patches, asks tensors for values that came from
numbers of its configuration: a schedule of drop rates, a grid of patches, the bounds of windows.
The mode computes such small tensors for real beside their fakes, so that ``item``, ``tolist`` and
``nonzero`` of them answer. What depends on weights or inputs stays without values. A tensor that is
copied deeply stays of its mode.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

MOST_INDICES = 1 << 16
"""Elements of a tensor of integers or truths up to which its values are kept."""
MOST_FLOATS = 1 << 12
"""The same of other numbers, which are seldom asked for."""

FACTORIES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("arange", "full", "zeros", "ones", "linspace", "eye", "scalar_tensor")
) | {
    torch.ops.aten.arange.start,
    torch.ops.aten.arange.start_step,
    torch.ops.aten.tril_indices.default,
    torch.ops.aten.triu_indices.default,
}
"""What makes tensors of numbers alone."""
LIKE = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)
"""What makes them in the form of another tensor."""


def known_values(**how: Any) -> FakeTensorMode:
    """A fake mode that keeps the values of small tensors of numbers. ``how``: as of any.

    It is an instance that answers differently, and no subclass: operators of higher order look up
    the very class of a mode.
    """
    mode = FakeTensorMode(**how)
    vars(mode).update(dispatch=partial(_dispatch, mode), may_turn_const=partial(_is_kept, mode))
    return mode


def _is_kept(mode: FakeTensorMode, t: torch.Tensor) -> bool:
    small = t.numel() <= (MOST_FLOATS if t.is_floating_point() else MOST_INDICES)
    plain = t.layout == torch.strided and t.device.type == "cpu"
    return small and plain and not mode.is_our_fake(t)


def _dispatch(
    mode: FakeTensorMode,
    func: Any,
    types: Sequence[Any],
    args: Sequence[Any] = (),
    kwargs: Any = None,
) -> Any:
    given: Mapping[str, Any] = kwargs or {}
    if func in FACTORIES:
        known = _computed(mode, func, args, given)
    elif func in LIKE:
        known = _like(mode, func, args, given)
    elif func is torch.ops.aten._grouped_mm.default:
        with mode:
            known = _grouped(args, given)
    else:
        known = None
    return FakeTensorMode.dispatch(mode, func, types, args, given) if known is None else known


def _computed(
    mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The fake with its values; None where it would be large or lies on a device."""
    if str(kwargs.get("device") or "cpu") != "cpu" or _elements(func, args) > MOST_INDICES:
        return None
    with _disable_current_modes():
        made = func(*args, **{**kwargs, "device": torch.device("cpu")})
    if not _is_kept(mode, made):
        return None
    return mode.fake_tensor_converter.from_real_tensor(mode, made, make_constant=True)


def _like(mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    first, *rest = args
    if first.device.type != "cpu" or first.layout != torch.strided or first.is_nested:
        return None
    name = str(func).split(".")[1]
    size = first.shape if name.endswith("_like") else rest.pop(0)
    if not all(isinstance(n, int) for n in size):  # lengths that are symbols
        return None
    plain = {"dtype": first.dtype, **kwargs}
    plain = {k: v for k, v in plain.items() if k in ("dtype", "device") and v is not None}
    base = getattr(torch.ops.aten, name.removeprefix("new_").removesuffix("_like")).default
    return _computed(mode, base, [list(size), *rest], plain)


def _elements(func: Any, args: Sequence[Any]) -> float:
    """How many a factory is asked for, roughly: of a size, their product; else the largest end."""
    first = args[0] if args else 0
    if isinstance(first, list | tuple | torch.Size):
        return math.prod(first) if all(isinstance(n, int) for n in first) else math.inf
    if func is torch.ops.aten.scalar_tensor.default:
        return 1
    return max([abs(a) for a in args if isinstance(a, int | float)] or [0])


def _grouped(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """[rows, n] of ``_grouped_mm`` in a type that its shape function refuses and kernels have, as
    the result of a product with each expert's matrix [experts, k, n]; None: let it say itself."""
    rows, matrices = args[:2]
    if rows.dtype == torch.bfloat16 or rows.dtype != matrices.dtype:
        return None
    if rows.ndim != 2 or matrices.ndim != 3 or rows.shape[1] != matrices.shape[1]:
        return None
    dtype = kwargs.get("out_dtype") or rows.dtype
    return torch.empty(rows.shape[0], matrices.shape[2], dtype=dtype, device=rows.device)


@contextmanager
def in_force(mode: FakeTensorMode) -> Iterator[FakeTensorMode]:
    """``mode``, in which a deep copy of a fake tensor is one of the same mode.

    Torch's would copy all that hangs on the tensor, the mode itself with it, and the mode's weak
    references to storages bit by bit: each is then given back twice, and the heap is lost.
    """
    before = vars(FakeTensor).get("__deepcopy__")
    FakeTensor.__deepcopy__ = _copied  # type: ignore[method-assign,assignment]
    try:
        with mode:
            yield mode
    finally:
        if before is None:
            del FakeTensor.__deepcopy__
        else:
            FakeTensor.__deepcopy__ = before  # type: ignore[method-assign]


def _copied(tensor: FakeTensor, memo: dict[int, Any]) -> torch.Tensor:
    """With what its owner hung on it: that it is a parameter, a mark of a library."""
    made = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    if tensor.grad is not None:
        made.grad = copy.deepcopy(tensor.grad, memo)
    hung = {name: value for name, value in vars(tensor).items() if name not in vars(made)}
    vars(made).update(copy.deepcopy(hung, memo))
    return made


@contextmanager
def without_values() -> Iterator[FakeTensorMode]:
    """The mode in force; what fails under it is told by what is raised, and not logged as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with in_force(known_values()) as mode:
            yield mode
    finally:
        log.setLevel(before)
