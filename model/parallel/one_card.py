"""What one card of a stage runs: the layers of a language model, narrower, with what the cards tell
each other.

- attention: heads of queries, keys and values by ``tp``, then an all-reduce. Keys and values of
  which there are fewer heads than cards lie on several, as vLLM has it;
- SwiGLU: its inner width by ``tp``, then an all-reduce;
- experts: whole ones by ``ep``, their inner width by ``tp * dp / ep``;
- embedding and head: the vocabulary by ``tp``, then an all-reduce, an all-gather of the logits;
- norms, router, rotary positions, residuals: not at all, every card of ``tp`` does the same.

Experts without ``dp``: all cards have the same tokens, each runs its part, and the mixture's one
all-reduce adds them up. With ``dp`` tokens differ: every (token, expert) pair goes to the card of
its expert and comes back (an all-to-all each way, of the tokens that this card of ``tp`` stands
for), then the cards of ``tp`` gather them; where experts are split only (``ep`` = 1), tokens are
gathered over the stage and results reduced and scattered. Shared experts are a SwiGLU.

Pairs are spread evenly over the groups, as far as whole numbers go; a real router loads one more
than another. Vocabulary and pairs need not divide: the first cards have one more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from model.causal_lm import Language
from model.decoder import SelfAttention
from model.layer import Call, Child, Layer, Live, Step
from model.linear import Embedding, Linear, SwiGlu
from model.moe import Experts, MixtureOfExperts, Routing
from model.ops import AllGather, AllReduce, AllToAll, Collective, ReduceScatter, item_bytes
from model.ops.routing import distinct_experts
from model.parallel.layout import Layout, LayoutError, divided, share


@dataclass(frozen=True, eq=False)
class OneCard(Layer):
    """``of`` with other ``steps``: what is left of it on a card, and collectives. ``owns``: its own
    parameters are there."""

    of: Layer
    mirrors: str
    steps: tuple[Step, ...]
    owns: bool = True

    @property
    def class_name(self) -> str:
        return self.of.class_name

    def forward(self) -> Iterator[Step]:
        return iter(self.steps)

    def parameters(self) -> Any:
        return self.of.parameters() if self.owns else 0

    def parameter_dtype(self) -> str:
        return self.of.parameter_dtype()

    def own_weight_bytes(self) -> Any:
        return self.of.own_weight_bytes() if self.owns else 0

    def own_kv_cache_bytes(self) -> Any:
        return self.of.own_kv_cache_bytes()


@dataclass(frozen=True)
class Nothing(Layer):
    """A card that has no part in a pass."""

    def forward(self) -> Iterator[Step]:
        return iter(())


def on_card(of: Layer, steps: Iterator[Step] | tuple[Step, ...]) -> OneCard:
    return OneCard(of, of.mirrors, tuple(steps))


def told(op: Collective, path: str = "") -> Iterator[Step]:
    """A collective whose result takes the place of what went in, where it is no larger."""
    if op.ranks > 1:
        read, written = op.bytes_read, op.bytes_written
        yield Live(-(min(read, written) if np.ndim(read) == 0 else np.minimum(read, written)))
        yield Call(path, op)


@dataclass(frozen=True)
class Place:
    """A card of a stage: ``rank`` from 0 to ``tp * dp - 1``. ``others``: sequences of all groups
    over those of this one, whose tokens an expert sees too."""

    layout: Layout
    rank: int = 0
    others: tuple[int, int] = (1, 1)
    known: dict[Layer, Layer] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tp_rank(self) -> int:
        return self.rank % self.layout.tp

    def of_root(self, root: Language) -> OneCard:
        """The language model and its head."""
        steps: list[Step] = []
        for step in root.steps:
            if isinstance(step, Child) and step.layer == root.lm_head:
                steps += self.head(step.name, root.lm_head)
            elif isinstance(step, Child):
                steps.append(Child(step.name, self.of(step.layer)))
            else:
                steps.append(step)
        return on_card(root, tuple(steps))

    def of(self, layer: Layer) -> Layer:
        """By the table above; equal layers are made once."""
        if layer not in self.known:
            self.known[layer] = self._of(layer)
        return self.known[layer]

    def _of(self, layer: Layer) -> Layer:
        if isinstance(layer, SelfAttention):
            return self.reduced(self.attention(layer), layer.rows * layer.hidden, layer.dtype)
        if isinstance(layer, SwiGlu):
            return self.reduced(self.swiglu(layer), layer.rows * layer.hidden, layer.dtype)
        if isinstance(layer, Embedding):
            return self.reduced(self.embedding(layer), layer.rows * layer.cols, layer.dtype)
        if isinstance(layer, MixtureOfExperts):
            return on_card(layer, self.mixture(layer))
        return self.inside(layer)

    def inside(self, layer: Layer) -> Layer:
        steps = tuple(
            Child(step.name, self.of(step.layer)) if isinstance(step, Child) else step
            for step in layer.steps
        )
        return layer if steps == layer.steps else on_card(layer, steps)

    def reduced(self, layer: Layer, elements: Any, dtype: str) -> OneCard:
        """``layer``, whose result on each card is a term of a sum over ``tp``."""
        return on_card(layer, (*layer.steps, *told(self.all_reduce(elements, dtype))))

    def all_reduce(self, elements: Any, dtype: str) -> AllReduce:
        tp = self.layout.tp
        return AllReduce(elements, tp, dtype, self.layout.nodes(tp))

    def attention(self, layer: SelfAttention) -> SelfAttention:
        heads = divided("tp", self.layout.tp, "heads", layer.heads)
        return replace(layer, heads=heads, kv_heads=kv_heads(layer.kv_heads, self.layout.tp))

    def swiglu(self, layer: SwiGlu) -> SwiGlu:
        inner = divided("tp", self.layout.tp, "intermediate", layer.intermediate)
        return replace(layer, intermediate=inner)

    def embedding(self, layer: Embedding) -> Embedding:
        return replace(layer, vocabulary=share(layer.vocabulary, self.layout.tp, self.tp_rank))

    def head(self, name: str, layer: Linear) -> Iterator[Step]:
        tp = self.layout.tp
        yield Child(name, replace(layer, outputs=share(layer.outputs, tp, self.tp_rank)))
        gathered = AllGather(layer.rows * layer.outputs, tp, layer.dtype, self.layout.nodes(tp))
        yield from told(gathered, name)

    # Experts

    def mixture(self, layer: MixtureOfExperts) -> Iterator[Step]:
        experts = layer.experts
        for step in layer.steps:
            if not isinstance(step, Child):
                yield step
            elif step.layer is layer.experts:
                yield from self.routed(step.name, experts)
            elif step.layer is layer.shared:
                yield Child(step.name, self.swiglu(layer.shared))
            else:
                yield step
        if self.layout.dp == 1 or layer.shared is not None:
            yield from told(self.all_reduce(experts.rows * experts.hidden, experts.dtype))

    def routed(self, name: str, whole: Experts) -> Iterator[Step]:
        """This card's experts, between what is told before and after them."""
        mine, rows = self.experts(whole)
        before, after = self.exchange(whole)
        yield from (step for op in before for step in told(op, name))
        yield Child(name, mine)
        yield Live((whole.rows - rows) * whole.hidden * item_bytes(whole.dtype))
        yield from (step for op in after for step in told(op, name))

    def experts(self, whole: Experts) -> tuple[Layer, Any]:
        """Those of this card, and the rows of their result."""
        layout, rows = self.layout, self.all_rows(whole.rows)
        inner = divided("tp", layout.expert_tp, "expert_intermediate", whole.intermediate)
        held = replace(whole, rows=rows, intermediate=inner)
        if layout.ep == 1:
            return held, rows
        held = replace(held, experts=divided("ep", layout.ep, "experts", whole.experts))
        pairs = rows * whole.top_k
        own = share(pairs, layout.ep, self.rank // layout.expert_tp)
        if is_none(own):
            return on_card(held, ()), 0
        return replace(held, rows=own, top_k=1, routing=self.routing(whole, own, pairs)), own

    def routing(self, whole: Experts, own: Any, pairs: Any) -> Routing:
        """Of ``own`` pairs: experts touched in proportion, of one pair one."""
        routed, rows = whole.routing, self.all_rows(whole.rows)
        expected = distinct_experts(whole.experts, whole.top_k, rows)
        touched = routed.active_experts if routed else expected
        least = np.maximum(touched * own / pairs, 1.0)
        return Routing(
            least.item() if np.ndim(least) == 0 else least, routed.max_load if routed else None
        )

    def all_rows(self, rows: Any) -> Any:
        """Tokens of all groups."""
        whole, own = self.others
        return rows * whole // own

    def exchange(self, whole: Experts) -> tuple[list[Collective], list[Collective]]:
        """What is told before the experts and after them."""
        layout = self.layout
        if layout.dp == 1:
            return [], []
        ranks, tp, width, dtype = layout.stage_cards, layout.tp, whole.hidden, whole.dtype
        nodes = layout.nodes(ranks)
        if layout.ep == 1:
            every = self.all_rows(whole.rows) * width
            spread = ReduceScatter(every, ranks, dtype, nodes)
            return [AllGather(every, ranks, dtype, nodes)], [spread, *self.regathered(whole)]
        tokens = -(-whole.rows // tp)
        pairs = tokens * whole.top_k * layout.expert_tp * width
        there = AllToAll(pairs, ranks, dtype, nodes)
        return [there], [there, *self.regathered(whole)]

    def regathered(self, whole: Experts) -> list[Collective]:
        """The tokens of the group on all its cards again."""
        tp = self.layout.tp
        every = whole.rows * whole.hidden
        return [AllGather(every, tp, whole.dtype, self.layout.nodes(tp))] if tp > 1 else []


def is_none(count: Any) -> bool:
    """Whether a number is 0; an array of them is taken not to be."""
    return np.ndim(count) == 0 and count == 0


def kv_heads(heads: int, tp: int) -> int:
    """Of a card: as a fraction where it is whole, else one that several cards hold.

    Raises ``LayoutError`` for a number of cards that neither divides nor is divided.
    """
    if heads % tp == 0:
        return heads // tp
    if tp % heads == 0:
        return 1
    raise LayoutError("tp", tp, f"a divisor or a multiple of kv_heads = {heads}")
