"""Positions and attention masks that an implementation prepares before its layers run.

Small work, but many launches; and a mask of all pairs is memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model.layer import Layer, Step, call, free
from model.ops import Elementwise, Other, item_bytes


class Masks(Layer):
    """Steps before the layers of a language model; ``kept_bytes`` live until its end."""

    @property
    def kept_bytes(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Positions(Masks):
    """The positions of the new tokens: a causal model needs no mask beside SDPA's own."""

    mirrors = "LlamaModel, Qwen3MoeModel"
    tokens: int

    def forward(self) -> Iterator[Step]:
        yield arange(self.tokens)
        yield shift(self.tokens)
        yield free(self.tokens, "int64")

    @property
    def kept_bytes(self) -> Any:
        return self.tokens * item_bytes("int64")


@dataclass(frozen=True)
class ReferenceMasks(Masks):
    """The attention masks that UnlimitedOcr builds in every pass, though full attention skips them.

    Positions are prepared for the causal mask, which is then found superfluous; the mask of
    reference sliding attention is built whole, [tokens, context] of bool, and not used.
    """

    mirrors = "create_causal_mask, create_reference_sliding_window_causal_mask"
    batch: int
    tokens: int
    context: int

    def forward(self) -> Iterator[Step]:
        tokens, context = self.tokens, self.context
        pairs = tokens * context
        yield arange(tokens)
        yield shift(tokens)
        yield arange(self.batch)
        yield arange(1)
        yield arange(tokens)
        yield shift(tokens)
        yield arange(context)
        yield shift(context)
        yield call(Other("new_zeros", written=tokens, dtype="bool"))
        yield call(Other("new_ones", written=tokens, dtype="bool"))
        yield shift(tokens)
        yield compare(pairs, tokens + context)
        yield from both(pairs, 1, tokens)
        yield compare(pairs, tokens + context)
        yield from both(pairs, 2, 0)
        yield from both(pairs, 1, tokens)
        yield call(Other("new_ones", written=tokens, dtype="bool"))
        yield compare(pairs, tokens + context)
        yield from both(pairs, 1, tokens)
        yield shift(context)
        yield call(Elementwise(context, dtype="int64", out_dtype="bool"))
        yield from both(pairs, 1, context, axes=1 if is_single(tokens) else 2)
        yield from both(pairs, 2, 0)
        # All indices but the positions, and the masks that do not hold all pairs.
        yield free(4 * tokens + 3 * context + self.batch + 1, "int64")
        yield free(3 * tokens + context, "bool")

    @property
    def kept_bytes(self) -> Any:
        """The positions and the mask."""
        mask = self.tokens * self.context * item_bytes("bool")
        return mask + self.tokens * item_bytes("int64")


@dataclass(frozen=True)
class HybridMasks(Masks):
    """Patches that see each other, then queries that see patches and the queries before them."""

    mirrors = "create_causal_mask"
    batch: int
    tokens: int
    patches: int

    @property
    def mask(self) -> Any:
        """Elements of the mask."""
        return self.batch * self.tokens * self.tokens

    def forward(self) -> Iterator[Step]:
        batch, tokens, index = self.batch, self.tokens, item_bytes("int64")
        pairs, rows = tokens * tokens, batch * tokens
        yield arange(tokens)
        yield call(Other("full", written=rows * index, dtype="int64"))
        patches = batch * self.patches * index
        yield free(batch * self.patches, "int64")
        yield call(Other("fill", read=index, written=patches, dtype="int64"))
        yield arange(batch)
        yield arange(1)
        for _ in range(2):
            yield arange(tokens)
            yield shift(tokens)
        yield call(Other("new_zeros", written=item_bytes("bool"), dtype="bool"))
        yield compare(pairs, 2 * tokens)
        yield from both(pairs, 1, 1, axes=1)
        read = (rows + batch + tokens) * index
        block = Other("index", read=read, written=rows * index, dtype="int64")
        yield call(block, count=2)
        yield compare(self.mask, 2 * rows, axes=2 + (batch > 1))
        yield call(Elementwise(rows, dtype="int64", out_dtype="bool"))
        yield from both(self.mask, 1, rows)
        axes = 1 + (batch > 1)
        yield call(Elementwise(self.mask, dtype="bool", broadcast=pairs, axes=axes))
        yield free(self.mask + pairs + rows + 1, "bool")
        # All indices but the positions and the blocks.
        yield free(4 * tokens + 2 * rows + batch + 1, "int64")

    @property
    def kept_bytes(self) -> Any:
        """The mask, the positions, and the block of each token."""
        indices = (self.batch + 1) * self.tokens * item_bytes("int64")
        return self.mask * item_bytes("bool") + indices


def is_single(tokens: Any) -> bool:
    """Whether one position is asked: every mask is then one row."""
    return isinstance(tokens, int) and tokens == 1


def arange(count: Any) -> Step:
    return call(Other("arange", written=count * item_bytes("int64"), dtype="int64"))


def shift(count: Any) -> Step:
    return call(Elementwise(count, dtype="int64"))


def compare(pairs: Any, positions: Any, axes: int = 2) -> Step:
    """Positions of queries against positions of keys: a truth value for each pair."""
    return call(Elementwise(pairs, 0, 1, 1, "int64", positions, "bool", axes=axes))


def both(pairs: Any, inputs: int, broadcast: Any, axes: int | None = None) -> Iterator[Step]:
    """Two masks joined by and (or by or): ``inputs`` of them hold all pairs, and then go."""
    walk = (2 if inputs == 1 else 1) if axes is None else axes
    yield call(Elementwise(pairs, inputs, dtype="bool", broadcast=broadcast, axes=walk))
    yield free(inputs * pairs, "bool")
