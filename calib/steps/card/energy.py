"""Whose counted joules a run goes by: a file of the user's, what ships for the card, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib.errors import CalibError, wrong
from calib.samples.host_costs import COMPILED
from calib.steps.request import Request
from calib.steps.target import CPU, Target

if TYPE_CHECKING:
    from calib.cards.energy.fitted import Energy

TORCH = "torch"


def energy_of(request: Request, target: Target) -> Energy | None:
    """None where nothing was counted of what runs: on another card, by another implementation's or
    a compiler's kernels, in a step of training, over links.

    Raises ``CalibError`` where a file was given for any of these, or is of another card.
    """
    why = not_counted(request, target)
    if request.energy is None:
        from calib.cards.energy.shipped import load_energy

        return None if why else load_energy(target.hardware)
    if why:
        raise CalibError(wrong("energy", str(request.energy), f"null with {why}"))
    from calib.cards.energy.counted import read_counted
    from calib.cards.energy.fitting import fit_energy

    return fit_energy(read_counted(request.energy, target.hardware.name), target.hardware)


def not_counted(request: Request, target: Target) -> str:
    """What of the run nobody counted, as a user would set it; empty where all was."""
    found = {
        f"implementation={request.implementation}": request.implementation != TORCH,
        f"execution={request.execution}": request.execution == COMPILED,
        "pass=train": request.trains,
        f"{request.parallel.cards} cards": request.spread,
        "+hw=cpu": target.hardware.name == CPU,
    }
    return next((name for name, is_so in found.items() if is_so), "")
