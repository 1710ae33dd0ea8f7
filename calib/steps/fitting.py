"""Samples to calibrations: of all that is known, and blind to the model that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from calib.hardware.datasheet import Hardware
from calib.samples.sample import Sample
from calib.steps.card.refits import fit_torch, spread_of
from calib.steps.progress import stage
from calib.steps.target import Target
from model.ops import Operator

if TYPE_CHECKING:
    from calib.fit.calibration import Calibration, Estimator
    from calib.measure.sweep.choice import Uncertainty


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
    before. A kind without samples goes to the card's shipped calibration, and without one to the
    roofline.
    """
    from calib.cards.shipped import Layered, load_card
    from calib.fit.calibration import uncalibrated

    card = load_card(target.hardware)
    if not target.samples:
        return card or uncalibrated(target.hardware), None
    seen, unseen = _fit_own(target, frozenset(own))
    return (Layered((seen, card)), Layered((unseen, card))) if card else (seen, unseen)


def _fit_own(target: Target, own: frozenset[Operator]) -> tuple[Calibration, Calibration]:
    from calib.fit.fitting import fit, measured_shapes

    designs = [s for s in target.samples if s.origin == "design" and s.op not in own]
    with stage("fitting") as tell:
        unseen = fit(designs, target.hardware, lambda name: tell(name, 0.0))
    seen = replace(unseen, measured=measured_shapes(target.samples, target.hardware))
    return seen, unseen
