"""A card's order of work: torch's design, the model's own shapes, then our kernels.

Torch's operators are measured as fast as the card executes them. What our kernels lack is compiled
in other processes meanwhile (``calib.measure.cuda.ahead``), and each is measured once it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from calib.measure.sweep.plan import Entry, Order, Plan, Point
from calib.samples.sample import Sample
from model.ops import Operator

DESIGN_SHARE = 0.5
"""Of the budget: what torch's design takes at most before the model's own shapes."""


class Ahead(Protocol):
    """What prepares operators while others are measured."""

    def begin(self, op: Operator, implementation: str) -> None: ...

    def ready(self, op: Operator, implementation: str) -> bool: ...


def by_worth(ahead: Ahead, good: Callable[[Sequence[Sample]], bool]) -> Order:
    """Of several implementations the first has its design first, until ``good`` says of all samples
    that their fit is, or its share of the budget is spent; then a model's shapes; then what the
    others have ready of both, and the first's design where they have nothing ready."""

    def order(plan: Plan) -> Iterator[Entry]:
        first, *others = plan.implementations
        waiting: list[Entry] = []

        def measured(point: Point) -> Entry:
            """By the first; the others begin to prepare it."""
            for name in others:
                ahead.begin(point.op, name)
                waiting.append((point, name))
            return point, first

        for point in plan.models:  # prepared before the design, of which there is no end
            for name in others:
                ahead.begin(point.op, name)
        while plan.state.share() < DESIGN_SHARE and not good(plan.state.samples):
            if (following := next(plan.designs, None)) is None:
                break
            yield measured(following)
        for point in plan.models:
            yield measured(point)
        waiting = [*_of(plan.models, waiting), *_of(plan.models, waiting, others=True)]
        while plan.more():
            if (entry := _ready(waiting, ahead)) is not None:
                waiting.remove(entry)
                yield entry
            elif (following := next(plan.designs, None)) is not None:
                yield measured(following)
            elif waiting:
                yield waiting.pop(0)  # whoever measures it waits
            else:
                break

    return order


def _of(models: Sequence[Point], waiting: Sequence[Entry], others: bool = False) -> list[Entry]:
    """Those that are of ``models``, or the others."""
    own = set(models)
    return [entry for entry in waiting if (entry[0] in own) != others]


def _ready(waiting: Sequence[Entry], ahead: Ahead) -> Entry | None:
    return next((e for e in waiting if ahead.ready(e[0].op, e[1])), None)
