"""What cards tell each other: by the vendor's library, whose figures ship apart, and beside other
work as far as the reader says.

Collectives of torch are NCCL's. Over several nodes nothing was timed, and the links are all that is
known. Of overlap, how much a run hides is a choice of whoever writes it (microbatches in turn,
products cut in rows); no figure here was measured. What is hidden takes no time of the card at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib.cards.engines.lent import Lent, lent_engine
from calib.cards.engines.stored import LIBRARY, load_engine
from calib.fit.calibration import Calibration, Estimates, Estimator, Over
from model.ops import Collective, Operator, item_bytes


@dataclass(frozen=True)
class ByLibrary(Over):
    """``whole``, with collectives on one node by ``fits`` to the library's runs, on this card or
    on others like it, as far as they know the kind."""

    whole: Estimator
    fits: Calibration | Lent

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        found = self.whole.estimates(ops, implementation, hot)
        if isinstance(ops, Operator):
            return found
        rows = [i for i, op in enumerate(ops) if self._knows(op)]
        if rows:
            told = [replace(ops[i], dtype=TIMED) for i in rows]  # type: ignore[call-arg]
            found.put(np.array(rows), self.fits.estimates(told, LIBRARY, True))
        return found

    def _knows(self, op: Operator) -> bool:
        if not isinstance(op, Collective) or op.nodes > 1 or op.ranks < 2:
            return False
        wide = item_bytes(op.dtype) == item_bytes(TIMED)
        return wide and (LIBRARY, op.operator, TIMED) in self.fits.kinds


TIMED = "bfloat16"
"""The type of the messages in the library's fits; another of its width takes as long."""


@dataclass(frozen=True)
class Overlapped(Over):
    """``whole``, with ``hidden`` of the time of each collective left out."""

    whole: Estimator
    hidden: float

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        found = self.whole.estimates(ops, implementation, hot)
        some = [ops] * len(found.seconds) if isinstance(ops, Operator) else ops
        left = np.array([1 - self.hidden * isinstance(op, Collective) for op in some])
        return replace(found.scaled(left), floor=found.floor * left)


def together(estimator: Estimator, hidden: float = 0.0) -> Estimator:
    """``estimator`` of one card's work, knowing what several tell each other."""
    hardware = estimator.hardware
    figures = load_engine(hardware.name, LIBRARY)
    fits: Calibration | Lent | None = lent_engine(hardware, LIBRARY) if figures is None else None
    if figures is not None:
        fits = Calibration(hardware, figures.kinds, estimator.held_out)
    return overlapped(ByLibrary(estimator, fits) if fits else estimator, hidden)


def overlapped(estimator: Estimator, hidden: float) -> Estimator:
    """The estimator itself where nothing is hidden."""
    return Overlapped(estimator, hidden) if hidden else estimator
