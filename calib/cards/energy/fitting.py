"""Five numbers fitted to the operators that were counted, and what they err by on others.

Least squares on log(joules / counted joules), no watts below 0. A slight pull towards no watts at
all (``_PULL``) settles what these rows leave open: of operators in the cache only elementwise ones
were counted, whose arithmetic and bytes go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calib.cards.energy.counted import Counted, CountedCard
from calib.cards.energy.fitted import RESOURCES, Energy, work_of
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware

IDLE_WIDTH = 0.03
"""Idle watts of two H200s: 125.4 and 129.1."""
LEVEL = 0.9
OF_PHASES = 1.2
"""By how much more whole models err than the operators that were held out: 90% of 29 phases counted
on an H200 lie within 1.20 times the width of those (``python -m benchmarks.energy``)."""
_SCALE = np.array([600.0, 10000.0, 600.0, 600.0, 600.0])
"""Watts of what is fitted, by order of magnitude; arithmetic beside products is far from its peak
wherever bytes are moved for it."""
_PULL = 0.1
_LEAST_CEILING = 0.5
"""Watts."""
_HALF = ("float16", "bfloat16")


def fit_energy(card: CountedCard, hardware: Hardware) -> Energy:
    """Fitted to all of them; its errors are those of groups that were held out, and its width is
    theirs brought to whole models.

    Raises ``CalibError`` where the card is another than ``hardware``.
    """
    if card.hardware != hardware.name:
        raise CalibError(f"energy was counted on {card.hardware}: expected {hardware.name}")
    rows, groups = card.operators, [group_of(c) for c in card.operators]
    errors = held_out(rows, groups, hardware, card.idle_w)
    found = fitted(rows, hardware, card.idle_w)
    place = min(int(np.ceil((len(rows) + 1) * LEVEL)), len(rows)) - 1
    return replace(
        found,
        width=OF_PHASES * float(np.sort(np.abs(errors))[place]),
        median_error=float(np.median(np.abs(np.expm1(errors)))),
    )


def held_out(
    rows: Sequence[Counted], groups: Sequence[str], hardware: Hardware, idle_w: float
) -> np.ndarray:
    """[n] log(joules / counted), of each by a fit that saw none of its group."""
    found, of = np.empty(len(rows)), np.array(groups)
    for group in sorted(set(groups)):
        rest = [row for row, other in zip(rows, of != group, strict=True) if other]
        some = [row for row, other in zip(rows, of != group, strict=True) if not other]
        found[of == group] = _errors(fitted(rest, hardware, idle_w), some, hardware)
    return found


def group_of(row: Counted) -> str:
    """What is held out together: a kind, of products by type and by bands of rows; a half is a
    half."""
    op, words = row.op, [row.op.operator]
    if op.tensor_core_flops:
        words.append("half" if getattr(op, "dtype", "") in _HALF else str(getattr(op, "dtype", "")))
    if op.operator == "matmul" and row.cache == "cold":
        m = getattr(op, "m", 0)
        words.append(next((f"m to {most}" for most in (8, 64, 256) if m <= most), "m beyond"))
    elif op.operator in ("matmul", "elementwise"):
        words.append(row.cache)
    return " ".join(words)


def fitted(rows: Sequence[Counted], hardware: Hardware, idle_w: float) -> Energy:
    """Without errors of held-out groups."""
    from scipy.optimize import least_squares

    work, seconds, joules = arrays(rows, hardware)

    def residuals(scaled: np.ndarray) -> np.ndarray:
        found = _energy(scaled * _SCALE, hardware, idle_w, len(rows))
        errors = np.log(found.back_to_back(work, seconds) / joules)
        return np.concatenate([errors, _PULL * scaled[:-1]])

    # Where no operator comes near a ceiling, rows say no more than that it lies beyond them.
    drawn = float((joules / seconds).max()) - idle_w
    first = np.append(np.ones(len(RESOURCES)), max(drawn, 1.0) / _SCALE[-1])
    least = [0.0] * len(RESOURCES) + [_LEAST_CEILING / _SCALE[-1]]
    found = least_squares(residuals, first, bounds=(least, np.inf))
    return _energy(found.x * _SCALE, hardware, idle_w, len(rows))


def arrays(
    rows: Sequence[Counted], hardware: Hardware
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Work [n, 4], seconds [n], joules [n]. A loop finds its inputs in the cache where it is to
    and where they all fit."""
    hot = [row.cache == "hot" and row.op.bytes <= hardware.l2_bytes for row in rows]
    work = work_of([row.op for row in rows], hot, hardware)
    return work, np.array([r.seconds for r in rows]), np.array([r.joules for r in rows])


def _errors(found: Energy, rows: Sequence[Counted], hardware: Hardware) -> np.ndarray:
    work, seconds, joules = arrays(rows, hardware)
    return np.asarray(np.log(found.back_to_back(work, seconds) / joules))


def _energy(watts: np.ndarray, hardware: Hardware, idle_w: float, count: int) -> Energy:
    *parts, ceiling = (float(w) for w in watts)
    nothing = float("nan")
    return Energy(hardware.name, idle_w, tuple(parts), ceiling, nothing, IDLE_WIDTH, count, nothing)
