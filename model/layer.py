"""A layer holds shapes, not state: it says which operators one forward pass calls, in order.

``Layer.forward`` yields the steps of a forward pass as they are executed: a :class:`Call` of its
own, a named child layer, or the release of tensors. Costs are sums over those steps; the peak of
activation memory is the largest of their running sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, wraps
from typing import Any

import numpy as np

from model.ops import Operator, is_floating, item_bytes


@dataclass(frozen=True)
class Call:
    """``count`` executions of one operator at one module path.

    ``launches``: kernels (on a CPU: dispatched operators, views left out) that one execution
    starts when run eagerly, as the class that the layer mirrors is written; a fused norm is one
    operator of ours and eight launches of theirs. ``sync``: the host waits for the result.
    ``gradient``: which gradients a backward pass takes: ``all``, ``weights`` (the input needs
    none: it is the image) or ``none`` (positions, masks).
    """

    path: str
    op: Operator
    count: int = 1
    launches: int = 1
    sync: bool = False
    gradient: str = "all"

    def backward(self) -> tuple[Operator, ...]:
        """The operators of the gradient; by convention the input's comes before the weights'."""
        if self.gradient == "none" or not is_floating(getattr(self.op, "dtype", "bfloat16")):
            return ()
        return self.op.backward()[1:] if self.gradient == "weights" else self.op.backward()


@dataclass(frozen=True)
class Child:
    """A named part of a layer, in its place in the order of execution."""

    name: str
    layer: Layer


@dataclass(frozen=True)
class Live:
    """A change of the bytes that live beside the results of calls: negative where the last
    reference to a tensor goes, positive for what a composite operator keeps while it runs.

    What a layer leaves alive at its end is its result; its input belongs to whoever calls it.
    """

    bytes: Any


@dataclass(frozen=True)
class Node:
    """A module at its place in the tree; the root's path and parent are empty.

    ``runs``: the layer that each of its runs in one pass is; most modules run once.
    """

    path: str
    runs: tuple[Layer, ...]
    parent: str

    @property
    def layer(self) -> Layer:
        """The layer of the first run."""
        return self.runs[0]


Step = Call | Child | Live


def call(op: Operator, count: Any = 1, launches: int = 1, gradient: str = "all") -> Call:
    """A call at the layer's own path."""
    return Call("", op, count, launches, gradient=gradient)


def free(elements: Any, dtype: str) -> Live:
    """The end of tensors of ``elements`` in all."""
    return Live(-(elements * item_bytes(dtype)))


