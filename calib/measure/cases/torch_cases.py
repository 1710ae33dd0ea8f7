"""From an operator to something that runs: torch as an eager model calls it, on random data.

A case is a ``functools.partial`` of the function that is timed over its inputs, so that a call
costs no Python frame of ours and the inputs can be read off it. All tensors are views into one
arena of random numbers a dtype. A cold case walks through the arena, so that each call finds its
weights (or, for an operator without weights, its inputs) in main memory; a hot one uses the same
tensors again and again.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from calib.measure.cases.arena import Arena, Case, Run, Unsupported
from calib.measure.cases.convolutions import CONVOLUTIONS
from calib.measure.cases.others import OTHERS
from calib.measure.cases.pointwise import POINTWISE
from calib.measure.cases.products import PRODUCTS
from calib.measure.cases.rows import ROWS
from model import ops
from model.ops import Operator

_COLD_BYTES = 2**28
"""A cold case returns to a tensor after at least this many bytes: well above any CPU's cache."""

_MOST_COPIES = 64


def build(op: Operator, arena: Arena, cache: str = "cold") -> Run:
    """A call of ``op`` as eager torch makes it. Raises ``Unsupported`` where torch has none."""
    moved = float(op.weight_bytes_read) if op.weight_bytes_read > op.bytes / 10 else float(op.bytes)
    copies = 1 if cache == "hot" else min(_MOST_COPIES, math.ceil(_COLD_BYTES / max(moved, 1)))
    runs = torch_cases(op, arena, copies)
    if copies == 1:
        return runs[0]
    turns = itertools.cycle(runs)

    def run() -> Any:
        return next(turns)()

    return run


def torch_cases(op: Operator, arena: Arena, copies: int = 1) -> list[Case]:
    """``copies`` of a call of ``op``, each on inputs of its own as far as the arena goes.

    Raises ``Unsupported`` where torch has no such operator.
    """
    name = op.name if isinstance(op, ops.Other) else op.operator
    make = (OTHERS if isinstance(op, ops.Other) else _MAKERS).get(name)
    if make is None:
        raise Unsupported(f"no torch operator for {name}")
    return [make(op, arena) for _ in range(copies)]


_MAKERS = PRODUCTS | CONVOLUTIONS | ROWS | POINTWISE
