"""The model that is meant, and its operators as they can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calib.errors import CalibError
from calib.steps.request import Request, Subject, Traced
from model.architectures import build
from model.ops import Operator
from model.workload import Phase

HF = "hf"
"""The architecture that is a configuration of ``transformers``, and traced."""
OWN = "module"
"""The architecture that is a module of one's own, and traced."""


def find_subject(request: Request) -> tuple[Request, Any]:
    """The model that is meant, and the request with the workload that a module of one's own has.

    Raises ``CalibError`` that names the wrong key.
    """
    if request.model.architecture == OWN:
        from calib.steps.module.source import own_of

        model = own_of(request.module.path, request.workload)
        request = request.model_copy(update={"workload": model.workload})
    else:
        model = build_model(request.model, request.hf)
    return request, trained(model, request) if request.trains else model


def trained(model: Any, request: Request) -> Any:
    """``model`` as a training step of the request runs it."""
    from model.training import AdamW, Training

    if request.model.architecture == HF:
        from calib.trace.own import TrainedHF

        model = TrainedHF(model)
    asked = request.training
    return Training(model, AdamW(asked.state_dtype, asked.master_dtype))


def build_model(subject: Subject, traced: Traced) -> Any:
    """The model, ready to be asked for phases. Raises ``CalibError`` that names the wrong key."""
    if subject.architecture == HF:
        from calib.trace.hf import load

        return load(traced.config, traced.dtype)
    try:
        return build(subject.architecture, **subject.dimensions)
    except (TypeError, ValueError) as error:
        raise CalibError(f"model: {error}") from None


def shapes_of(phases: Mapping[str, Phase]) -> Iterator[Operator]:
    """The operators of all phases as they can be run, each time they are called."""
    from calib.fit.physics.features import whole

    yield from (whole(c.op) for p in phases.values() for c in p.layer.calls())
