"""A module of one's own as a model: its passes are what one run of it on given inputs does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from calib.errors import CalibError
from calib.trace.module import Recording, held, recorded
from calib.trace.passes import Buildable, Inputs, pixel_forms
from calib.trace.recorder import Enter, Event, Leave
from calib.trace.rules.rows import Row, dtype_name, tensors
from calib.trace.tree import is_above, layer_of
from calib.trace.values import without_values
from model.layer import join
from model.training import BACKWARD, FORWARD, OPTIMIZER, AdamW, Optimizer
from model.workload import Phase, Workload


@dataclass(frozen=True, eq=False)
class OwnModel:
    """``module`` on positional ``inputs`` and ``named`` ones, whose shapes are all that counts.

    ``real``: it looks at values, and is really run. ``card``: the compute capability of the card
    whose kernels are asked; None, and where it is really run: those of the tensors' device.
    """

    module: torch.nn.Module
    inputs: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    real: bool = False
    card: str | None = None
    known: dict[bool, Recording] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or type(self.module).__name__)

    def on(self, card: str | None) -> OwnModel:
        return self if self.real else replace(self, card=card, known={})

    @property
    def dimensions(self) -> dict[str, Any]:
        """What the report says of the model."""
        parameters = list(self.module.parameters())
        types = dict.fromkeys(dtype_name(p.dtype) for p in parameters)
        return {
            "class": type(self.module).__name__,
            "parameters": sum(p.numel() for p in parameters),
            "dtype": ", ".join(types) or "none",
        }

    @property
    def notes(self) -> list[str]:
        parts = (m for m in self.module.modules() if isinstance(m, _DropoutNd))
        drops = any(m.training and m.p > 0 for m in parts)
        return ["Dropout is on: the module is in training mode."] if drops else []

    @property
    def workload(self) -> Workload:
        """What is asked of it. ``batch``: the first dimension of the first tensor handed in."""
        sizes = [t for t in tensors((self.inputs, self.named)) if t.ndim]
        words = [f"{'x'.join(map(str, t.shape))} {dtype_name(t.dtype)}" for t in sizes]
        more = f" and {len(words) - 2} more" if len(words) > 2 else ""
        batch = max(int(sizes[0].shape[0]), 1) if sizes else 1
        name = ", ".join(words[:2]) + more or "no tensors"
        return Workload(name, side=None, prompt_tokens=0, batch=batch, decode_steps=1)

    def recording(self, backward: bool) -> Recording:
        """Of one run; another only where the gradient was not asked for before."""
        if backward not in self.known:
            ready = trainable(self.module) if backward else self.module
            given = (ready, self.inputs, dict(self.named))
            before = [(p, p.grad) for p in self.module.parameters()]
            try:
                with unsaid("torch._subclasses.fake_tensor"):
                    how: dict[str, Any] = {"real": self.real, "card": self.card}
                    found = recorded(*given, backward=backward, **how)
            except CalibError:
                raise
            except Exception as error:  # of code that is not ours, on inputs that are not ours
                what = f"{type(error).__name__}: {error}".splitlines()[0]
                raise CalibError(f"{self.name} does not run on these inputs: {what}") from error
            finally:
                for parameter, gradient in before:  # that of the run is of no loss
                    parameter.grad = gradient
            self.known[backward] = replace(found, result=None)
        return self.known[backward]

    def phases(self, workload: Workload, routing: None = None) -> dict[str, Phase]:
        """One pass. Raises ``CalibError`` for a module that looks at values."""
        found = self.recording(False)
        return {FORWARD: Phase(layer_of(found.events, found.used, self.module))}

    def training_phases(self, workload: Workload, optimizer: AdamW) -> dict[str, Phase]:
        """The pass, its gradient as autograd took it, and the update of what has one.

        Raises ``CalibError`` where nothing of the result has a gradient.
        """
        found = self.recording(True)
        forward = layer_of(found.events, found.used, self.module)
        back = layer_of(list(nested(found.backward)), found.used, self.module)
        update = Optimizer((forward,), optimizer)
        return {FORWARD: Phase(forward), BACKWARD: Phase(back), OPTIMIZER: Phase(update)}

    def working(self, workload: Workload) -> dict[str, tuple[float, float]]:
        """Nothing cached; activations [bytes] of the pass, taken to grow with the batch."""
        times = workload.batch / self.workload.batch
        layer = self.phases(workload)[FORWARD].layer
        return {FORWARD: (0.0, float(layer.activation_bytes()) * times)}

    def training_memory(self, workload: Workload, optimizer: AdamW) -> tuple[float, float, str]:
        """The same of a step: what the gradient needs, and gradients as they come to be.

        Of another batch than was run at most: activations grow with it and are all there at the
        end of the forward pass, gradients of parameters do not and are all there at the end.
        """
        passes = self.training_phases(workload, optimizer)
        forward, back = passes[FORWARD].layer, passes[BACKWARD].layer
        peak, kept = forward.live_bytes()
        worst = float(max(peak, kept + back.live_bytes()[0]))
        if workload.batch != self.workload.batch:
            times = workload.batch / self.workload.batch
            worst = float(forward.weight_bytes()) + float(peak) * times
        return 0.0, worst, BACKWARD


def own_model(
    module: torch.nn.Module, inputs: Any, name: str | None = None, real: bool = False
) -> OwnModel:
    """``inputs``: a tensor, a tuple of positional arguments, or a mapping of named ones.

    Raises ``CalibError`` for a module that is none.
    """
    if not isinstance(module, torch.nn.Module):
        raise CalibError(f"module = {module!r}: expected a torch.nn.Module")
    if isinstance(inputs, Mapping):
        return OwnModel(module, (), dict(inputs), name or "", real)
    given = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    return OwnModel(module, given, {}, name or "", real)


@contextmanager
def unsaid(logger: str) -> Iterator[None]:
    """Without what ``logger`` has to say of an error that is raised too."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def trainable(module: torch.nn.Module) -> torch.nn.Module:
    """Raises ``CalibError`` where no parameter wants a gradient."""
    if not any(p.requires_grad for p in held(module)):
        raise CalibError(
            f"pass = 'train': no parameter of {type(module).__name__} requires a gradient"
        )
    return module


