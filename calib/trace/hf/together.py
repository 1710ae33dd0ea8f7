"""A traced pass of one card of several with what the cards tell each other put in.

What is told is that of our own layers (:class:`model.parallel.one_card.Place`): an all-reduce
behind each matrix cut by rows, the embedding and a mixture of experts, an all-gather of the logits,
and the ways of experts. Sizes are read off the traced operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from calib.trace.hf.split import EMBEDDING, EXPERTS, HEAD, Cut
from calib.trace.tree import TracedLayer
from model.layer import Call, Child, Layer, Live, Step, join
from model.moe import Experts
from model.ops import AllGather, AllReduce, Collective, Gather, GroupedMatmul, Matmul, Operator
from model.parallel.layout import share
from model.parallel.one_card import Place, told

SHARED = ("shared_expert", "shared_experts", "shared_mlp")
"""Modules beside the experts of a mixture, whose results are added to theirs before the cards add
up both."""


@dataclass(frozen=True)
class Together:
    """``made``: what was cut, and so what is told; ``place``: which card it is of."""

    made: Cut
    place: Place

    def of(self, layer: TracedLayer, path: str = "") -> TracedLayer:
        steps: list[Step] = []
        for step in layer.steps:
            if not isinstance(step, Child):
                steps.append(step)
                continue
            where = join(path, step.name)
            inner = step.layer
            if isinstance(inner, TracedLayer):
                inner = self.of(inner, where)
            steps += self.part(where, step.name, inner)
        return replace(layer, steps=tuple(steps))

    def part(self, path: str, name: str, layer: Layer) -> Iterator[Step]:
        """A part with what is told before and after it."""
        style = self.made.after.get(path)
        if style == EXPERTS and isinstance(layer, TracedLayer):
            yield from self.experts(name, layer)
            return
        yield Child(name, layer)
        if style is not None and not self.within_mixture(path):
            for op in self.after(path, style, layer):
                yield from told(op, name)

    def within_mixture(self, path: str) -> bool:
        """Whether the mixture's own all-reduce adds it up: without ``dp`` it has one."""
        parts = path.split(".")
        found = next((i for i, part in enumerate(parts) if part in SHARED), None)
        if found is None or self.place.layout.dp > 1:
            return False
        return ".".join([*parts[:found], "experts"]) in self.made.after

    def after(self, path: str, style: str, layer: Layer) -> Iterator[Collective]:
        layout = self.place.layout
        ops = [call.op for call in layer.calls()]
        if style == HEAD:
            matmul = next(op for op in reversed(ops) if isinstance(op, Matmul))
            elements = matmul.m * matmul.batch * self.made.whole[path]
            yield AllGather(elements, layout.tp, dtype_of(matmul), layout.nodes(layout.tp))
            return
        kind = Gather if style == EMBEDDING else Matmul
        found: Any = next((op for op in reversed(ops) if isinstance(op, kind)), None)
        if found is not None:
            rows = (found.rows, found.cols) if style == EMBEDDING else (found.m, found.n)
            elements = rows[0] * rows[1] * getattr(found, "batch", 1)
            yield AllReduce(elements, layout.tp, dtype_of(found), layout.nodes(layout.tp))

    def experts(self, name: str, layer: TracedLayer) -> Iterator[Step]:
        """As :meth:`model.parallel.one_card.Place.routed`, by the traced operators."""
        products = [c.op for c in layer.calls() if isinstance(c.op, GroupedMatmul)]
        if not products:
            yield Child(name, layer)
            return
        first, layout = products[0], self.place.layout
        whole = Experts(
            rows=first.tokens,
            hidden=first.k,
            intermediate=first.n * layout.expert_tp,
            experts=first.experts * layout.ep,
            top_k=first.top_k,
            dtype=dtype_of(first),
        )
        rows = self.place.all_rows(whole.rows)
        own = share(rows * whole.top_k, layout.ep, self.place.rank // layout.expert_tp)
        if (layout.ep, rows) != (1, whole.rows):
            layer = self.narrowed(layer, own / (whole.rows * whole.top_k), self.product(whole, own))
        before, after = self.place.exchange(whole)
        yield from (step for op in before for step in told(op, name))
        yield Child(name, layer)
        yield from (step for op in after for step in told(op, name))
        if layout.dp == 1:
            yield from told(self.place.all_reduce(whole.rows * whole.hidden, whole.dtype), name)

    def product(self, whole: Experts, own: int) -> dict[str, Any]:
        """Fields of a grouped product of ``own`` pairs."""
        rows = self.place.all_rows(whole.rows)
        if self.place.layout.ep == 1:
            return {"tokens": rows}
        routed = self.place.routing(whole, own, rows * whole.top_k)
        return {"tokens": own, "top_k": 1, "active_experts": routed.active_experts}

    def narrowed(self, layer: TracedLayer, ratio: float, product: dict[str, Any]) -> TracedLayer:
        """``layer`` for ``ratio`` of the pairs that it was traced with."""
        steps: list[Step] = []
        for step in layer.steps:
            if isinstance(step, Call) and isinstance(step.op, GroupedMatmul):
                steps.append(replace(step, op=replace(step.op, **product)))
            elif isinstance(step, Call):
                steps.append(replace(step, op=scaled(step.op, ratio)))
            elif isinstance(step, Live):
                steps.append(Live(round(step.bytes * ratio)))
            elif isinstance(step.layer, TracedLayer):
                steps.append(Child(step.name, self.narrowed(step.layer, ratio, product)))
            else:
                steps.append(step)
        return replace(layer, steps=tuple(steps))


ROWS = ("rows", "elements", "broadcast", "out_elements", "read", "written", "arithmetic", "m")
"""Fields of operators that go with the number of pairs."""


def scaled(op: Operator, ratio: float) -> Operator:
    """``op`` of so many times the rows, at least one."""
    sizes = {n: v for n, v in vars(op).items() if n in ROWS and v}
    return replace(op, **{n: max(round(v * ratio), 1) for n, v in sizes.items()})


def dtype_of(op: Any) -> str:
    """Of the result."""
    return str(getattr(op, "out_dtype", None) or op.dtype)
