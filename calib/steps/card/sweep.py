"""A card's minutes are for measuring: torch's operators are compared before, our kernels are
compiled and fits are made in other processes meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from calib.hardware.datasheet import Hardware
from calib.steps.card.refits import Refits, in_words, one_process, read_trail
from model.ops import Operator

if TYPE_CHECKING:
    from calib.measure.cuda.instrument import CudaInstrument
    from calib.measure.sweep.plan import Point
    from calib.measure.sweep.sweep import Sweep

log = logging.getLogger(__name__)

_PROVED = 400
"""Shapes of the design that have every kind and dtype among them."""


def sweep_card(
    sweep: Sweep,
    hardware: Hardware,
    models: Sequence[Point],
    seed: int,
    keep: Callable[[Operator], bool],
    reach: int,
) -> None:
    """Sweep in the order of worth; the comparisons before it are part of its budget."""
    from calib.measure.sweep.design import adaptive, design
    from calib.measure.sweep.order import DESIGN_SHARE, by_worth
    from calib.measure.sweep.plan import spent_s

    card: CudaInstrument = sweep.instrument  # type: ignore[assignment]
    first = (op for op, _ in islice(design(seed, keep, reach), _PROVED))
    began = sweep.clock()
    card.prove([*first, *(point.op for point in models)])
    sweep.budget_s = max(sweep.budget_s - (sweep.clock() - began), 0.0)
    refits, ahead = Refits(hardware, one_process(), spent_s), card.ahead()
    try:
        sweep.order = by_worth(ahead, refits.good)
        sweep.run(models, adaptive(refits, seed, keep, reach, DESIGN_SHARE))
    finally:
        ahead.close()
        refits.close(sweep.store.folder)
    log.info(in_words(read_trail(sweep.store.folder)))
