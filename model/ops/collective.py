"""What several cards do together: reductions and exchanges over the link between them.

Every count is of one card. ``elements``: of the whole message, as nccl-tests and public tables
count it:

- ``AllReduce``: the tensor that each card holds, before as after;
- ``AllGather``: the result; each card brings ``elements / ranks`` of it;
- ``ReduceScatter``: the tensor that each card holds before; each keeps ``elements / ranks``;
- ``AllToAll``: the tensor that each card holds; the ``ranks``-th part of it stays where it is;
- ``SendRecv``: what one card sends to the next.

``link_bytes``: what a card sends, by the ring's formula, which no algorithm without arithmetic in
the switch beats: (N - 1) / N of the message, twice for an all-reduce. ``cuda_core_flops``: the adds
of the reduction. ``bytes``: of the card's own memory, each tensor touched once.

``nodes``: groups of cards with a link of their own, of which the message crosses the borders (a
server, or a rack where the link spans it); 1: all ``ranks`` cards share that link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator


@dataclass(frozen=True)
class Collective(Operator):
    """A message of ``elements`` among ``ranks`` cards on ``nodes`` nodes."""

    elements: int
    ranks: int
    dtype: str = "bfloat16"
    nodes: int = 1

    @property
    def message_bytes(self) -> Any:
        return self.elements * item_bytes(self.dtype)

    @property
    def bytes_read(self) -> Any:
        return self.message_bytes

    @property
    def bytes_written(self) -> Any:
        return self.message_bytes

    @property
    def steps(self) -> Any:
        """Times that a ring passes something on, one after the other."""
        return self.ranks - 1

    @property
    def link_bytes(self) -> Any:
        return self.message_bytes * (self.ranks - 1) / self.ranks

    @property
    def network_bytes(self) -> Any:
        """Of ``link_bytes``, what crosses from node to node: where a ring leaves a node, its bytes
        are the work of all the cards there."""
        return self.link_bytes * self.nodes / self.ranks


@dataclass(frozen=True)
class AllReduce(Collective):
    """The sum of the cards' tensors, on every card."""

    operator: ClassVar[str] = "all_reduce"

    @property
    def cuda_core_flops(self) -> Any:
        return self.elements * (self.ranks - 1) / self.ranks

    @property
    def steps(self) -> Any:
        return 2 * (self.ranks - 1)

    @property
    def link_bytes(self) -> Any:
        return 2 * self.message_bytes * (self.ranks - 1) / self.ranks


@dataclass(frozen=True)
class AllGather(Collective):
    """The cards' parts side by side, on every card."""

    operator: ClassVar[str] = "all_gather"

    @property
    def bytes_read(self) -> Any:
        return self.message_bytes / self.ranks

    def backward(self) -> tuple[Operator, ...]:
        """Each card's part of the sum of all gradients."""
        return (ReduceScatter(self.elements, self.ranks, self.dtype, self.nodes),)


@dataclass(frozen=True)
class ReduceScatter(Collective):
    """The sum of the cards' tensors, a part on each card."""

    operator: ClassVar[str] = "reduce_scatter"

    @property
    def cuda_core_flops(self) -> Any:
        return self.elements * (self.ranks - 1) / self.ranks

    @property
    def bytes_written(self) -> Any:
        return self.message_bytes / self.ranks

    def backward(self) -> tuple[Operator, ...]:
        """Every card's part of the gradient, on all."""
        return (AllGather(self.elements, self.ranks, self.dtype, self.nodes),)


@dataclass(frozen=True)
class AllToAll(Collective):
    """A part of each card's tensor to each other card."""

    operator: ClassVar[str] = "all_to_all"

    @property
    def steps(self) -> Any:
        """All parts go at once."""
        return 1

    @property
    def network_bytes(self) -> Any:
        return self.message_bytes * (self.nodes - 1) / self.nodes


@dataclass(frozen=True)
class SendRecv(Collective):
    """A tensor from one card to another, which reads it there and writes it here."""

    operator: ClassVar[str] = "send_recv"
    ranks: int = 2

    @property
    def link_bytes(self) -> Any:
        return self.message_bytes

    @property
    def network_bytes(self) -> Any:
        return self.message_bytes