def nested(events: Sequence[Event]) -> Iterator[Event]:
    """``events`` of a gradient, which no module is called for, between modules' starts and ends:
    each operator below the module that its forward was in."""
    opened: list[str] = []
    for event in events:
        if isinstance(event, Row):
            while opened and not (event.path == opened[-1] or is_above(opened[-1], event.path)):
                opened.pop()
                yield Leave()
            below = event.path.removeprefix(opened[-1] if opened else "").strip(".")
            for part in below.split(".") if below else ():
                opened.append(join(opened[-1] if opened else "", part))
                yield Enter(opened[-1])
        yield event
    for _ in opened:
        yield Leave()


# A model of transformers that is trained


@dataclass(frozen=True, eq=False)
class TrainedHF:
    """A model of ``transformers`` whose step is a pass over prompts, or over images, of a
    workload, without a cache."""

    source: Any
    known: dict[Workload, OwnModel] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return str(self.source.name)

    @property
    def dimensions(self) -> dict[str, Any]:
        return dict(self.source.dimensions)

    @property
    def notes(self) -> list[str]:
        return list(self.source.notes)

    def own(self, workload: Workload) -> OwnModel:
        if workload not in self.known:
            self.known[workload] = built(self.source, workload)
        return self.known[workload]

    def training_phases(self, workload: Workload, optimizer: AdamW) -> dict[str, Phase]:
        return self.own(workload).training_phases(workload, optimizer)

    def training_memory(self, workload: Workload, optimizer: AdamW) -> tuple[float, float, str]:
        """From a pass of the same workload at another batch, where one was traced."""
        alike = (w for w in self.known if replace(w, batch=workload.batch) == workload)
        known = self.own(next(alike, workload))
        return known.training_memory(workload, optimizer)


def built(source: Buildable, workload: Workload) -> OwnModel:
    """Raises ``CalibError`` for a kind of model whose step is not one pass over text or images."""
    with without_values():
        module: Any = source.build()
        made = Inputs(module, workload, getattr(torch, source.dtype), [])
        encodes = getattr(module.config, "is_encoder_decoder", False)
        main = getattr(module, "main_input_name", "no one input")
        if main == "pixel_values":
            given, _ = next(pixel_forms(made, module.forward, module))
            return OwnModel(module, (), given)
        if main == "input_ids" and not encodes:
            length = max(workload.prompt_tokens, 1)
            return OwnModel(module, (), {"input_ids": made.tokens(length), "use_cache": False})
    raise CalibError(
        f"pass = 'train': {type(module).__name__} takes {main}: expected a "
        "language model or a vision model"
    )
