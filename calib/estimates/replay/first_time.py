"""What a pass pays for shapes of attention that its process has not met.

A wall time is replayed for shapes that were seen. Where torch plans attention
(:mod:`calib.hardware.attention_backend`) the host stands still for each new one, and a decode step
over a cache that grows has a new one at every token. The host plans at its first attention, a few
launches into the step, when the device has nothing of that step left to do; so a plan is added to a
step that is waited for, and is not hidden behind its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calib.hardware.attention_backend import growing, planned
from calib.samples.host_costs import HostCosts, times
from model.workload import Phase

DECODE = "decode"


@dataclass(frozen=True)
class Plans:
    """How many are made: ``a_step`` over a length that is new, and ``once`` in a process for the
    other phases."""

    a_step: int
    once: int


@dataclass(frozen=True)
class Extra:
    """Seconds of the host beside a step's wall time: estimate and interval."""

    estimate_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0


def plans_of(phases: Mapping[str, Phase], capability: str | None) -> Plans:
    """``capability``: the compute capability of the card, such as "9.0"; None: no card."""
    ops = {name: [call.op for call in phase.layer.calls()] for name, phase in phases.items()}
    others = [op for name in ops if name != DECODE for op in ops[name]]
    grown = growing(ops.get(DECODE, ()), others)
    return Plans(len(planned(grown, capability)), len(planned(others, capability)))


def of_new_length(plans: Plans, costs: HostCosts | None) -> Extra:
    """Of a decode step over a length that is new; nothing where none is planned."""
    plan = costs.attention_plan if costs else None
    if plan is None or not plans.a_step:
        return Extra()
    all_of_them = times(plan, plans.a_step)
    return Extra(all_of_them.estimate_s, all_of_them.low_s, all_of_them.high_s)
