"""Collectives that run beside other work: a share of their time that nobody waits for.

How much a run hides is a choice of whoever writes it (microbatches in turn, products cut in rows);
no figure here was measured. What is hidden takes no time of the card at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calib.fit.calibration import Estimates, Estimator, Tabled
from calib.hardware.datasheet import Hardware
from model.ops import Collective, Operator

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Overlapped(Tabled):
    """``whole``, with ``hidden`` of the time of each collective left out."""

    whole: Estimator
    hidden: float

    @property
    def hardware(self) -> Hardware:
        return self.whole.hardware

    @property
    def held_out(self) -> pd.DataFrame:
        return self.whole.held_out

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


def overlapped(estimator: Estimator, hidden: float) -> Estimator:
    """The estimator itself where nothing is hidden."""
    return Overlapped(estimator, hidden) if hidden else estimator
