"""Whose counted joules a run goes by: a file of the user's, what ships for the card, or none; and
by whose its card's clock falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib.steps.request import Request
from calib.steps.target import Target

if TYPE_CHECKING:
    from calib.cards.energy.fitted import Energy


def energy_of(request: Request, held_by: Energy | None) -> Energy | None:
    """What joules go by: ``held_by`` (:func:`holding`), and None where nothing was counted of what
    runs, by another implementation's or a compiler's kernels, in a step of training, over links."""
    return None if request.not_counted else held_by


def holding(request: Request, target: Target) -> Energy | None:
    """By what the clock of a card falls that is asked for more power than it draws: of torch's own
    kernels on one card, compiled ones and gradients among them, whose joules nobody counted.

    An engine's are the tables' figures, timed on and on; of several cards nobody knows.
    Raises ``CalibError`` for a file that is of another card.
    """
    if request.implementation != "torch" or request.spread:
        return None
    if request.energy is None:
        from calib.cards.energy.shipped import load_energy

        return load_energy(target.hardware)
    from calib.cards.energy.counted import read_counted
    from calib.cards.energy.fitting import fit_energy

    return fit_energy(read_counted(request.energy, target.hardware.name), target.hardware)
