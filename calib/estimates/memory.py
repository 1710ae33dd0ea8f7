"""What a workload needs of a device's memory, and the largest one that fits.

    needed = weights + max over phases (KV cache at its end + activations at their peak)

Weights are those of the whole model, also while a phase uses a part of them. Activations are the
peak of the layers' own formula: eager, without gradients, each tensor freed where the
implementation drops it. Not counted: the CUDA context (some 0.5 GB), what the allocator holds back,
and the workspaces of libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from model.workload import Phase, Workload

LIMIT = 1 << 24
"""Batches and contexts above this are not looked at."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one workload on one device. ``phase``: the one that needs most.

    ``largest_batch``: pages at once with this workload's context, 0 where not even one fits.
    ``largest_context``: tokens of a sequence, prompt and decoded, at this workload's batch; None
    for a model without one.
    """

    weight_bytes: float
    kv_cache_bytes: float
    activation_bytes: float
    phase: str
    memory_bytes: float
    largest_batch: int
    largest_context: int | None

    @property
    def needed_bytes(self) -> float:
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.memory_bytes

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "needed_bytes": self.needed_bytes, "fits": self.fits}


def memory(model: Any, workload: Workload, memory_bytes: float) -> Memory:
    """The memory of ``workload``, and the largest batch and context that fit.

    A model that is traced says itself what its phases work with, ``working``: a pass of every
    batch that is looked at would take minutes.
    """
    weights = weight_bytes(model.phases(workload))
    working = getattr(model, "working", partial(_working, model))

    def need(asked: Workload) -> float:
        return weights + float(sum(working(asked)[:2]))

    cache, activations, phase = working(workload)
    batch = largest(lambda n: need(replace(workload, batch=n)), memory_bytes)
    context = None
    if hasattr(model, "prompt_length"):
        tokens = largest(lambda n: need(replace(workload, prompt_tokens=n)), memory_bytes)
        context = _context(model, replace(workload, prompt_tokens=tokens)) if tokens else 0
    return Memory(weights, cache, activations, phase, memory_bytes, batch, context)


def working_bytes(model: Any, workload: Workload) -> float:
    """KV cache and activations of the phase that needs most."""
    working = getattr(model, "working", partial(_working, model))
    return float(sum(working(workload)[:2]))


def weight_bytes(phases: dict[str, Phase]) -> float:
    """Of the whole model: a module that several phases use counts once, where it is whole."""
    largest_of: dict[str, float] = {}
    for phase in phases.values():
        for name, child in phase.layer.children().items():
            largest_of[name] = max(largest_of.get(name, 0.0), float(child.weight_bytes()))
    own = max(float(p.layer.own_weight_bytes()) for p in phases.values())
    return own + sum(largest_of.values())


def _context(model: Any, workload: Workload) -> int:
    return int(model.prompt_length(workload)) + workload.decode_steps


def _working(model: Any, workload: Workload) -> tuple[float, float, str]:
    """KV cache and activations of the phase that needs most, and its name.

    A decode phase stands at its mean context; its last step, with the most, is taken.
    """
    found = []
    for name, phase in model.phases(workload).items():
        layer = phase.layer
        if name == "decode":
            layer = model.decode_layer(_context(model, workload), workload.batch)
        found.append((float(layer.kv_cache_bytes()), float(layer.activation_bytes()), name))
    return max(found, key=lambda one: one[0] + one[1])


def largest(need: Callable[[int], float], available: float) -> int:
    """The largest n >= 1 with need(n) <= available, 0 where 1 needs more; ``need`` never falls.

    Interpolates and bisects in turn: a need that grows in proportion takes five calls.
    """
    low, high = 1, 2
    at_low = at_high = need(1)
    if at_low > available:
        return 0
    while at_high <= available:
        at_high = need(high)
        if at_high <= available:
            if high == LIMIT:
                return LIMIT
            growth = (at_high - at_low) / (high - low)
            ahead = int((available - at_high) / growth) if growth else high
            low, at_low, high = high, at_high, min(high + 1 + max(ahead, high), LIMIT)
    interpolate = True
    while high - low > 1:
        share = (available - at_low) / (at_high - at_low) if interpolate else 0.5
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        value = need(middle)
        if value <= available:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
        interpolate = not interpolate
    return low
