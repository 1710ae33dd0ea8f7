"""The passes of a workload, each traced once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from calib.errors import CalibError
from calib.trace.module import record
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

    def build(self) -> torch.nn.Module: ...


@dataclass(frozen=True, eq=False)
class Traced:
    """The passes of a workload. ``growth``: bytes kept by length; ``length``: at the first token.

    ``weight_bytes``: of all parameters, those that no pass touches included. ``notes``: what the
    reader must know of how the workload was taken.
    """

    phases: dict[str, Phase]
    growth: Growth
    length: int
    weight_bytes: int
    notes: tuple[str, ...]


def traced_phases(source: Buildable, workload: Workload) -> Traced:
    """Raises ``CalibError``, in one line, for whatever a model's own code raises."""
    notes = list[str]()
    with without_values(), torch.no_grad():
        try:
            module = source.build()
        except CalibError:
            raise
        except Exception as error:
            raise refused(source, "cannot be built", error) from error
        found, growth, length = dict[str, Phase](), Growth(), 0
        for one in passes_of(module, source.dtype, workload, notes):
            try:
                layer = traced(module, one)
            except CalibError:
                raise
            except Exception as error:
                after = f" after {', '.join(found)}" if found else ""
                raise refused(module, f"was built and fails in {one.name}{after}", error) from error
            found[one.name] = Phase(layer, one.repeat)
            growth, length = one.growth(), length or one.tokens
        stored = sum(p.nbytes for p in module.parameters())
    return Traced(found, growth, length, stored, tuple(notes))


def traced(module: torch.nn.Module, one: Pass) -> TracedLayer:
    recording = one.attempt(lambda form: _recorded(module, one, form))
    held = one.growth().bytes(one.tokens)
    return layer_of(recording.events, recording.used, module, held)


def _recorded(module: torch.nn.Module, one: Pass, form: Form) -> object:
    return record(module, form, before=one.cache(), once=True)


def refused(source: object, what: str, error: Exception) -> CalibError:
    said = " ".join(str(error).split())
    kind = getattr(source, "kind", type(source)).__name__
    return CalibError(f"hf.config: {kind} {what}: {type(error).__name__}: {said[:300]}")
