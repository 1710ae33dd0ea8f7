"""What a sweep is asked and where it stands: points, the budget, the order of entries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from calib.samples.sample import Sample
from model.ops import Operator

DESIGN, MODEL = "design", "model"
"""``origin`` of a sample: a shape of the design, or a model's own, which a fit can leave out."""

_MODEL_SHARE = 1 / 3
"""Of the budget: what a model's own shapes may take where the budget is already spent."""
_LONGEST_GAP_S = 10.0
"""Where two stored samples began further apart [s] than this, there was a pause between them."""


@dataclass(frozen=True)
class Point:
    """One entry of a plan: an operator, how it finds its inputs, and who asks for it."""

    op: Operator
    cache: str
    origin: str = DESIGN


@dataclass(frozen=True)
class Budget:
    """Seconds that a store's samples may take in all, and those that are already spent."""

    total_s: float
    spent_s: float = 0.0

    def left_s(self, origin: str) -> float:
        """For points of ``origin`` [s]: a model's own shapes are few, and never go without."""
        least = _MODEL_SHARE * self.total_s if origin == MODEL else 0.0
        return max(self.total_s - self.spent_s, least)

    def share(self, elapsed_s: float) -> float:
        """Of the budget that is gone when this sweep has run for ``elapsed_s``."""
        return (self.spent_s + elapsed_s) / self.total_s if self.total_s > 0 else 1.0


def spent_s(samples: Sequence[Sample]) -> float:
    """Seconds it took to measure ``samples``: from each one's start to the next, without pauses."""
    starts = sorted(datetime.fromisoformat(s.started).timestamp() for s in samples if s.started)
    gaps = (later - earlier for earlier, later in itertools.pairwise(starts))
    return sum(gap for gap in gaps if gap <= _LONGEST_GAP_S)


@dataclass(frozen=True)
class State:
    """What a plan may know when it is asked for its next point.

    ``samples``: all that the store holds, a list that grows; ``share``: of the budget, spent now.
    """

    samples: Sequence[Sample]
    share: Callable[[], float]


Designs = Callable[[State], Iterator[Point]]
"""A plan of the design: asked for one point at a time, it may adapt to what it sees by then."""

Entry = tuple[Point, str]
"""A point, and the implementation that is to execute it."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is to measure: a model's own shapes, the design, and by whom.

    ``more()``: whether there is time for another shape of the design.
    """

    models: Sequence[Point]
    designs: Iterator[Point]
    implementations: Sequence[str]
    state: State
    more: Callable[[], bool]


Order = Callable[[Plan], Iterator[Entry]]
"""In which order a plan is measured; asked for one entry at a time."""


def in_turn(plan: Plan) -> Iterator[Entry]:
    """A model's shapes among those of the design, each by every implementation."""
    for point in interleave(plan.models, plan.designs, plan.more):
        for implementation in plan.implementations:
            yield point, implementation


def interleave(
    models: Sequence[Point], designs: Iterator[Point], more: Callable[[], bool]
) -> Iterator[Point]:
    """A model's own shapes, two of the design after each; then the design while ``more()``."""
    for point in models:
        yield point
        if more():
            yield from itertools.islice(designs, 2)
    while more() and (following := next(designs, None)) is not None:
        yield following
