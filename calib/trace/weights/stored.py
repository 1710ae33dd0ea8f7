"""What a configuration's file says of its weights, put onto the passes that are traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.trace.hf.guard import read
from calib.trace.weights.inventory import Held, inventory
from calib.trace.weights.scheme import Scheme, Unread, scheme_of

if TYPE_CHECKING:
    import torch

    from calib.trace.passes import Traced

STORED = "Weights as the file stores them: {}."
LEFT_OUT = "The file's quantization is left out ({}): the model is estimated in its dtype."
BESIDE = "hf_quant_config.json"
"""What modelopt writes beside a configuration that does not say it itself."""


@dataclass(frozen=True)
class Weights:
    """``scheme``: None where nothing is quantised, or where ``unread`` says why it is not known.
    ``held``: the matrices of the model, known once it was built."""

    scheme: Scheme | None = None
    unread: str = ""
    held: dict[str, Held] = field(default_factory=dict, repr=False)

    @property
    def notes(self) -> list[str]:
        if self.unread:
            return [LEFT_OUT.format(self.unread)]
        return [STORED.format(self.scheme.words())] if self.scheme else []

    def of(self, module: torch.nn.Module) -> torch.nn.Module:
        """``module``, whose matrices are then known."""
        self.held.update(inventory(module) if self.scheme else {})
        return module

    def onto(self, traced: Traced, dtype: str, card: str | None) -> Traced:
        """``traced`` as it runs on ``card`` with the weights as they are stored."""
        if self.scheme is None:
            return traced
        from calib.trace.weights.lowering import lowered

        return lowered(traced, self.scheme, self.held, dtype, card)


def weights_of(file: Path, given: Mapping[str, Any]) -> Weights:
    """Of the configuration ``given`` in ``file``. Raises ``CalibError`` for what cannot be."""
    beside = file.with_name(BESIDE)
    try:
        return Weights(scheme_of(given, read(beside) if beside.exists() else None))
    except Unread as error:
        return Weights(unread=str(error))
