"""The model that is meant, and its operators as they can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
from calib.steps.request import Subject, Traced
from model.architectures import build
from model.ops import Operator
from model.workload import Phase

HF = "hf"
"""The architecture that is a configuration of ``transformers``, and traced."""


def build_model(subject: Subject, traced: Traced, hardware: Hardware | None = None) -> Any:
    """The model, ready to be asked for phases. ``hardware``: whose dtype is taken where the file
    of a traced model names none. Raises ``CalibError`` that names the wrong key."""
    if subject.architecture == HF:
        from calib.trace.hf import load

        return load(traced.config, traced.dtype, usual_dtype(hardware))
    try:
        return build(subject.architecture, **subject.dimensions)
    except (TypeError, ValueError) as error:
        raise CalibError(f"model: {error}") from None


def usual_dtype(hardware: Hardware | None) -> str:
    """What models are served in: bfloat16 on a card whose matrix unit has it (compute capability
    8.0 and up), else float16 where the card multiplies it faster; float32 on a CPU."""
    if hardware is None or not hardware.compute_capability:
        return "float32"
    if float(hardware.compute_capability) >= 8.0:
        return "bfloat16"
    peaks = hardware.peak_flops
    return "float16" if peaks.get("float16", 0.0) > peaks.get("float32", 0.0) else "float32"


def shapes_of(phases: Mapping[str, Phase]) -> Iterator[Operator]:
    """The operators of all phases as they can be run, each time they are called."""
    from calib.fit.physics.features import whole

    yield from (whole(c.op) for p in phases.values() for c in p.layer.calls())
