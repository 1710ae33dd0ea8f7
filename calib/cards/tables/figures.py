"""What a card's file holds."""

from __future__ import annotations

from dataclasses import dataclass

from calib.cards.tables.cold import Caches
from calib.fit.calibration import Key, KindFit, fitted_dtype, kind_of
from model.ops import Operator

TORCH = "torch"
ENGINE = "vllm"
"""Whose tables are fitted."""
SPLITS_SOME = f"{ENGINE}/flash_attn_2"  # the keys of one query, where its heads share them
CUDNN = "cudnn"  # the vendor's, which torch calls and the engine does not
NARROW = ("float8_e4m3fn", "float4_e2m1fn", "int8")
"""Products that engines time together with what makes their activations narrow."""
NO_BATCH = ("bfloat16", *NARROW)  # products that engines timed: one at a time
KERNELS_FIRST = ("", "flash_attn_2", "flash_attn_3")
"""Kernels by how near they are to what torch runs; any other comes after these, by name."""


def nearness(implementation: str) -> tuple[int, str]:
    """What sorts implementations by how near their kernel is to torch's."""
    kernel = implementation.partition("/")[2]
    known = KERNELS_FIRST.index(kernel) if kernel in KERNELS_FIRST else len(KERNELS_FIRST)
    return known, kernel


@dataclass(frozen=True)
class Figures:
    """What a card's file holds.

    ``kinds``: the fits, by (implementation, kind, dtype). ``caches``: kind -> rates of hot and cold
    reads. ``disagreement``: kind -> half-width in log seconds within which 90% of the same shapes
    lie when another engine times them. ``carried``: kind that was transferred -> half-width within
    which 90% of a held-out card's shapes lie. ``clock_ratio``: the clock that the fits take the
    card to run at, over its rated one.
    """

    hardware: str
    kinds: dict[Key, KindFit]
    caches: dict[str, Caches]
    disagreement: dict[str, float]
    carried: dict[str, float]
    clock_ratio: float = 1.0

    def tells(self, op: Operator, implementation: str) -> bool:
        """Whether that was timed by the kernel of ``op``: layernorms tell of no rmsnorm."""
        fitted = self.kinds.get((implementation, kind_of(op), fitted_dtype(op)))
        named = getattr(op, "kind", None)
        return fitted is not None and (named is None or f"kind={named}" in fitted.low)
