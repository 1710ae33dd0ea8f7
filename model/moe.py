"""A mixture of experts: the router, the routed experts, and the ones that every token takes.

A token goes to ``top_k`` of ``experts``. Products and activations cost what that many rows cost;
what is read are the weights of the experts that any token of the batch chose, once a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Child, Layer, Live, Step, call, free
from model.linear import Activation, SwiGlu, add, cast, product_dtypes, quantised
from model.ops import (
    Copy,
    Elementwise,
    Gather,
    GroupedMatmul,
    Matmul,
    Other,
    Reduction,
    Softmax,
    item_bytes,
)


@dataclass(frozen=True)
class Routing:
    """What one layer's router did: distinct experts touched, and the rows of the busiest."""

    active_experts: float
    max_load: float | None = None

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> Routing:
        """From the number of rows that each expert was given."""
        return cls(sum(count > 0 for count in counts), max(counts))


def as_routing(routing: float | Routing | None) -> Routing | None:
    """A plain number means the distinct experts touched."""
    if routing is None or isinstance(routing, Routing):
        return routing
    return Routing(routing)


@dataclass(frozen=True)
class Router(Layer):
    """Softmax scores of all experts in float32, the ``top_k`` best of them, scaled."""

    mirrors = "UnlimitedOcrTextTopkRouter"
    rows: int
    hidden: int
    experts: int
    top_k: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        rows, experts, chosen = self.rows, self.experts, self.rows * self.top_k
        yield from cast(rows * self.hidden, self.dtype, "float32")
        yield from cast(experts * self.hidden, self.dtype, "float32")
        yield call(Matmul(m=rows, n=experts, k=self.hidden, dtype="float32"))
        if self.dtype != "float32":
            yield free((rows + experts) * self.hidden, "float32")
        yield call(Softmax(rows, experts, dtype="float32"))
        yield best(rows, experts, self.top_k)
        yield call(Elementwise(chosen, dtype="float32"))
        # Unscaled weights and scores go; logits, weights and indices are the result.
        yield free(chosen + rows * experts, "float32")

    @property
    def result_bytes(self) -> Any:
        chosen = self.rows * self.top_k
        scores = (self.rows * self.experts + chosen) * item_bytes("float32")
        return scores + chosen * item_bytes("int64")

    def parameters(self) -> Any:
        return self.experts * self.hidden


@dataclass(frozen=True)
class NormalisedRouter(Router):
    """Logits in the model's type; the scores of the ``top_k`` best are made to sum to 1."""

    mirrors = "Qwen3MoeTopKRouter"

    def forward(self) -> Iterator[Step]:
        rows, experts, chosen = self.rows, self.experts, self.rows * self.top_k
        yield call(Matmul(m=rows, n=experts, k=self.hidden, dtype=self.dtype))
        yield from cast(rows * experts, self.dtype, "float32")
        yield call(Softmax(rows, experts, dtype="float32"))
        if self.dtype != "float32":
            yield free(rows * experts, "float32")
        yield best(rows, experts, self.top_k, in_order=True)
        yield call(Reduction(rows, self.top_k, dtype="float32"))
        # Divided in place.
        yield free(chosen, "float32")
        yield call(Elementwise(chosen, dtype="float32", broadcast=rows, axes=2))
        yield free(rows, "float32")
        yield from cast(chosen, "float32", self.dtype)
        if self.dtype != "float32":
            yield free(chosen, "float32")
        yield free(rows * experts, "float32")

    @property
    def result_bytes(self) -> Any:
        chosen = self.rows * self.top_k
        scores = (self.rows * self.experts + chosen) * item_bytes(self.dtype)
        return scores + chosen * item_bytes("int64")


def best(rows: Any, experts: Any, top_k: Any, in_order: bool = False) -> Step:
    """The indices and the float32 scores of the ``top_k`` largest of each row; ``in_order``: the
    largest first, which a card sorts them for."""
    number, index = item_bytes("float32"), item_bytes("int64")
    return call(
        Other(
            "topk_sorted" if in_order else "topk",
            read=rows * experts * number,
            written=rows * top_k * (number + index),
            arithmetic=rows * experts,
            dtype="float32",
        )
    )


