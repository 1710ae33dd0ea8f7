"""How the tensors of recorded operators lie in memory, told from what was written before.

A profile has shapes and no strides, and views leave no trace of their own. But whatever an
operator reads was written by an earlier one, and torch's own rules say how that lay. The latest
result of as many elements and of the same type that can be seen in the shape which is read is
taken for it:

- in order, where dimensions only split or merge: [512, 4096] as [1, 512, 32, 128];
- turned, where they do so in another order: [512, 4096] as [1, 32, 512, 128];
- a part of it, where one dimension is too short: half a head, a third of a joined projection;
- repeated, where it has one dimension less: keys that several heads share.

Of two inputs of one shape the last is the latest result, and the one before it the latest that
nobody has read yet, or else the latest sum: a residual stream. A clone whose input seems to lie in
order was asked for by code that wanted it in order, so it did not: two dimensions had changed
places. What nothing explains is dense: weights, and a model's inputs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import permutations

import torch

from calib.trace.rules.layouts import dense, is_dense, strides_in
from calib.trace.rules.rows import Size

KEPT = 32
"""Results among which what is read is looked for."""
CLONES = ("clone", "contiguous")
SUMS = ("add", "embedding")
MOST_PARTS = 8
"""As many as one of them is smaller than the result: keys of a joined projection."""
FEW = 2
"""Dimensions up to which a part must be of a result of just that form: a vector is a weight."""
Shape = tuple[int, ...]


@dataclass
class Written:
    """A result, how often it was read since, and whether it is a sum."""

    size: Size
    is_sum: bool
    reads: int = 0


@dataclass
class Memory:
    """Results of the operators so far, the latest last. ``empty``: tensors without elements that
    were made and not joined yet, as new caches are."""

    results: deque[Written] = field(default_factory=lambda: deque(maxlen=KEPT))
    empty: int = 0

    def read(
        self, base: str, sizes: Sequence[Size], but: Sequence[Written] = ()
    ) -> tuple[Size, ...]:
        """Inputs of the operator ``base`` with their strides; the last is looked for first.
        ``but``: results that are none of them."""
        found: list[Size] = []
        taken: list[Written] = list(but)
        for size in reversed(sizes):
            twin = any(size.shape == other.shape for other in found)
            source = self._source(size, base, taken, twin)
            if source is None:
                found.append(size)
                continue
            written, strides = source
            taken.append(written)
            written.reads += 1
            found.append(lying(size, strides))
        read = tuple(reversed(found))
        if base in CLONES and len(read) == 1 and is_dense(read[0]) and not any(read[0].expanded):
            return (lying(read[0], swapped(read[0].shape)),)
        return read

    def write(self, base: str, size: Size) -> None:
        if size.numel:
            self.results.append(Written(size, base in SUMS))
        else:
            self.empty += 1

    def parts(self, out: Size) -> list[Size]:
        """What was joined to ``out``: the latest result that is a part of it, and the rest."""
        if self.empty:
            self.empty -= 1
            return [Size((0,), out.dtype, expanded=(False,)), *self.read("", [out])]
        for one in reversed(self.results):
            for d in reversed(range(len(out.shape))):
                cut = cut_to(out.shape, d, one.size.numel)
                if cut is None or one.size.dtype != out.dtype:
                    continue
                shape, rest = cut
                strides = whole(one.size.shape, strides_of(one.size, one.size), shape)
                if strides is not None:
                    one.reads += 1
                    first = lying(replace(out, shape=shape), strides)
                    other = Size(rest, out.dtype, expanded=(False,) * len(rest))
                    # Of a cache nothing is left to be found; halves are of one result.
                    return [first, *(self.read("", [other], [one]) if rest == shape else [other])]
        return [out]

    def _source(
        self, size: Size, base: str, taken: Sequence[Written], twin: bool
    ) -> tuple[Written, Shape] | None:
        """The result that ``size`` is, and the strides under which it is read. ``twin``: another
        input of the shape was found already."""
        candidates = list(self._candidates(size, base, taken))
        if twin:
            same = [one for one in candidates if one[0].size.numel == size.numel]
            fresh = [one for one in same if not one[0].reads]
            sums = [one for one in same if one[0].is_sum]
            return next(iter([*fresh, *sums, *same]), None)
        return next(iter(candidates), None)

    def _candidates(
        self, size: Size, base: str, taken: Sequence[Written]
    ) -> Iterator[tuple[Written, Shape]]:
        for written in reversed(self.results):
            of = written.size
            if of.dtype != size.dtype or any(written is one for one in taken):
                continue
            own = of.strides or dense(of.shape)
            strides = seen(of.shape, own, size.shape, base in CLONES)
            if strides is not None:
                yield written, strides


def cut_to(shape: Shape, d: int, count: int) -> tuple[Shape, Shape] | None:
    """A part of ``count`` elements and the rest, where dimension ``d`` can be cut so."""
    row = math.prod(shape) // shape[d]
    if count % row or not 0 < count // row < shape[d]:
        return None
    n = count // row
    first, second = ((*shape[:d], m, *shape[d + 1 :]) for m in (n, shape[d] - n))
    return first, second


def lying(size: Size, strides: Shape) -> Size:
    """``size`` with ``strides``."""
    expanded = tuple(n > 1 and s == 0 for n, s in zip(size.shape, strides, strict=True))
    across = len(size.shape) > 1 and size.shape[-1] > 1 and strides[-1] > 1
    return replace(size, strides=strides, expanded=expanded, transposed=across)


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


def permuted(strides: Sequence[int], order: Sequence[int]) -> Shape:
    """Strides of dimensions ``order`` put back into their own order."""
    found = [0] * len(order)
    for place, d in enumerate(order):
        found[d] = strides[place]
    return tuple(found)


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
    """Orders of the dimensions that are no ones, those with fewest displaced first."""
    places = [d for d, n in enumerate(shape) if n > 1]
    if len(places) > 5:
        return (tuple(range(len(shape))),)
    found = []
    for some in permutations(places):
        moved = iter(some)
        found.append(tuple(d if n == 1 else next(moved) for d, n in enumerate(shape)))
    displaced = [(sum(d != i for i, d in enumerate(order)), order) for order in found]
    return tuple(order for _, order in sorted(displaced))


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
    """One dimension is so many times as long, the last sooner than another."""
    for d in reversed(range(len(wanted))):
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


def written(base: str, size: Size, inputs: Sequence[Size], pointwise: bool) -> Size:
    """The result ``size`` as torch lays it: of maps and casts like the inputs, of fused attention
    like its queries; of anything else in order."""
    if base in CLONES:
        return size
    if pointwise or base in LIKE_INPUTS:
        read = [s for s in inputs if s.shape]
        whole_ = [s for s in read if s.shape == size.shape and not any(s.expanded)]
        return lying(size, laid_out(size.shape, tuple(strides_of(s, size) for s in whole_)))
    if "attention" in base and inputs and len(inputs[0].shape) == len(size.shape):
        query = inputs[0]
        return lying(size, laid_out(size.shape, (strides_of(query, query),)))
    return size


LIKE_INPUTS = ("_to_copy", "softmax", "_softmax", "native_dropout", "masked_fill")


def strides_of(size: Size, among: Size) -> Shape:
    return strides_in(size, among.shape)


@lru_cache(maxsize=65536)
def laid_out(shape: Shape, inputs: tuple[Shape, ...]) -> Shape:
    """Strides of a dense result whose dimensions lie in the order of those of ``inputs``."""
    if not inputs:
        return dense(shape)
    tensors = [torch.empty_strided(shape, strides, device="meta") for strides in inputs]
    made = tensors[0]
    for tensor in tensors[1:]:
        made = made + tensor
    return tuple((made + made).stride())
