"""The CPU as an instrument (:mod:`calib.measure.instrument`): torch by the wall clock."""

from __future__ import annotations

import torch

from calib.measure.cases.arena import Arena, Unsupported, weight_stream
from calib.measure.cases.torch_cases import build
from calib.measure.clock import StopRule, time_repeats
from calib.measure.contention import undisturbed
from calib.measure.instrument import OUT_OF_MEMORY, UNSUPPORTED, Reading
from calib.measure.probes import Speed, speed
from model.ops import Operator

_ALIKE = 2
"""Repeats of one visit share its moment: half of them tell as much as all (docs/measuring.md)."""


class CpuInstrument:
    """Operators run as eager torch calls them, weights streamed past between repeats. What another
    process kept from its cores is measured again (:mod:`calib.measure.contention`).

    A shared machine changes its speed within seconds, so that a shape is visited three times.

    Outputs are not compared with a reference here, since the operators are torch's own and a
    product in float32 would cost more than the sample; tests compare every kind once.
    """

    implementations: tuple[str, ...] = ("torch",)
    visits: int = 3

    def __init__(self, arena: Arena | None = None) -> None:
        self.arena = arena or Arena()
        self.threads: int | None = torch.get_num_threads()

    def warm_up(self) -> None:
        """Nothing: each sample begins with calls that are not kept."""

    def rule(self, shape: StopRule) -> StopRule:
        return shape.split(_ALIKE * self.visits)

    def measure(self, op: Operator, implementation: str, cache: str, rule: StopRule) -> Reading:
        if implementation not in self.implementations:
            return Reading(status=UNSUPPORTED, reason=f"{implementation} does not run on a CPU")
        try:
            with torch.no_grad():
                run = build(op, self.arena, cache)
                stream = weight_stream(self.arena)
                seconds, *others = undisturbed(lambda: time_repeats(run, rule, disturb=stream))
        except Unsupported as error:
            return Reading(status=UNSUPPORTED, reason=str(error))
        except (MemoryError, torch.OutOfMemoryError) as error:
            return Reading(status=OUT_OF_MEMORY, reason=str(error).partition("\n")[0])
        return Reading(tuple(seconds), method="wall", discarded=sum(map(len, others)))

    def speed(self) -> Speed:
        return undisturbed(speed)[0]

    def costs(self) -> dict[Operator, list[float]]:
        """None: a sample holds its operator's dispatch. Module code needs the fit, and is measured
        after it (``calib.measure.reference.miniature``)."""
        return {}
