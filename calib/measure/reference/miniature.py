"""What eager Python adds between operators: measured on a miniature, not on the model under study.

An operator's sample holds its dispatch, but not the module code around it: ``nn.Module.__call__``,
views, reshapes, cache bookkeeping. A decoder of the same classes with two narrow layers does almost
nothing else. The time of its decode step, less its operators' own estimates, over its launches, is
the cost that each launch of an eager model carries on this host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from calib.samples.host_costs import MODULE_CODE
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call
from model.workload import Workload

if TYPE_CHECKING:
    import torch

HOST = MODULE_CODE
"""The operator under which the cost of a launch is stored."""
MINIATURE = {
    **{"sam_hidden": 64, "sam_layers": 1, "sam_heads": 2, "sam_intermediate": 128, "sam_neck": 32},
    **{"sam_global_layers": (0,), "sam_downsample": (32, 64), "clip_hidden": 64, "clip_layers": 1},
    **{"clip_heads": 2, "clip_intermediate": 128, "hidden": 256, "layers": 4, "heads": 4},
    **{"kv_heads": 4, "head_dim": 64, "intermediate": 512, "experts": 8, "top_k": 2},
    **{"expert_intermediate": 512, "vocabulary": 512},
}
"""Dimensions so small that the host is all there is, and the calls those of the full model."""


def host_seconds(
    estimate: Callable[[Sequence[Call]], float],
    repeats: int = 60,
    disturb: Callable[[], Any] = lambda: None,
    device: str = "cpu",
) -> list[float]:
    """Raw seconds a launch of ``repeats`` decode steps of the miniature on ``device``.

    ``estimate``: the operators' own seconds of a list of calls. ``disturb``: what ran between the
    repeats of their samples.
    """
    import torch

    from calib.measure.reference.model import build_reference
    from calib.measure.reference.passes import Passes, make_inputs, synchronise

    workload = Workload("miniature", side=64, decode_steps=1, prompt_tokens=32)
    reference = build_reference(MINIATURE, workload, device)
    passes = Passes(reference, workload, make_inputs(reference, workload))
    model: DeepseekOCRModel = reference.dimensions
    calls = model.decode_step(context=36 + repeats // 2)
    launches = sum(c.launches * c.count for c in calls)
    operators = estimate(calls)
    seconds = []
    with torch.no_grad(), paused_before_products(reference.model, disturb) as pauses:
        state = passes.step(passes.prefill())
        for _ in range(repeats):
            synchronise(device)
            pauses.clear()
            start = time.perf_counter()
            state = passes.step(state)
            synchronise(device)
            taken = time.perf_counter() - start - sum(pauses)
            seconds.append(max(taken - operators, 0.0) / launches)
    return seconds


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