def when(condition: Any, *steps: Call | Live) -> Iterator[Step]:
    """``steps`` where ``condition`` holds: as they are or not at all, or, for an array of
    conditions, each weighted by 0 or 1."""
    if not isinstance(condition, np.ndarray):
        yield from steps if condition else ()
        return
    for step in steps:
        if isinstance(step, Call):
            count: Any = step.count * condition
            yield replace(step, count=count)
        else:
            yield Live(step.bytes * condition)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def once(cost: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``cost`` remembered for equal layers, as a decoder has them; not for arrays of shapes."""
    known = lru_cache(maxsize=4096)(cost)

    @wraps(cost)
    def remembered(layer: Any) -> Any:
        try:
            hash(layer)
        except TypeError:
            return cost(layer)
        return known(layer)

    return remembered


class Layer:
    """Base of all layers. Subclasses are frozen dataclasses of dimensions that define ``forward``.

    ``mirrors`` names the class of ``transformers`` whose ``forward`` the layer follows.
    """

    mirrors: str = ""

    @property
    def class_name(self) -> str:
        """What tables call the layer's class."""
        return type(self).__name__

    def forward(self) -> Iterator[Step]:
        """The steps of one forward pass, in order of execution."""
        raise NotImplementedError

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Those of ``forward``, found once: a layer never changes, and every sum asks for them."""
        return tuple(self.forward())

    def parameters(self) -> Any:
        """Parameters that the layer itself owns, its children's left out."""
        return 0

    def children(self) -> dict[str, Layer]:
        """The parts by name; of a part that runs twice, its first run."""
        return dict(self._children)

    @cached_property
    def _children(self) -> dict[str, Layer]:
        found: dict[str, Layer] = {}
        for step in self.steps:
            if isinstance(step, Child):
                found.setdefault(step.name, step.layer)
        return found

    def calls(self, path: str = "") -> list[Call]:
        """Every call of this layer and its children, in order, each with its full module path."""
        return list(self._walk(path) if path else self._calls)

    @cached_property
    def _calls(self) -> tuple[Call, ...]:
        """Those of a whole model, which every table asks for."""
        return tuple(self._walk(""))

    def _walk(self, path: str) -> Iterator[Call]:
        for step in self.steps:
            if isinstance(step, Child):
                yield from step.layer._walk(join(path, step.name))
            elif isinstance(step, Call):
                yield replace(step, path=join(path, step.path)) if path else step

    @once
    def launched(self) -> tuple[Call, ...]:
        """The same without the path that leads to each: found once for layers that are equal."""
        found: list[Call] = []
        for step in self.steps:
            if isinstance(step, Child):
                found += step.layer.launched()
            elif isinstance(step, Call):
                found.append(step)
        return tuple(found)

    def backward_calls(self, path: str = "") -> list[Call]:
        """The calls of the gradient, last layer first."""
        return [
            replace(c, op=gradient) for c in reversed(self.calls(path)) for gradient in c.backward()
        ]

    def nodes(self, path: str = "", parent: str = "") -> list[Node]:
        """This layer and all below it, parents first; a path that runs twice is one module."""
        found = {path: Node(path, (self,), parent)}
        for step in self.steps:
            if isinstance(step, Child):
                for node in step.layer.nodes(join(path, step.name), path):
                    before = found.get(node.path)
                    runs = before.runs + node.runs if before else node.runs
                    found[node.path] = replace(node, runs=runs)
        return list(found.values())

    def weight_parameters(self) -> Any:
        """Parameters of the layer and all its children."""
        return self.parameters() + sum(c.weight_parameters() for c in self.children().values())

    def own_weight_bytes(self) -> Any:
        """Bytes of the layer's own parameters, in its ``weight_dtype`` if it has one."""
        count = self.parameters()
        return count * item_bytes(self.parameter_dtype()) if count else 0

    def parameter_dtype(self) -> str:
        """The type that the layer's own parameters are stored in."""
        return getattr(self, "weight_dtype", None) or str(vars(self)["dtype"])

    @once
    def weight_bytes(self) -> Any:
        """Memory that the parameters of the layer and all its children take."""
        return self.own_weight_bytes() + sum(c.weight_bytes() for c in self.children().values())

    def own_kv_cache_bytes(self) -> Any:
        return 0

    @once
    def kv_cache_bytes(self) -> Any:
        """Memory of the keys and values kept after the pass, those kept before it included."""
        return self.own_kv_cache_bytes() + sum(c.kv_cache_bytes() for c in self.children().values())

    def forward_tensor_core_flops(self) -> Any:
        return total(self.calls(), lambda op: op.tensor_core_flops)

    def forward_cuda_core_flops(self) -> Any:
        return total(self.calls(), lambda op: op.cuda_core_flops)

    def forward_io_bytes(self) -> Any:
        """Bytes read and written by all operators, each on its own (nothing fused across them)."""
        return total(self.calls(), lambda op: op.bytes)

    def activation_bytes(self) -> Any:
        """The most bytes that one pass holds at once beside weights, its input and the KV cache.

        A tensor lives from the call that writes it until the implementation drops it, as eager
        PyTorch without gradients does.
        """
        return self.live_bytes()[0]

    @once
    def live_bytes(self) -> tuple[Any, Any]:
        """Bytes alive beside those before the pass: at worst, and at its end."""
        peak = live = 0
        for step in self.steps:
            worst = 0
            if isinstance(step, Child):
                worst, kept = step.layer.live_bytes()
            elif isinstance(step, Call):
                kept = step.op.bytes_written * step.count
            else:
                kept = step.bytes
            peak = larger(peak, live + larger(worst, kept))
            live = live + kept
        return peak, live

    def backward_tensor_core_flops(self) -> Any:
        return total(self.backward_calls(), lambda op: op.tensor_core_flops)

    def backward_cuda_core_flops(self) -> Any:
        return total(self.backward_calls(), lambda op: op.cuda_core_flops)

    def backward_io_bytes(self) -> Any:
        return total(self.backward_calls(), lambda op: op.bytes)


def larger(a: Any, b: Any) -> Any:
    """max(a, b) in plain arithmetic; bytes are whole numbers."""
    return (a + b + abs(a - b)) // 2


def total(calls: Iterable[Call], cost: Callable[[Operator], Any]) -> Any:
    """The sum of ``cost`` over calls, repetitions counted."""
    return sum(cost(c.op) * c.count for c in calls)
