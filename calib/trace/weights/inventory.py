"""The weight matrices that a model holds, by the module that multiplies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LINEAR = ("Linear", "Conv1D")
"""Ends of the names of classes of one matrix; those of routers are none, as in no release."""
OF_EXPERTS = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")
"""Parameters that hold a matrix for every expert, which files store one by one."""
FUSED = {"gate_up_proj": 2}
"""Parameters of several matrices that are one here, side by side in their outputs."""


@dataclass(frozen=True)
class Matrices:
    """``count`` matrices [n, k] that are stored one by one; ``fused`` of them are one product."""

    name: str
    n: int
    k: int
    count: int = 1
    fused: int = 1

    @property
    def product(self) -> tuple[int, int]:
        """[n, k] of what one product multiplies."""
        return self.n * self.fused, self.k


@dataclass(frozen=True)
class Held:
    """What one module owns. ``kind``: its class. ``wide_bytes``: of the matrices in the model's
    dtype; ``rest_bytes``: of all else."""

    kind: str
    matrices: tuple[Matrices, ...]
    wide_bytes: float
    rest_bytes: float

    @property
    def experts(self) -> bool:
        return any(m.count > m.fused for m in self.matrices)


def inventory(module: torch.nn.Module) -> dict[str, Held]:
    """By path, of the modules that own matrices of linear maps. What is tied belongs to the first
    that holds it."""
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden = getattr(text, "hidden_size", None)
    names, found = {name for name, _ in module.named_parameters()}, {}
    for path, part in module.named_modules():
        own = {
            name: p
            for name, p in part.named_parameters(recurse=False)
            if (f"{path}.{name}" if path else name) in names
        }
        kind = type(part).__name__
        matrices = {name: m for name, p in own.items() if (m := _matrices(kind, name, p, hidden))}
        if matrices:
            wide, rest = 0, 0
            for name, p in own.items():
                nbytes = p.numel() * p.element_size()
                wide, rest = (wide + nbytes, rest) if name in matrices else (wide, rest + nbytes)
            found[path] = Held(kind, tuple(matrices.values()), wide, rest)
    return found


def _matrices(kind: str, name: str, weight: Any, hidden: int | None) -> Matrices | None:
    shape = tuple(weight.shape)
    if len(shape) == 2 and name == "weight" and kind.endswith(LINEAR):
        n, k = shape[::-1] if kind.endswith("Conv1D") else shape
        return Matrices(name, n, k)
    if len(shape) != 3 or name not in OF_EXPERTS:
        return None
    # Experts lie [experts, n, k] or [experts, k, n]: what goes in and what comes out is hidden.
    experts, n, k = shape
    is_turned = k != hidden if name != "down_proj" else n != hidden
    n, k = (k, n) if is_turned else (n, k)
    fused = FUSED.get(name, 1)
    return Matrices(name, n // fused, k, experts * fused, fused)
