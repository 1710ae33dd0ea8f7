"""A layer holds shapes, not state: it says which operators one forward pass calls, in order.

``Layer.forward`` yields the steps of a forward pass as they are executed: a :class:`Call` of its
own, or a named child layer. Everything else here is a sum over those steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.ops import Operator


@dataclass(frozen=True)
class Call:
    """``count`` executions of one operator at one module path.

    ``launches``: kernels (on a CPU: dispatched operators, views left out) that one execution
    starts when run eagerly, as the class that the layer mirrors is written; a fused norm is one
    operator of ours and eight launches of theirs. ``sync``: the host waits for the result.
    """

    path: str
    op: Operator
    count: int = 1
    launches: int = 1
    sync: bool = False


@dataclass(frozen=True)
class Child:
    """A named part of a layer, in its place in the order of execution."""

    name: str
    layer: Layer


Step = Call | Child


def call(op: Operator, count: int = 1, launches: int = 1, sync: bool = False) -> Call:
    """A call at the layer's own path."""
    return Call("", op, count, launches, sync)


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


class Layer:
    """Base of all layers. Subclasses are frozen dataclasses of dimensions that define ``forward``.

    ``mirrors`` names the class of ``transformers`` whose ``forward`` the layer follows.
    """

    mirrors: str = ""

    def forward(self) -> Iterator[Step]:
        """The steps of one forward pass, in order of execution."""
        raise NotImplementedError

    def parameters(self) -> Any:
        """Parameters that the layer itself owns, its children's left out."""
        return 0

    def children(self) -> dict[str, Layer]:
        return {
            step.name: step.layer for step in self.forward() if isinstance(step, Child)
        }

    def calls(self, path: str = "") -> list[Call]:
        """Every call of this layer and its children, in order, each with its full module path."""
        return list(self._walk(path))

    def _walk(self, path: str) -> Iterator[Call]:
        for step in self.forward():
            if isinstance(step, Child):
                yield from step.layer._walk(join(path, step.name))
            else:
                yield replace(step, path=join(path, step.path))

    def backward_calls(self, path: str = "") -> list[Call]:
        """The calls of the gradient, last layer first."""
        return [
            replace(c, op=gradient)
            for c in reversed(self.calls(path))
            for gradient in c.op.backward()
        ]

    def weight_parameters(self) -> Any:
        """Parameters of the layer and all its children."""
        return self.parameters() + sum(
            c.weight_parameters() for c in self.children().values()
        )

    def forward_tensor_core_flops(self) -> Any:
        return total(self.calls(), lambda op: op.tensor_core_flops)

    def forward_cuda_core_flops(self) -> Any:
        return total(self.calls(), lambda op: op.cuda_core_flops)

    def forward_io_bytes(self) -> Any:
        """Bytes read and written by all operators, each on its own (nothing fused across them)."""
        return total(self.calls(), lambda op: op.bytes)

    def backward_tensor_core_flops(self) -> Any:
        return total(self.backward_calls(), lambda op: op.tensor_core_flops)

    def backward_cuda_core_flops(self) -> Any:
        return total(self.backward_calls(), lambda op: op.cuda_core_flops)

    def backward_io_bytes(self) -> Any:
        return total(self.backward_calls(), lambda op: op.bytes)


def total(calls: Iterable[Call], cost: Callable[[Operator], Any]) -> Any:
    """The sum of ``cost`` over calls, repetitions counted."""
    return sum(cost(c.op) * c.count for c in calls)
