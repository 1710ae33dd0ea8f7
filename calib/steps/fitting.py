"""Samples to calibrations: of all that is known, and blind to the model that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calib.hardware.datasheet import Hardware
from calib.samples.sample import TRACE, Sample
from calib.steps.card.refits import fit_torch, spread_of
from calib.steps.progress import stage
from calib.steps.target import Target
from model.ops import Operator

if TYPE_CHECKING:
    from calib.fit.calibration import Estimator
    from calib.measure.sweep.choice import Uncertainty

LEARNED = ("design", TRACE)
"""Origins of samples that a fit which never saw the model's own shapes learns from."""


def uncertainty(samples: Sequence[Sample], hardware: Hardware) -> Uncertainty:
    """How unsure a fit to ``samples`` is of operators, found here and now: a CPU that is measured
    must not fit meanwhile."""
    import numpy as np

    if not samples:
        return lambda ops: np.ones(len(ops))
    return spread_of(fit_torch(samples, hardware), samples[0].implementation)


def fit_samples(target: Target, own: Iterable[Operator] = ()) -> tuple[Estimator, Estimator | None]:
    """The calibration of all that is known, and one that never saw a model's own shapes.

    Both share one fit, to the design's samples; the first knows the measured shapes besides.
    ``own``: the shapes of the model that is asked for, left out too where the design had them
    before. Samples correct the card's shipped calibration (:mod:`calib.cards.corrected`), which is
    all there is of a kind without samples; what neither knows is the roofline.
    """
    from calib.cards.older.shipped import load_torch
    from calib.fit.calibration import uncalibrated

    card = load_torch(target.hardware)
    if not target.samples:
        return card or uncalibrated(target.hardware), None
    return _fit_own(target, frozenset(own), card)


def _fit_own(
    target: Target, own: frozenset[Operator], card: Estimator | None
) -> tuple[Estimator, Estimator]:
    from calib.cards.correcting import correct
    from calib.fit.fitting import fit, measured_shapes

    designs = [s for s in target.samples if s.origin in LEARNED and s.op not in own]
    measured = measured_shapes(target.samples, target.hardware)
    with stage("fitting") as tell:
        unseen = fit(designs, target.hardware, lambda name: tell(name, 0.0))
        if card is None:
            return replace(unseen, measured=measured), unseen
        over = correct(card, unseen, designs)
    return replace(over, own=replace(unseen, measured=measured)), over
