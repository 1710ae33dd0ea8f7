"""The model that is meant, and its operators as they can be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calib.checkout import CONF, read_yaml
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
from calib.steps.request import HF, OWN, Request, Subject, Traced
from model.architectures import build
from model.ops import Collective, Operator
from model.parallel.layout import LayoutError
from model.workload import Phase, Workload


def find_subject(request: Request, hardware: Hardware) -> tuple[Request, Any]:
    """The model that is meant, and the request with the workload that a module of one's own has.

    Raises ``CalibError`` that names the wrong key.
    """
    if request.model.architecture == OWN:
        from calib.steps.module.source import own_of

        model = meant_for(own_of(request.module.path, request.workload), hardware)
        request = request.model_copy(update={"workload": model.workload})
    else:
        model = meant_for(build_model(request.model, request.hf, hardware), hardware)
        model = spread(model, request, hardware)
    return request, trained(model, request) if request.trains else model


def spread(model: Any, request: Request, hardware: Hardware) -> Any:
    """``model`` on the cards that the request asks for. Raises ``CalibError`` as ``layout_on``."""
    if not request.spread:
        return model
    from calib.steps.settings.layout import layout_on
    from model.parallel import Parallel

    return Parallel(model, layout_on(request.parallel, hardware))


def trained(model: Any, request: Request) -> Any:
    """``model`` as a training step of the request runs it."""
    from model.training import AdamW, Training

    if request.model.architecture == HF:
        from calib.trace.own import TrainedHF

        model = TrainedHF(model)
    asked = request.training
    return Training(model, AdamW(asked.state_dtype, asked.master_dtype))


def build_model(subject: Subject, traced: Traced, hardware: Hardware | None = None) -> Any:
    """The model, ready to be asked for phases. ``hardware``: whose dtype is taken where the file
    of a traced model names none. Raises ``CalibError`` that names the wrong key."""
    if subject.architecture == HF:
        from calib.trace.hf import load

        return load(traced.config, traced.dtype, usual_dtype(hardware))
    try:
        return build(subject.architecture, **subject.dimensions)
    except ValueError as error:  # of dimensions that do not go together
        raise CalibError(f"model.{error}") from None


def phases_of(model: Any, workload: Workload) -> dict[str, Phase]:
    """The passes of ``workload``. Raises ``CalibError`` that names the key, and the workloads of
    ``conf`` that the model takes."""
    try:
        found: dict[str, Phase] = model.phases(workload)
        _check_countable(found)
    except LayoutError as error:
        raise CalibError(str(error)) from None
    except ValueError as error:
        known = str(error).split(" ", 1)[0] in vars(workload)
        named = f"workload.{error}" if known else f"workload: {error}"
        fit = " or ".join(_fitting(model, workload.side is not None))
        raise CalibError(f"{named}{f'; workload={fit} would do' if fit else ''}") from None
    return found


def _check_countable(phases: Mapping[str, Phase]) -> None:
    """Raises ``CalibError`` for an operator whose FLOPs or bytes exceed whole numbers of 64 bits:
    no device does that within a month, and tables could not hold it."""
    for name, phase in phases.items():
        for call in phase.layer.calls():
            most = max(call.op.flops, call.op.bytes) * call.count * phase.repeat
            if most >= _COUNTABLE:
                raise CalibError(
                    f"workload and model: {call.op.operator} of {name}, {call.path or 'the root'}: "
                    f"{float(most):.3g} FLOPs or bytes: expected less than {_COUNTABLE:.3g}; make "
                    "the batch, the prompt, the image or the model smaller"
                )


_COUNTABLE = 2**63


def _fitting(model: Any, sees: bool) -> Iterator[str]:
    """The workloads of ``conf`` that ``model`` takes; ``sees``: with an image, as was asked."""
    for path in sorted((CONF / "workload").glob("*.yaml")):
        given = read_yaml(path)
        tiles = given["tiles"] and tuple(given["tiles"])
        if sees and given["side"] is None:
            continue
        try:
            model.phases(Workload(**{**given, "tiles": tiles}))
        except ValueError:
            continue
        yield path.stem


def meant_for(model: Any, hardware: Hardware) -> Any:
    """A traced model with the kernels that ``hardware`` would choose; any other as it is."""
    return model.on(hardware.compute_capability) if hasattr(model, "on") else model


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
    """The operators of all phases as one card can run them, each time they are called."""
    from calib.fit.physics.features import whole

    ops = (c.op for p in phases.values() for c in p.layer.calls())
    yield from (whole(op) for op in ops if not isinstance(op, Collective))