@dataclass(frozen=True)
class Experts(Layer):
    """``rows`` tokens, each through ``top_k`` of ``experts`` SwiGLUs, as ``grouped_mm`` does it.

    The (token, expert) pairs are sorted by expert, gathered, run through two grouped products,
    weighted, put back into order and summed over a token's experts. ``routing``: what the router
    did (None: the expectation under uniform routing). ``score_dtype``: the type of the weights.
    """

    mirrors = "UnlimitedOcrTextExperts, Qwen3MoeExperts"
    rows: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    routing: Routing | None = None
    score_dtype: str = "float32"

    @property
    def pairs(self) -> Any:
        return self.rows * self.top_k

    def parameters(self) -> Any:
        return 3 * self.experts * self.hidden * self.intermediate

    def forward(self) -> Iterator[Step]:
        yield from self.sort_by_expert()
        inner, features = self.pairs * self.intermediate, self.pairs * self.hidden
        yield from self.product(2 * self.intermediate, self.hidden)
        # Gate and up lie side by side in each row of the first product.
        yield Child("act_fn", Activation(inner, "silu", self.dtype, axes=2))
        yield call(Elementwise(inner, inputs=2, dtype=self.dtype, axes=2))
        yield free(3 * inner, self.dtype)
        yield from self.product(self.hidden, self.intermediate)
        yield free(inner, self.dtype)
        yield from self.combine()
        # The rows gathered for the experts and what the experts made of them.
        yield free(2 * features, self.dtype)
        # Expert and order of each pair, and its weight; counts and ends of each expert's rows.
        yield free(2 * self.pairs, "int64")
        yield free(self.pairs, self.score_dtype)
        yield free(self.experts, "float32")
        yield free(self.experts, "int32")

    def product(self, n: Any, k: Any) -> Iterator[Step]:
        made = list(quantised(self.pairs * k, self.dtype, self.weight_dtype))
        yield from made
        routed = self.routing
        dtypes: Any = product_dtypes(self.dtype, self.weight_dtype)
        op = GroupedMatmul(
            tokens=self.rows,
            experts=self.experts,
            top_k=self.top_k,
            n=n,
            k=k,
            active_experts=routed.active_experts if routed else None,
            max_load=routed.max_load if routed else None,
            **dtypes,
        )
        yield call(op)
        if made:
            yield free(self.pairs * k, str(self.weight_dtype))

    def sort_by_expert(self) -> Iterator[Step]:
        """Pairs in the order of their experts, and where the rows of each expert end."""
        index, number = item_bytes("int64"), item_bytes("float32")
        pairs, experts = self.pairs, self.experts
        sorted_and_order = 2 * pairs * index
        yield call(Other("sort", read=pairs * index, written=sorted_and_order, dtype="int64"))
        yield call(Elementwise(pairs, dtype="int64"))
        yield call(Gather(pairs, self.hidden, dtype=self.dtype))
        yield free(pairs, "int64")
        yield call(Gather(pairs, 1, dtype=self.score_dtype))
        yield call(Copy(pairs, dtype="int64", out_dtype="float32"))
        read, written = pairs * number, experts * number
        yield call(Other("histc", read=read, written=written, arithmetic=pairs, dtype="float32"))
        offsets = experts * item_bytes("int32")
        yield free(pairs, "float32")
        yield call(
            Other("cumsum", read=written, written=offsets, arithmetic=experts, dtype="float32")
        )

    def combine(self) -> Iterator[Step]:
        """Weights in float32 make the products float32 until the sum over a token's experts."""
        index, number = item_bytes("int64"), item_bytes(self.score_dtype)
        pairs, rows, features = self.pairs, self.rows * self.hidden, self.pairs * self.hidden
        # One weight a pair, counted in elements of ``dtype``.
        weights = pairs * number // item_bytes(self.dtype)
        weighted = Elementwise(features, dtype=self.dtype, broadcast=weights, axes=2)
        yield call(replace(weighted, out_dtype=self.score_dtype))
        yield call(Other("empty_like", dtype="int64"))
        yield call(Other("arange", written=pairs * index, dtype="int64"))
        moved = 2 * pairs * index
        yield call(Other("index_put", read=moved, written=pairs * index, dtype="int64"))
        yield free(pairs, "int64")
        yield call(Gather(pairs, self.hidden, dtype=self.score_dtype))
        yield free(features, self.score_dtype)
        yield call(Reduction(rows, self.top_k, dtype=self.score_dtype))
        yield from cast(rows, self.score_dtype, self.dtype)
        yield free(features, self.score_dtype)
        if self.dtype != self.score_dtype:
            yield free(rows, self.score_dtype)
        yield free(pairs, "int64")


@dataclass(frozen=True)
class MixtureOfExperts(Layer):
    """Routed experts and, where ``shared`` is given, one that every token takes."""

    mirrors = "UnlimitedOcrTextMoe, Qwen3MoeSparseMoeBlock"
    gate: Router
    experts: Experts
    shared: SwiGlu | None = None

    def forward(self) -> Iterator[Step]:
        yield Child("gate", self.gate)
        yield Child("experts", self.experts)
        if self.shared is not None:
            elements = self.experts.rows * self.experts.hidden
            yield Child("shared_experts", self.shared)
            yield add(elements, self.experts.dtype)
            yield free(2 * elements, self.experts.dtype)
        yield Live(-self.gate.result_bytes)
