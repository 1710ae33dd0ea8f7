"""The passes of a workload, each traced once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from calib.errors import CalibError
from calib.trace.module import Recording, record
from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.kinds import passes_of
from calib.trace.passes.states import Growth
from calib.trace.tree import TracedLayer, layer_of
from calib.trace.values import without_values
from model.workload import Phase, Workload


class Buildable(Protocol):
    """What is traced: a module built on the tensors in force, and its configuration."""

    @property
    def dtype(self) -> str: ...

    @property
    def card(self) -> str | None: ...

    def build(self) -> torch.nn.Module: ...


@dataclass(frozen=True, eq=False)
class Traced:
    """The passes of a workload. ``growth``: bytes kept by length; ``length``: at the first token
    decoded. ``weight_bytes``: of all parameters, those that no pass touches included. ``notes``:
    what the reader must know of how the workload was taken."""

    phases: dict[str, Phase]
    growth: Growth
    length: int
    is_text: bool
    weight_bytes: int
    notes: tuple[str, ...]

    def working(
        self, more: int, steps: int, further: Traced | None
    ) -> dict[str, tuple[float, float]]:
        """KV cache at the end and activations at the peak [bytes] of each phase, were the prompt
        ``more`` tokens longer and ``steps`` decoded. ``further``: the same passes of a longer
        prompt; those of the prefill are taken to grow as b * n + c * n^2 through both."""
        found, length = {}, self.length + more
        for name, phase in self.phases.items():
            cache = float(phase.layer.kv_cache_bytes())
            activations = float(phase.layer.activation_bytes())
            if name in ("prefill", "decode"):
                cache = float(self.growth.bytes(length + steps * (name == "decode")))
            if further is not None and name == "prefill":
                far = float(further.phases[name].layer.activation_bytes())
                activations = grown(length, (self.length, activations), (further.length, far))
            found[name] = (cache, activations)
        return found


def grown(n: int, near: tuple[int, float], far: tuple[int, float]) -> float:
    """b * n + c * n^2 through two points (n, value), neither coefficient below 0."""
    each, each_far = near[1] / near[0], far[1] / far[0]
    square = max(each_far - each, 0.0) / (far[0] - near[0])
    return n * (max(each - square * near[0], 0.0) + square * n)


def traced_phases(source: Buildable, workload: Workload, last: str | None = None) -> Traced:
    """``last``: the pass that is the last to be asked for, to see how it grows with the prompt,
    whether or not the model has positions for it.

    Raises ``CalibError``, in one line, for whatever a model's own code raises.
    """
    notes = list[str]()
    with without_values(), torch.no_grad():
        module = built(source)
        found, growth, length = dict[str, Phase](), Growth(), 0
        for one in passes_of(module, source.dtype, workload, notes, bounded=last is None):
            try:
                layer = traced(module, one, source.card)
            except CalibError:
                raise
            except Exception as error:
                after = f" after {', '.join(found)}" if found else ""
                what = f"was built and fails in {one.name}{after}"
                told = refused(module, what, error, instead(source, module, workload, one.name))
                raise told from error
            found[one.name] = Phase(layer, one.repeat)
            growth, length = one.growth(), length or one.tokens
            if one.name == last:
                break
        stored = sum(p.nbytes for p in module.parameters())
    is_text = "encoder" not in found and "prefill" in found
    if workload.task == "decode":
        found = {name: phase for name, phase in found.items() if name == "decode"}
    return Traced(found, growth, length, is_text, stored, tuple(notes))


def built(source: Buildable) -> torch.nn.Module:
    try:
        return source.build()
    except CalibError:
        raise
    except Exception as error:
        raise refused(source, "cannot be built", error) from error


def traced(module: torch.nn.Module, one: Pass, card: str | None = None) -> TracedLayer:
    recording = one.attempt(lambda form: _recorded(module, one, form, card))
    held = one.growth().bytes(one.tokens)
    return layer_of(recording.events, recording.used, module, held)


def _recorded(module: torch.nn.Module, one: Pass, form: Form, card: str | None) -> Recording:
    return record(module, form, before=one.cache(), once=True, card=card)


def refused(source: object, what: str, error: Exception, instead: str = "") -> CalibError:
    said = " ".join(str(error).split())
    kind = getattr(source, "kind", type(source)).__name__
    return CalibError(f"hf.config: {kind} {what}: {type(error).__name__}: {said[:300]}{instead}")


def instead(source: Buildable, module: torch.nn.Module, workload: Workload, phase: str) -> str:
    """What would be accepted in place of a pass that fails, as far as the file tells."""
    found = [
        f"{name} in the file, which has none (the library's defaults were taken)"
        for name in getattr(source, "unnamed", ())
    ]
    prompt, first = max(workload.prompt_tokens, 1), None
    blind = replace(workload, side=None, prompt_tokens=prompt)
    with suppress(CalibError):  # what it takes without an image, if anything
        first = next(iter(passes_of(module, source.dtype, blind, [])), None)
    if workload.side and first is not None and first.name != phase:
        found.append("a workload without an image, such as text_512")
    return f": expected {', or '.join(found)}" if found else ""
