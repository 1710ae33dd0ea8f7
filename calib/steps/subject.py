"""The model that is meant, and its operators as they can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
from calib.steps.request import Subject, Traced
from model.architectures import build
from model.ops import Operator
from model.workload import Phase

HF = "hf"
"""The architecture that is a configuration of ``transformers``, and traced."""


def build_model(subject: Subject, traced: Traced) -> Any:
    """The model, ready to be asked for phases. Raises ``CalibError`` that names the wrong key."""
    if subject.architecture == HF:
        from calib.trace.hf import load

        return load(traced.config, traced.dtype)
    try:
        return build(subject.architecture, **subject.dimensions)
    except (TypeError, ValueError) as error:
        raise CalibError(f"model: {error}") from None


def meant_for(model: Any, hardware: Hardware) -> Any:
    """A traced model with the kernels that ``hardware`` would choose; any other as it is."""
    if not hasattr(model, "card"):
        return model
    return replace(model, card=hardware.compute_capability, traced={})


def shapes_of(phases: Mapping[str, Phase]) -> Iterator[Operator]:
    """The operators of all phases as they can be run, each time they are called."""
    from calib.fit.physics.features import whole

    yield from (whole(c.op) for p in phases.values() for c in p.layer.calls())
