"""What eager Python adds between operators: measured on a miniature, not on the model under study.

An operator's sample holds its dispatch, but not the module code around it: ``nn.Module.__call__``,
views, reshapes, cache bookkeeping. A decoder of the same classes with two narrow layers does almost
nothing else. The time of its decode step, less its operators' own estimates, over its launches, is
the cost that each launch of an eager model carries on this host.

It goes over the same lengths twice. What only the first round pays is the first time of a shape
(on a card whose attention is cuDNN's, a plan for every new length, dearer than all the rest of the
step); module code is what the second round takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call
from model.ops import Attention
from model.workload import Workload

if TYPE_CHECKING:
    import torch

MINIATURE = {
    **{"sam_hidden": 64, "sam_layers": 1, "sam_heads": 2, "sam_intermediate": 128, "sam_neck": 32},
    **{"sam_global_layers": (0,), "sam_downsample": (32, 64), "clip_hidden": 64, "clip_layers": 1},
    **{"clip_heads": 2, "clip_intermediate": 128, "hidden": 256, "layers": 4, "heads": 4},
    **{"kv_heads": 4, "head_dim": 64, "intermediate": 512, "experts": 8, "top_k": 2},
    **{"expert_intermediate": 512, "vocabulary": 512},
}
"""Dimensions so small that the host is all there is, and the calls those of the full model."""


@dataclass(frozen=True)
class Rounds:
    """Seconds of decode steps over lengths never seen (``first``) and over the same ``again``.

    ``launches``, ``operators_s`` and ``shapes``: of one step, its launches, its operators' own
    seconds and its distinct attention shapes.
    """

    first: list[float]
    again: list[float]
    launches: int
    operators_s: float
    shapes: int

    @property
    def module_code(self) -> list[float]:
        """Raw seconds a launch."""
        return [max(s - self.operators_s, 0.0) / self.launches for s in self.again]

    @property
    def plans(self) -> list[float]:
        """Raw seconds that one new shape costs, length by length."""
        both = zip(self.first, self.again, strict=True)
        return [max(new - seen, 0.0) / max(self.shapes, 1) for new, seen in both]


def two_rounds(
    begin: Callable[[], Any], step: Callable[[], float], count: int
) -> tuple[list[float], list[float]]:
    """Seconds of ``count`` steps from ``begin``, and of the same steps once more."""
    rounds = []
    for _ in range(2):
        begin()
        rounds.append([step() for _ in range(count)])
    return rounds[0], rounds[1]


def host_rounds(
    estimate: Callable[[Sequence[Call]], float],
    repeats: int = 60,
    disturb: Callable[[], Any] = lambda: None,
    device: str = "cpu",
) -> Rounds:
    """``repeats`` decode steps of the miniature on ``device``, twice.

    ``estimate``: the operators' own seconds of a list of calls. ``disturb``: what ran between the
    repeats of their samples.
    """
    import torch

    from calib.measure.reference.model import build_reference
    from calib.measure.reference.passes import Passes, State, make_inputs, synchronise

    workload = Workload("miniature", side=64, decode_steps=1, prompt_tokens=32)
    reference = build_reference(MINIATURE, workload, device)
    passes = Passes(reference, workload, make_inputs(reference, workload))
    model: DeepseekOCRModel = reference.dimensions
    calls = model.decode_step(context=36 + repeats // 2)
    state: list[State] = []

    def begin() -> None:
        state[:] = [passes.step(passes.prefill())]

    with torch.no_grad(), paused_before_products(reference.model, disturb) as pauses:

        def step() -> float:
            synchronise(device)
            pauses.clear()
            start = time.perf_counter()
            state.append(passes.step(state.pop()))
            synchronise(device)
            return time.perf_counter() - start - sum(pauses)

        first, again = two_rounds(begin, step, repeats)
    launches = sum(c.launches * c.count for c in calls)
    shapes = len({c.op for c in calls if isinstance(c.op, Attention)})
    return Rounds(first, again, launches, estimate(calls), shapes)


@contextmanager
def paused_before_products(
    model: torch.nn.Module, disturb: Callable[[], Any]
) -> Iterator[list[float]]:
    """``disturb`` before every linear layer, as a real one streams its weights: caches are then as
    cold as between a sample's repeats. Yields the seconds of each pause."""
    import torch

    pauses: list[float] = []

    def pause(*_: Any) -> None:
        start = time.perf_counter()
        disturb()
        pauses.append(time.perf_counter() - start)

    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    handles = [m.register_forward_pre_hook(pause) for m in linear]
    try:
        yield pauses
    finally:
        for handle in handles:
            handle.remove()
