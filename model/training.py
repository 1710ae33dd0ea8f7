"""What a training step costs beside forward and backward: the optimizer and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.layer import Call, Layer
from model.ops import Other, item_bytes

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

    def state_bytes(self, layer: Layer) -> Any:
        """Memory of both moments, and of the wide copy, of all parameters of ``layer``."""
        owners = (node.layer for node in layer.nodes() if node.layer.parameters())
        return sum(owner.parameters() * self.state_item(owner) for owner in owners)

    def step(self, layer: Layer, path: str = "") -> list[Call]:
        """One update of every module's own parameters: reads them, their gradients and the
        state; writes the first and the last."""
        calls = []
        for node in layer.nodes(path):
            count = node.layer.parameters()
            if count:
                item, state = item_bytes(node.layer.parameter_dtype()), self.state_item(node.layer)
                op = Other(
                    "adamw",
                    read=count * (2 * item + state),
                    written=count * (item + state),
                    arithmetic=count * ADAMW_FLOPS,
                    dtype=node.layer.parameter_dtype(),
                )
                calls.append(Call(node.path, op))
        return calls

    def state_item(self, layer: Layer) -> Any:
        """Bytes of state of one parameter."""
        moments = 2 * item_bytes(self.state_dtype or layer.parameter_dtype())
        return moments + (item_bytes(self.master_dtype) if self.master_dtype else 0)
