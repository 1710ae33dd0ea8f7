"""What a workload needs of a device's memory, and the largest one that fits.

    needed = weights + max over phases (KV cache at its end + activations at their peak)

Beside it stand the largest KV cache and the largest activations of any phase, which are not of one
phase as a rule: a prompt's activations are many, the cache is full when decoding ends. Weights are
those of the whole model, also while a phase uses a part of them. Activations are the peak of the
layers' own formula: eager, without gradients, each tensor freed where the implementation drops it.
Not counted: the CUDA context (some 0.5 GB), what the allocator holds back, and the workspaces of
libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from model.workload import Phase, Workload

LIMIT = 1 << 24
"""Batches and contexts above this are not looked at."""


Parts = dict[str, tuple[float, float]]
"""KV cache at the end and activations at the peak [bytes], of each phase."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one workload on one device. ``phase``: the one that needs most, ``working_bytes``.

    ``kv_cache_bytes`` and ``activation_bytes``: the largest of any phase, and which.
    ``largest_batch``: pages at once with this workload's context, 0 where not even one fits.
    ``largest_context``: tokens of a sequence, prompt and decoded, at this workload's batch; None
    for a model without one.
    """

    weight_bytes: float
    kv_cache_bytes: float
    kv_cache_phase: str
    activation_bytes: float
    activation_phase: str
    working_bytes: float
    phase: str
    memory_bytes: float
    largest_batch: int
    largest_context: int | None

    @property
    def needed_bytes(self) -> float:
        return self.weight_bytes + self.working_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.memory_bytes

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "needed_bytes": self.needed_bytes, "fits": self.fits}


def memory(model: Any, workload: Workload, memory_bytes: float) -> Memory:
    """The memory of ``workload``, and the largest batch and context that fit.

    A model that is traced says itself what its phases work with, ``working``, and what its weights
    take: a pass of every batch that is looked at would take minutes.
    """
    working = getattr(model, "working", partial(_working, model))
    weights = weights_of(model, workload)

    def need(asked: Workload) -> float:
        return float(weights + max(map(sum, working(asked).values())))

    parts: Parts = working(workload)
    by_cache = max(parts, key=lambda name: parts[name][0])
    by_activation = max(parts, key=lambda name: parts[name][1])
    peak = max(parts, key=lambda name: sum(parts[name]))
    return Memory(
        weight_bytes=weights,
        kv_cache_bytes=parts[by_cache][0],
        kv_cache_phase=by_cache,
        activation_bytes=parts[by_activation][1],
        activation_phase=by_activation,
        working_bytes=sum(parts[peak]),
        phase=peak,
        memory_bytes=memory_bytes,
        largest_batch=largest(lambda n: need(replace(workload, batch=n)), memory_bytes),
        largest_context=_largest_context(model, workload, need, memory_bytes),
    )


def _largest_context(
    model: Any, workload: Workload, need: Callable[[Workload], float], available: float
) -> int | None:
    if _context(model, workload) is None:
        return None
    tokens = largest(lambda n: need(replace(workload, prompt_tokens=n)), available)
    return _context(model, replace(workload, prompt_tokens=tokens)) if tokens else 0


def working_bytes(model: Any, workload: Workload) -> float:
    """KV cache and activations of the phase that needs most."""
    working = getattr(model, "working", partial(_working, model))
    return float(max(map(sum, working(workload).values())))


def weights_of(model: Any, workload: Workload) -> float:
    """Bytes of all weights: those that a traced model has, else those of the phases."""
    weighs = getattr(model, "weight_bytes", None)
    return float(weighs(workload) if weighs else weight_bytes(model.phases(workload)))


def weight_bytes(phases: dict[str, Phase]) -> float:
    """Of the whole model: a module that several phases use counts once, where it is whole."""
    largest_of: dict[str, float] = {}
    for phase in phases.values():
        for name, child in phase.layer.children().items():
            largest_of[name] = max(largest_of.get(name, 0.0), float(child.weight_bytes()))
    own = max(float(p.layer.own_weight_bytes()) for p in phases.values())
    return own + sum(largest_of.values())


def _context(model: Any, workload: Workload) -> int | None:
    """Tokens of a sequence, prompt and decoded; None for a model without one."""
    length = getattr(model, "prompt_length", lambda _: None)(workload)
    return None if length is None else int(length) + workload.decode_steps


def _working(model: Any, workload: Workload) -> Parts:
    """Of a model that is written out. Its decode phase stands at its mean context; its last step,
    with the most, is taken."""
    found = {}
    for name, phase in model.phases(workload).items():
        layer = phase.layer
        if name == "decode":
            layer = model.decode_layer(_context(model, workload), workload.batch)
        found[name] = (float(layer.kv_cache_bytes()), float(layer.activation_bytes()))
    return found


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
