"""How what was written as one shape is seen as another: in order, turned, in part, repeated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from calib.trace.rules.layouts import dense

Shape = tuple[int, ...]
MOST_PARTS = 16
"""As many as one of them is smaller than the result: keys of a joined projection."""
FEW = 2
"""Dimensions up to which a part must be of a result of just that form: a vector is a weight."""


def cut_to(shape: Shape, d: int, count: int) -> tuple[Shape, Shape] | None:
    """A part of ``count`` elements and the rest, where dimension ``d`` can be cut so."""
    row = math.prod(shape) // shape[d]
    if count % row or not 0 < count // row < shape[d]:
        return None
    n = count // row
    first, second = ((*shape[:d], m, *shape[d + 1 :]) for m in (n, shape[d] - n))
    return first, second


def permuted(strides: Sequence[int], order: Sequence[int]) -> Shape:
    """Strides of dimensions ``order`` put back into their own order."""
    found = [0] * len(order)
    for place, d in enumerate(order):
        found[d] = strides[place]
    return tuple(found)


def swapped(shape: Shape) -> Shape:
    """Strides of what is dense when two dimensions change places: the last but one of matrices,
    before the last one of anything else. Ones have no place."""
    places = [d for d, n in enumerate(shape) if n > 1]
    if len(places) < 2:
        return dense(shape)
    a, b = places[-2:] if len(places) == 2 else places[-3:-1]
    order = list(range(len(shape)))
    order[a], order[b] = b, a
    return permuted(dense(tuple(shape[d] for d in order)), order)


@lru_cache(maxsize=65536)
def seen(shape: Shape, strides: Shape, wanted: Shape, repeats: bool) -> Shape | None:
    """Strides under which a result of ``shape`` and ``strides`` is seen as ``wanted``; None: it
    cannot be. ``repeats``: whether it may be repeated."""
    have, want = math.prod(shape), math.prod(wanted)
    if have == want:
        return whole(shape, strides, wanted)
    if want < have <= MOST_PARTS * want:
        return part(shape, strides, wanted, have / want)
    if repeats and have and want % have == 0:
        return repeated(shape, strides, wanted, want // have)
    return None


def whole(shape: Shape, strides: Shape, wanted: Shape) -> Shape | None:
    """The least turned of the ways in which all of it can be seen."""
    if shape == wanted:
        return strides
    for order in orders(wanted):
        turned = tuple(wanted[d] for d in order)
        if refines(shape, turned):
            viewed = view(shape, strides, turned)
            return None if viewed is None else permuted(viewed, order)
    return None


@lru_cache(maxsize=4096)
def orders(shape: Shape) -> tuple[Shape, ...]:
    """Orders of the dimensions in which at most one that is no one has moved, least far first."""
    places = [d for d, n in enumerate(shape) if n > 1]
    found = {}
    for i in range(len(places)):
        for j in sorted(range(len(places)), key=lambda j: abs(j - i)):
            rest = [*places[:i], *places[i + 1 :]]
            moved = iter([*rest[:j], places[i], *rest[j:]])
            order = tuple(d if n == 1 else next(moved) for d, n in enumerate(shape))
            found.setdefault(order, abs(j - i))
    return tuple(sorted(found, key=lambda order: found[order]))


def refines(shape: Shape, wanted: Shape) -> bool:
    """Whether dimensions only split or only merge on the way, each at its place."""
    ends, others = inner_ends(shape), inner_ends(wanted)
    return ends <= others or others <= ends


def inner_ends(shape: Shape) -> frozenset[int]:
    """How many elements lie in the dimensions up to each."""
    return frozenset(math.prod(shape[: d + 1]) for d in range(len(shape)))


def view(shape: Shape, strides: Shape, wanted: Shape) -> Shape | None:
    """As torch sees it; None where it would have to copy."""
    try:
        tensor = torch.empty_strided(shape, strides, device="meta")
        return tuple(tensor.view(wanted).stride())
    except RuntimeError:
        return None


def part(shape: Shape, strides: Shape, wanted: Shape, times: float) -> Shape | None:
    """One dimension is so many times as long: the last of halves, else an early one, as heads of
    joined projections."""
    places = range(len(wanted))
    for d in reversed(places) if len(shape) == len(wanted) else (*places[1:], *places[:1]):
        n = round(wanted[d] * times)
        if n != wanted[d] * times:
            continue
        longer = (*wanted[:d], n, *wanted[d + 1 :])
        if len(wanted) <= FEW:
            found = strides if longer == shape else None
        else:
            found = whole(shape, strides, longer)
        if found is not None:
            return found
    return None


def repeated(shape: Shape, strides: Shape, wanted: Shape, times: int) -> Shape | None:
    """One dimension repeats the rest."""
    for d, n in enumerate(wanted):
        if n == times and len(wanted) > FEW:
            found = whole(shape, strides, (*wanted[:d], *wanted[d + 1 :]))
            if found is not None:
                return (*found[:d], 0, *found[d:])
    return None
