"""One card of several, for a traced model: cuts the module before it is traced, and puts what cards
tell each other into the passes after."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from model.parallel.layout import Layout
from model.parallel.one_card import Place
from model.workload import Phase

if TYPE_CHECKING:
    import torch

    from calib.trace.hf.split import Cut
    from calib.trace.passes import Traced


@dataclass(frozen=True)
class Spread:
    """``others``: sequences that all groups of a stage work on at a time, over those of one."""

    layout: Layout
    others: tuple[int, int] = (1, 1)
    made: list[Cut] = field(default_factory=list, compare=False, repr=False)

    def cut(self, module: torch.nn.Module) -> torch.nn.Module:
        from calib.trace.hf.split import cut

        self.made[:] = [cut(module, self.layout)]
        return module

    def onto(self, traced: Traced) -> Traced:
        from calib.trace.hf.together import Together

        told = Together(self.made[0], Place(self.layout, 0, self.others))

        def of(phase: Phase) -> Phase:
            layer: Any = phase.layer
            return Phase(told.of(layer), phase.repeat)

        return replace(traced, phases={name: of(p) for name, p in traced.phases.items()})
