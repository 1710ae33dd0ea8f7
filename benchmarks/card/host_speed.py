"""How fast the host of a card is at the moment, as a sweep asks it around its blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HostSpeed = Callable[[], float]
"""Tiny operators that the host issues in a second."""


def host_speed_of(stream: Any, device: str) -> HostSpeed:
    """The probe that a sweep takes around its blocks."""
    from calib.measure.cases.arena import Arena
    from calib.measure.cases.torch_cases import torch_cases
    from calib.measure.cuda.costs import operators_a_second
    from calib.measure.cuda.instrument import PROBE_HOST

    run = torch_cases(PROBE_HOST, Arena(2**20, device=device), 1)[0]
    return lambda: operators_a_second(stream, run)
