"""What a training step costs: the gradient of a layer, the optimizer, and what both keep in memory.

The step of a model with formulas is its own forward passes, their gradients last layer first, and
one update of all parameters. The loss is left out, and nothing is computed twice: a step that
recomputes activations does more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Call, Child, Layer, Step, total
from model.ops import Other, item_bytes
from model.workload import Phase, Workload

ADAMW_FLOPS = 14
"""Elementary operations of one parameter: decay 1, first moment 3, second moment 4, denominator
(root, correction, epsilon) 3, update (correction, division, subtraction) 3."""


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), one fused pass.

    ``state_dtype``: of the two moments; None, as torch has it, is the parameters' own.
    ``master_dtype``: of a second, wider copy of the parameters, where mixed precision keeps one.
    """

    state_dtype: str | None = None
    master_dtype: str | None = None

    def __post_init__(self) -> None:
        for dtype in (self.state_dtype, self.master_dtype):
            if dtype is not None:
                item_bytes(dtype)

    def state_bytes(self, layer: Layer) -> Any:
        """Memory of both moments, and of the wide copy, of all parameters of ``layer``."""
        owners = (node.layer for node in layer.nodes() if node.layer.parameters())
        return sum(owner.parameters() * self.state_item(owner) for owner in owners)

    def step(self, layer: Layer, path: str = "") -> list[Call]:
        """One update of every module's own parameters: reads them, their gradients and the
        state; writes the first and the last."""
        updates = ((node.path, self.update(node.layer)) for node in layer.nodes(path))
        return [Call(where, op) for where, op in updates if op is not None]

    def update(self, layer: Layer) -> Other | None:
        """That of the layer's own parameters; None where it owns none."""
        count = layer.parameters()
        if not count:
            return None
        item, state = item_bytes(layer.parameter_dtype()), self.state_item(layer)
        return Other(
            "adamw",
            read=count * (2 * item + state),
            written=count * (item + state),
            arithmetic=count * ADAMW_FLOPS,
            dtype=layer.parameter_dtype(),
        )

    def state_item(self, layer: Layer) -> Any:
        """Bytes of state of one parameter."""
        moments = 2 * item_bytes(self.state_dtype or layer.parameter_dtype())
        return moments + (item_bytes(self.master_dtype) if self.master_dtype else 0)


# Passes as layers, so that they are summed up and reported like any other


class Mirror(Layer):
    """A pass over the modules of another layer, ``of``, under their names."""

    of: Layer

    @property
    def class_name(self) -> str:
        return self.of.class_name


@dataclass(frozen=True)
class Backward(Mirror):
    """The gradient of ``of``: its calls' gradients, last first."""

    of: Layer

    def forward(self) -> Iterator[Step]:
        for step in reversed(self.of.steps):
            if isinstance(step, Child):
                yield Child(step.name, Backward(step.layer))
            elif isinstance(step, Call):
                yield from (replace(step, op=gradient) for gradient in step.backward())


@dataclass(frozen=True)
class Update(Mirror):
    """One step of ``optimizer`` on all parameters of ``of``."""

    of: Layer
    optimizer: AdamW

    def forward(self) -> Iterator[Step]:
        for name, child in self.of.children().items():
            yield Child(name, Update(child, self.optimizer))
        op = self.optimizer.update(self.of)
        if op is not None:
            yield Call("", op)


@dataclass(frozen=True)
class State(Layer):
    """What an optimizer keeps from step to step [bytes]."""

    nbytes: Any

    def forward(self) -> Iterator[Step]:
        return iter(())

    def own_weight_bytes(self) -> Any:
        return self.nbytes


@dataclass(frozen=True)
class Optimizer(Layer):
    """The last pass of a step: an update of each of ``parts``, and the state that it keeps."""

    parts: tuple[Layer, ...]
    optimizer: AdamW

    @property
    def class_name(self) -> str:
        return type(self.optimizer).__name__

    def forward(self) -> Iterator[Step]:
        named = [child for part in self.parts for child in part.children().items()]
        seen: dict[str, Layer] = {}
        for name, layer in named:  # a module of several passes is updated once, where it is whole
            if name not in seen or layer.weight_bytes() > seen[name].weight_bytes():
                seen[name] = layer
        for name, layer in seen.items():
            yield Child(name, Update(layer, self.optimizer))
        owns = max(self.parts, key=lambda part: part.own_weight_bytes())
        op = self.optimizer.update(owns)
        if op is not None:
            yield Call("", op)
        state = sum(self.optimizer.state_bytes(layer) for layer in seen.values())
        if op is not None:
            state += owns.parameters() * self.optimizer.state_item(owns)
        yield Child("optimizer_state", State(state))


FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimizer"


def step_phases(forward: Mapping[str, Phase], optimizer: AdamW) -> dict[str, Phase]:
    """The passes of a training step: ``forward``, their gradients in reverse, and the update."""
    alone = len(forward) == 1
    names = {name: "" if alone else f"{name} " for name in forward}
    passes = {f"{names[n]}{FORWARD}": p for n, p in forward.items()}
    for name, phase in reversed(list(forward.items())):
        passes[f"{names[name]}{BACKWARD}"] = Phase(Backward(phase.layer), phase.repeat)
    parts = tuple(phase.layer for phase in forward.values())
    return {**passes, OPTIMIZER: Phase(Optimizer(parts, optimizer))}


@dataclass(frozen=True)
class Training:
    """``model`` as it is trained: a step on the prompts (and images) of a workload.

    A model that is traced knows its own gradient, ``training_phases``; of one with formulas the
    gradient is that of its calls.
    """

    model: Any
    optimizer: AdamW

    @property
    def name(self) -> str | None:
        return getattr(self.model, "name", None)

    @property
    def dimensions(self) -> dict[str, Any]:
        return dict(getattr(self.model, "dimensions", {}))

    def phases(self, workload: Workload, routing: Any = None) -> dict[str, Phase]:
        if hasattr(self.model, "training_phases"):
            found: dict[str, Phase] = self.model.training_phases(workload, self.optimizer)
            return found
        passes = self.model.phases(workload, routing)
        return step_phases({n: p for n, p in passes.items() if n != "decode"}, self.optimizer)

    @property
    def notes(self) -> list[str]:
        return [*getattr(self.model, "notes", ()), *STEP_NOTES, self.held]

    @property
    def held(self) -> str:
        if hasattr(self.model, "training_phases"):
            return "What the gradient needs of the forward pass was seen in a run of it."
        return (
            "Activations are an upper bound: as if every result of the forward passes were kept "
            "until its gradient is known, and all gradients of parameters with them."
        )

    def working(self, workload: Workload) -> dict[str, tuple[float, float]]:
        """Bytes beside weights and optimizer state, of the phase that needs most: nothing cached;
        activations and gradients."""
        if hasattr(self.model, "training_phases"):
            cache, held, phase = self.model.training_memory(workload, self.optimizer)
            return {phase: (cache, held)}
        phases = self.phases(workload)
        passes = [p.layer for n, p in phases.items() if n.endswith(FORWARD)]
        kept = sum(total(layer.calls(), lambda op: op.bytes_written) for layer in passes)
        gradients = max(layer.weight_bytes() for layer in passes)
        return {BACKWARD: (0.0, float(kept + gradients))}


STEP_NOTES = (
    "A training step: forward, the gradient of all parameters, and AdamW in one fused pass; the "
    "loss, data loading and communication are left out, and no activation is computed twice. In "
    "memory the state of AdamW counts with the weights, gradients with the activations.",
)
