"""Joules of an operator above those of the idle card, by what it keeps busy.

With s the seconds of one execution and u a resource's share of its datasheet rate in them,

    watts above idle = tensor * u_t^0.8 + vector * u_v^0.8 + memory * u_m^0.8 + cache * u_c^0.8

tensor: the FLOPs of products over the peak of their type; vector: other arithmetic over that of the
CUDA cores; memory, cache: bytes over the bandwidth of main memory, by where they come from. A rate
is a unit here and no bound: every watt is fitted to joules that were counted. The exponent is below
1 since a kernel that leaves units idle does not spare their share.

A card holds its power over milliseconds, not over one kernel: short products of a model took more
watts than the same ones for a second. So its ceiling, fitted to what was counted too, is one of a
whole phase: with p the watts above idle of the wall time,

    share of them that is drawn = (1 + (p / ceiling)^8)^(-1/8)

The idle card's watts run all the time, launches or not:

    joules of a phase = idle * wall time + share * sum of its operators' joules above idle
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, peak
from model.ops import Operator

RESOURCES = ("tensor", "vector", "memory", "cache")
EXPONENT = 0.8
"""The best of 0.6 to 1.0 on held-out operators of an H200 (``python -m benchmarks.energy``)."""
SHARP = 8.0
"""How sharply the ceiling takes over; 12 does as well there."""


@dataclass(frozen=True)
class Energy:
    """What was fitted to one card. ``watts`` [4]: of ``RESOURCES`` at their datasheet rates;
    ``ceiling_w``: above idle; ``width``: half-width in log within which 90% of the joules of busy
    time lie; ``idle_width``: by which idle watts differ, relative; ``operators``: how many were
    counted; ``median_error``: of held-out ones."""

    hardware: str
    idle_w: float
    watts: tuple[float, ...]
    ceiling_w: float
    width: float
    idle_width: float
    operators: int
    median_error: float

    def above(self, work: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """[n] joules above idle, no ceiling. ``work`` [n, 4]: seconds at the datasheet rates, as
        :func:`work_of` counts them; ``seconds`` [n]: what an execution takes."""
        return np.asarray(self.shares(work, seconds) @ np.array(self.watts) * seconds)

    @staticmethod
    def shares(work: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """[n, 4] u^0.8; 0 where no time is taken."""
        busy = np.where(seconds > 0, seconds, np.inf)[:, None]
        return np.asarray((work / busy) ** EXPONENT)

    def drawn(self, joules: Any, wall_s: Any) -> Any:
        """The share of ``joules`` above idle that the ceiling lets pass in ``wall_s``."""
        asked = np.asarray(joules) / np.where(np.asarray(wall_s) > 0, wall_s, np.inf)
        return (1 + (asked / self.ceiling_w) ** SHARP) ** (-1 / SHARP)

    def back_to_back(self, work: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """[n] joules of one execution of many, one after the other."""
        above = self.above(work, seconds)
        return np.asarray(self.idle_w * seconds + above * self.drawn(above, seconds))


def work_of(ops: Sequence[Operator], in_cache: Sequence[bool], hardware: Hardware) -> np.ndarray:
    """[n, 4] seconds that each of ``RESOURCES`` takes at its datasheet rate. ``in_cache``: whether
    the last cache serves the bytes."""
    return np.array(
        [_work(op, hot, hardware) for op, hot in zip(ops, in_cache, strict=True)], dtype=float
    ).reshape(-1, len(RESOURCES))


def _work(op: Operator, hot: bool, hardware: Hardware) -> tuple[float, ...]:
    products = bool(op.tensor_core_flops)
    tensor = float(op.min_flops / peak(op, hardware)) if products else 0.0
    vector = 0.0 if products else float(op.cuda_core_flops) / hardware.cuda_core_flops
    moved = float(op.bytes) / hardware.bandwidth
    return tensor, vector, 0.0 if hot else moved, moved if hot else 0.0
