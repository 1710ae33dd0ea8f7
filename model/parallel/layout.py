"""How many cards share a model, and in which ways.

A stage of the pipeline is ``tp * dp`` cards. Attention and dense layers are split over ``tp`` of
them, and ``dp`` such groups each take their part of the batch. Experts lie on all of the stage's
cards: whole ones on ``ep`` groups, each split over the ``tp * dp / ep`` cards of its group. Cards
are numbered with ``tp`` innermost and the stage outermost, node by node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.ops import SendRecv


class LayoutError(ValueError):
    """A layout that cannot be, or that a model does not take: key, value and what is accepted."""

    def __init__(self, key: str, value: Any, accepted: str) -> None:
        super().__init__(f"parallel.{key} = {value!r}: expected {accepted}")


@dataclass(frozen=True)
class Layout:
    """``microbatches``: parts that a batch goes through the pipeline in; None: one a stage, as far
    as there are sequences. ``node_cards``: cards that share the fast link, 0: all of them."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    microbatches: int | None = None
    node_cards: int = 0

    def __post_init__(self) -> None:
        for key in ("tp", "pp", "ep", "dp", "microbatches"):
            value = getattr(self, key)
            if value is None and key == "microbatches":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LayoutError(key, value, "a whole number of at least 1")
        if self.stage_cards % self.ep:
            raise LayoutError("ep", self.ep, f"a divisor of tp * dp = {self.stage_cards}")

    @property
    def stage_cards(self) -> int:
        return self.tp * self.dp

    @property
    def cards(self) -> int:
        return self.stage_cards * self.pp

    @property
    def expert_tp(self) -> int:
        """Cards that an expert is split over."""
        return self.stage_cards // self.ep

    @property
    def first(self) -> tuple[str, int]:
        """The first key that asks for several cards, and its value."""
        keys = ("tp", "pp", "ep", "dp")
        return next(((k, getattr(self, k)) for k in keys if getattr(self, k) > 1), ("tp", 1))

    def nodes(self, ranks: int) -> int:
        """Nodes that a group of ``ranks`` neighbours takes."""
        return -(-ranks // self.node_cards) if self.node_cards else 1

    def hop(self, elements: Any, dtype: str, stage: int) -> SendRecv:
        """From ``stage`` to the next: over the network where a card of it is on another node."""
        size = self.stage_cards
        first, per = stage * size, self.node_cards or self.cards
        apart = any((first + i) // per != (first + size + i) // per for i in range(size))
        return SendRecv(elements, dtype=dtype, nodes=2 if apart else 1)

    def parts(self, batch: int) -> int:
        """Microbatches that ``batch`` sequences of a group go through the pipeline in: at most as
        many as are asked for, and none that would be empty."""
        wanted = self.pp if self.microbatches is None else self.microbatches
        each = -(-batch // max(1, min(wanted, batch)))
        return -(-batch // each) if each else 1

    def words(self) -> str:
        """ "tp=4 pp=2": what is not 1."""
        keys = ("tp", "pp", "ep", "dp")
        return " ".join(f"{k}={getattr(self, k)}" for k in keys if getattr(self, k) > 1)

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return {**vars(self), "cards": self.cards, "words": self.words()}


def share(total: Any, parts: int, rank: int) -> Any:
    """What the ``rank``-th of ``parts`` has of ``total``, as even as whole numbers are; the first
    have one more."""
    return total // parts + (rank < total % parts)


def divided(key: str, value: int, name: str, total: int) -> int:
    """``total / value``. Raises ``LayoutError`` where it is not whole."""
    if total % value:
        raise LayoutError(key, value, f"a divisor of {name} = {total}")
    return total // value
