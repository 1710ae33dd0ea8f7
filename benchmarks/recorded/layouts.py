"""How the tensors of recorded operators lie in memory, told from what was written before.

A profile has shapes and no strides, and views leave no trace of their own. But whatever an
operator reads was written by an earlier one, and torch's own rules say how that lay. The latest
result of as many elements and of the same type that can be seen in the shape which is read is
taken for it:

- in order, where dimensions only split or merge: [512, 4096] as [1, 512, 32, 128];
- turned, where they do so in another order: [512, 4096] as [1, 32, 512, 128];
- a part of it, where one dimension is too short: half a head, a third of a joined projection;
- repeated, where it has one dimension less: keys that several heads share.

Of two inputs of one size the last is the latest result, and the one before it the other half of
what that was made of, or the latest that nobody has read yet, or else the latest sum: a residual
stream. A clone whose input seems to lie in order was asked for by code that wanted it in order, so
it did not: two dimensions had changed places. What nothing explains is dense: weights, and a
model's inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from benchmarks.recorded.views import Shape, cut_to, permuted, refines, seen, swapped
from calib.trace.rules.layouts import dense, is_dense
from calib.trace.rules.rows import Size

KEPT = 64
"""Results among which what is read is looked for."""
CLONES = ("clone", "contiguous")
SUMS = ("add", "embedding")
LATEST = 16
NEAR = 3
"""The same, where little speaks for it."""
TWINS = 2


@dataclass(eq=False)
class Written:
    """A result: how often the whole of it was read since, and parts; whether it is a sum, and
    whether it was joined."""

    size: Size
    is_sum: bool
    is_joined: bool
    reads: int = 0
    parts: int = 0

    def read_as(self, size: Size) -> None:
        if size.numel < self.size.numel:
            self.parts += 1
        else:
            self.reads += 1


Found = tuple[Written, Shape]
"""A result, and the strides under which it is read."""


@dataclass
class Memory:
    """Results of the operators so far, the latest last. ``empty``: tensors without elements that
    were made and not joined yet, as new caches are."""

    results: deque[Written] = field(default_factory=lambda: deque(maxlen=KEPT))
    empty: int = 0

    def read(self, base: str, sizes: Sequence[Size]) -> tuple[Size, ...]:
        """Inputs of the operator ``base`` with their strides; the last is looked for first."""
        largest = max((size.numel for size in sizes), default=0)
        found: list[Size] = []
        taken: list[Found] = []
        for size in reversed(sizes):
            twin = any(size.numel == other.numel for other in found)
            source = self._source(size, base, taken, twin, size.numel < largest)
            if source is not None:
                source[0].read_as(size)
                taken.append(source)
                if base in CLONES:  # a bias that each layer clones stays known
                    self.results.remove(source[0])
                    self.results.append(source[0])
            elif taken and len(sizes) == TWINS and size.shape == sizes[-1].shape:
                found[0], source = size, taken[0]  # a weight is added to a result
            found.append(size if source is None else lying(size, source[1]))
        read = tuple(reversed(found))
        if base in CLONES and len(read) == 1 and is_dense(read[0]) and not any(read[0].expanded):
            return (lying(read[0], swapped(read[0].shape)),)
        return read

    def write(self, base: str, size: Size, joined: bool = False) -> None:
        if size.numel:
            self.results.append(Written(size, base in SUMS, joined))
        else:
            self.empty += 1

    def parts(self, out: Size, new: int | None = None, values: bool = False) -> list[Size]:
        """What was joined to ``out``. ``new``: of keys and values, how many are joined to a cache;
        ``values``: they are values, which no positions were added to.

        A result that nobody read yet and that is all of ``out`` was joined to an empty one. Else
        the latest result that is a part of it, and the rest; a cache's own part is dense.
        """
        unread = next((o for o in self._latest() if not (o.reads or o.is_joined)), None)
        strides = None if unread is None else self._as(unread, out)
        if self.empty or strides:
            self.empty = max(self.empty - 1, 0)
            nothing = Size((0,), out.dtype, expanded=(False,))
            return [nothing, lying(out, strides) if strides else self.read("", [out])[0]]
        for shape, rest, one in self._joints(out, new, values):
            part_ = replace(out, shape=shape, expanded=(False,) * len(shape))
            other = Size(rest, out.dtype, expanded=(False,) * len(rest))
            strides = self._as(one, part_)
            if strides is not None:
                one.read_as(part_)
                found = None if new else next(self._candidates(other, "", [(one, strides)]), None)
                return [lying(part_, strides), lying(other, found[1]) if found else other]
        return [out]

    def _latest(self) -> list[Written]:
        return list(reversed(self.results))[:LATEST]

    def _as(self, one: Written, size: Size, repeats: bool = False) -> Shape | None:
        if one.size.dtype != size.dtype:
            return None
        return seen(one.size.shape, strides_of(one.size), size.shape, repeats)

    def _joints(
        self, out: Size, new: int | None, values: bool
    ) -> Iterator[tuple[Shape, Shape, Written]]:
        """Where ``out`` may have been joined, of what: of the new keys that are known, or of all of
        a result, the latest sooner. A batch is not."""
        d = len(out.shape) - 2
        if new and d > 0 and new < out.shape[d]:
            count = out.numel // out.shape[d] * new
            cut = cut_to(out.shape, d, count)

            def unlikely(one: Written) -> tuple[bool, ...]:
                placed = values and (one.is_sum or one.is_joined)
                return placed, one.reads > 0, one.size.numel != count

            yield from ((*cut, one) for one in sorted(self._latest(), key=unlikely) if cut)
            return
        for one in reversed(self.results):
            for d in reversed(range(int(len(out.shape) > 2), len(out.shape))):
                cut = cut_to(out.shape, d, one.size.numel)
                if cut is not None:
                    yield (*cut, one)

    def _source(
        self, size: Size, base: str, taken: Sequence[Found], twin: bool, small: bool
    ) -> Found | None:
        """The result that ``size`` is. ``twin``: another input as large was found already;
        ``small``: a larger input stands beside it, along which it is repeated."""
        candidates = self._candidates(size, base, taken)
        if small:
            same = (one for one in candidates if one[0].size.numel == size.numel)
            return next((o for o in same if refines(o[0].size.shape, size.shape)), None)
        if not twin:
            return next(candidates, None)
        known = list(candidates)
        halves = [o for o in known if o[0].parts == 1 and o[0].size.numel == 2 * size.numel]
        if halves and halves[0][0] in list(self.results)[-NEAR:]:
            return halves[0]
        same_ = [one for one in known if one[0].size.numel == size.numel]
        same_ = [one for one in same_ if refines(one[0].size.shape, size.shape)] or same_
        fresh = [one for one in same_ if not one[0].reads]
        sums = [one for one in same_ if one[0].is_sum]
        return next(iter([*fresh, *sums, *same_]), None)

    def _candidates(self, size: Size, base: str, taken: Sequence[Found]) -> Iterator[Found]:
        for one in reversed(self.results):
            if not any(one is other for other, _ in taken):
                strides = self._as(one, size, base in CLONES)
                if strides is not None:
                    yield one, strides


def lying(size: Size, strides: Shape) -> Size:
    """``size`` with ``strides``."""
    expanded = tuple(n > 1 and s == 0 for n, s in zip(size.shape, strides, strict=True))
    across = len(size.shape) > 1 and size.shape[-1] > 1 and strides[-1] > 1
    return replace(size, strides=strides, expanded=expanded, transposed=across)


def written(base: str, size: Size, inputs: Sequence[Size], pointwise: bool) -> Size:
    """The result ``size`` as torch lays it: of maps and casts like the inputs, of fused attention
    like its queries; of anything else in order."""
    if base in CLONES:
        return size
    if pointwise or base in LIKE_INPUTS:
        read = [s for s in inputs if s.shape]
        whole_ = [s for s in read if s.shape == size.shape and not any(s.expanded)]
        return lying(size, laid_out(size.shape, tuple(strides_of(s) for s in whole_)))
    if base == "convolution" and inputs and innermost(inputs[0]) == 1:
        order = (0, *range(2, len(size.shape)), 1)
        return lying(size, permuted(dense(tuple(size.shape[d] for d in order)), order))
    if "attention" in base and inputs and len(inputs[0].shape) == len(size.shape):
        return lying(size, laid_out(size.shape, (strides_of(inputs[0]),)))
    return size


LIKE_INPUTS = ("_to_copy", "softmax", "_softmax", "native_dropout", "masked_fill")


def strides_of(size: Size) -> Shape:
    return size.strides or dense(size.shape)


def innermost(size: Size) -> int:
    """The dimension whose neighbours lie side by side."""
    places = [d for d, n in enumerate(size.shape) if n > 1]
    return min(places, key=lambda d: strides_of(size)[d], default=-1)


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
