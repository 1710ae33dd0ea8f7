"""A pass of a workload, in the forms that its inputs may have.

What a module takes is known by name, and its form seldom: sound is [mels, frames] here and
[frames, mels] there. So a pass has all forms that may be meant, in the order in which they are
likely, and the first that runs is the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from calib.trace.passes.states import Growth

Form = Callable[[], Any]


def nothing() -> Iterator[torch.Tensor]:
    return iter(())


@dataclass
class Pass:
    """One pass of a workload: what runs, how often, and what it leaves for the next.

    ``cache``: the tensors of keys, values and states as they are when asked, one by one;
    ``growth``: their bytes by length; ``tokens``: the length that they are at after the pass.
    """

    name: str
    forms: Sequence[Form]
    repeat: int = 1
    cache: Callable[[], Iterator[torch.Tensor]] = nothing
    growth: Callable[[], Growth] = Growth
    tokens: int = 0
    chosen: int | None = field(default=None, init=False)

    def attempt(self, ran: Callable[[Form], Any]) -> Any:
        """``ran`` of the first form that does not fail; that of the likeliest one's failure."""
        first: Exception | None = None
        for number, form in enumerate(self.forms):
            if self.chosen not in (None, number):
                continue
            try:
                found = ran(form)
            except Exception as error:
                first = first or error
                continue
            self.chosen = number
            return found
        assert first is not None
        raise first

    def run(self) -> Any:
        return self.attempt(lambda form: form())
