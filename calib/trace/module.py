"""Any torch module in, the calls that it executes out: operators, module paths, launches, syncs.

The module runs once under a mode that listens to the dispatcher, on tensors without contents:
those of ``meta``, fake ones, or real ones made fake for the time of the run. Nothing is fused:
every call is one dispatched operator, but for a root-mean-square norm that is written out, which
is one :class:`~model.ops.Norm` of several launches, as in our own layers. Views are free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map

from calib.errors import CalibError
from calib.trace.alike import Replays
from calib.trace.card import card_of, on_card, uncompiled
from calib.trace.recorder import Event, Recorder
from calib.trace.refusals import refuse, refuse_products
from calib.trace.rules.rows import Row, is_real, tensors
from calib.trace.rules.table import calls_of, unknown
from calib.trace.values import in_force, known_values
from model.layer import Call

__all__ = ["Recording", "record", "trace", "unknown"]


@dataclass(frozen=True)
class Recording:
    """What one run did. ``events``: operators, modules and memory, in order; ``backward``: those
    of the gradient. ``used``: names of the parameters that it touched. ``result``: its return
    value, on the tensors that it ran on."""

    events: tuple[Event, ...]
    backward: tuple[Event, ...]
    used: tuple[str, ...]
    result: Any

    @property
    def calls(self) -> list[Call]:
        """Calls of the run, then those of its gradient."""
        return [call for part in (self.events, self.backward) for call in calls_of(rows(part))]


def rows(events: Iterable[Event]) -> Iterable[Row]:
    return (event for event in events if isinstance(event, Row))


def trace(
    module: torch.nn.Module,
    *inputs: Any,
    backward: bool = False,
    real: bool = False,
    path: str = "",
    card: str | None = None,
    **named: Any,
) -> list[Call]:
    """The calls of ``module(*inputs, **named)`` in order, then, with ``backward``, of its gradient.

    Tensors are made fake unless they are so or on ``meta`` already, so nothing is computed and
    no memory taken. ``real``: run on the tensors as they are, for code that looks at values.
    ``path``: the name of the module in the paths of its calls. ``card``: the compute capability of
    a card whose choice of kernels is asked, such as "9.0"; tensors on a CPU are run as a CPU would
    otherwise, those on ``meta`` as any card does (:mod:`calib.trace.card`).

    A gradient is that of every floating-point result with a gradient of its own form; the module
    is not run again. Routing of a grouped product is not known from shapes: its experts touched
    are the expectation under uniform routing (see :class:`~model.ops.GroupedMatmul`).

    Raises ``CalibError`` where the code asks for values that tensors without contents do not have.
    """
    how: dict[str, Any] = {"backward": backward, "real": real, "path": path, "card": card}
    return recorded(module, inputs, named, **how).calls


def recorded(
    module: torch.nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    *,
    backward: bool = False,
    real: bool = False,
    path: str = "",
    card: str | None = None,
) -> Recording:
    """As :func:`trace`, the whole recording: memory and modules too."""
    refuse(module, tensors((inputs, named)), real)
    everything = held(module, inputs, named)
    card = card_of(everything, card)
    how: dict[str, Any] = {"backward": backward, "path": path, "card": card}
    if real or not any(is_real(t) for t in everything):

        def run() -> Any:
            return module(*inputs, **named)

        modes = (t.fake_mode for t in everything if isinstance(t, FakeTensor))
        with next(modes, nullcontext()):  # in which what the code itself makes is fake too
            return record(module, run, **how)
    ragged = any(tensor.is_nested for tensor in everything)
    shapes = ShapeEnv() if ragged else None  # lengths of nested tensors are symbols
    mode = known_values(allow_non_fake_inputs=True, shape_env=shapes)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    # Some are on meta and others are not: only shapes count, so all are taken to be together.
    device = next(t.device for t in everything if is_real(t))
    fakes: dict[str, torch.Tensor] = {n: _fake(mode, t, device) for n, t in state.items()}
    inputs, named = tree_map(lambda leaf: _fake(mode, leaf, device), (inputs, named))

    def call() -> Any:
        return torch.func.functional_call(module, fakes, inputs, named)

    with in_force(mode):
        return record(module, call, state=fakes, **how)


def record(
    module: torch.nn.Module,
    run: Callable[[], Any],
    *,
    backward: bool = False,
    path: str = "",
    before: Iterable[torch.Tensor] = (),
    state: dict[str, torch.Tensor] | None = None,
    once: bool = False,
    card: str | None = None,
) -> Recording:
    """As :func:`trace`, of whatever ``run`` does with ``module``, on the tensors that it uses.

    Without ``backward`` no gradient is prepared. ``path``: where operators are that no module of
    ``module`` runs. ``before``: tensors that count as memory from the start, such as a cache.
    ``state``: the tensors that stand for the module's parameters during the run. ``once``: of
    layers that are alike only the first are run, and of the others it is said that they are.
    ``card``: as in :func:`trace`.
    """
    recorder = Recorder(module, path, before, state, card is not None)
    replays = Replays(recorder, module) if once else None
    try:
        with torch.set_grad_enabled(backward), on_card(card), uncompiled(), recorder:
            result = run()
            split = len(recorder.events)
            if backward:
                _run_backward(recorder, result)
    except _NEED_VALUES as error:
        raise _asks_for_values(module, str(error.func)) from None
    except (NotImplementedError, RuntimeError) as error:
        if not _WITHOUT_CONTENTS.search(str(error)):
            raise
        what = str(error).splitlines()[0].partition(": attempted to run")[0]
        raise _asks_for_values(module, what) from None
    finally:
        recorder.close()
        if replays:
            replays.close()
    forward, backwards = (
        tuple(event for event in part if not is_empty(event))
        for part in (recorder.events[:split], recorder.events[split:])
    )
    refuse_products(rows([*forward, *backwards]), card is not None)
    return Recording(forward, backwards, tuple(recorder.used), result)


def is_empty(event: Event) -> bool:
    """Whether an operator made tensors without elements, which no kernel is started for."""
    outputs = event.outputs if isinstance(event, Row) else ()
    return bool(outputs) and not any(size.numel for size in outputs)


_NEED_VALUES = (
    *(DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException),
)


_WITHOUT_CONTENTS = re.compile(r"[Mm]eta(?!data)|NestedTensorImpl")
"""In what torch says where an operator cannot be run on tensors without contents."""


def _run_backward(recorder: Recorder, result: Any) -> None:
    outputs = [t for t in tensors(result) if t.requires_grad and t.is_floating_point()]
    if not outputs:
        raise CalibError("trace: backward = True: expected a result that requires a gradient")
    recorder.recording = False
    gradients = [torch.empty_like(t) for t in outputs]
    recorder.recording = True
    recorder.place_gradients(outputs)
    torch.autograd.backward(outputs, gradients)


def _asks_for_values(module: torch.nn.Module, what: str) -> CalibError:
    return CalibError(
        f"trace: {type(module).__name__} looks at values, which tensors without contents do not "
        f"have ({what}): expected real=True with a real module and inputs, or shapes alone"
    )


def held(module: torch.nn.Module, *trees: Any) -> Sequence[torch.Tensor]:
    return [*module.parameters(), *module.buffers(), *tensors(trees)]


def _fake(mode: FakeTensorMode, leaf: Any, device: torch.device) -> Any:
    """A tensor without contents; of one on ``meta`` as if it were on ``device``."""
    if not isinstance(leaf, torch.Tensor) or isinstance(leaf, FakeTensor):
        return leaf
    found = mode.from_tensor(leaf, static_shapes=True)
    if leaf.device.type != "meta":
        return found
    with mode, torch.no_grad():
        return torch.empty_like(found, device=device).requires_grad_(leaf.requires_grad)
