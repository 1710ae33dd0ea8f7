"""Products by a CUDA of which no trace tells, but tables of products do.

One engine's linear layer was timed on some cards by CUDA 12.9 and by 13, in the same way: on Hopper
and Ada cards its products take as long by either, on a B200 each a microsecond longer by the
older one, small or large. Of all else by such a CUDA nothing is known: it is as without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calib.cards.card import Card
from calib.cards.tables.figures import TORCH
from calib.fit.calibration import ROOFLINE, TRANSFERRED, Estimates, Over, listed, wider
from calib.fit.physics.widened import is_widened
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import tells_products
from model.ops import Matmul, Operator

if TYPE_CHECKING:
    pass

FOLDER = "products"
"""Of them, within that of what is older; and what the build calls one: products:b200."""
SCALAR = ("float32", "float64")
"""Products outside the matrix units, of which the tables have none."""


@dataclass(frozen=True)
class Products:
    """``start``: what each takes longer than by today's CUDA, however small it is [s]; ``spread``:
    half-width in log that holds 90% of what is left."""

    hardware: str
    cuda: str
    start: float
    spread: float


@dataclass(frozen=True)
class OlderProducts(Over):
    """``whole`` as it ships, with what products by the older CUDA take longer."""

    whole: Card
    products: Products

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = TORCH,
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        found = self.whole.estimates(ops, implementation, hot)
        if implementation != TORCH:
            return found
        told = np.array([_is_told(op) for op in listed(ops)], dtype=bool)
        rows = told & (found.known_as != ROOFLINE)
        ends = (found.seconds, found.low, found.high)
        seconds, low, high = (end + np.where(rows, self.products.start, 0.0) for end in ends)
        below, above = wider(seconds, low, high, self.products.spread)
        low, high = np.where(rows, below, low), np.where(rows, above, high)
        known_as = np.where(rows, TRANSFERRED, found.known_as).astype(object)
        return Estimates(found.floor, seconds, low, high, known_as)


def _is_told(op: Operator) -> bool:
    return isinstance(op, Matmul) and op.dtype not in SCALAR and not is_widened(op)


def products_teacher(hardware: Hardware, folder: Path) -> Hardware | None:
    """The card whose tables tell of products by the CUDA that ``hardware`` names: itself, else one
    of the same capability; None where such a CUDA is not meant, or none such ships."""
    return nearest_in(folder / FOLDER, hardware) if tells_products(hardware.cuda) else None


def nearest_in(folder: Path, hardware: Hardware) -> Hardware | None:
    """The card of which a record lies in ``folder``: ``hardware``, else one of its capability."""
    cards = [load_hardware(path.stem) for path in sorted(folder.glob("*.npz"))]
    same = [c for c in cards if c.compute_capability == hardware.compute_capability]
    return min(same, key=lambda c: c.name != hardware.name, default=None)
