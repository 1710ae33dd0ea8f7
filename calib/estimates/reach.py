"""How far a workload goes beyond what was sampled, where mostly physics speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.card import Card
from calib.cards.corrected import Corrected
from calib.cards.older.products import OlderProducts
from calib.cards.older.shipped import Beneath, OlderTorch
from calib.cards.tables.figures import TORCH
from calib.cards.tables.stand_ins import stand_in
from calib.fit.calibration import MEASURED, Calibration, fitted_dtype, kind_of
from calib.fit.kind import KindFit
from calib.fit.physics.features import CLASSES, features_of_list
from calib.hardware.datasheet import Hardware
from model.ops import Operator

if TYPE_CHECKING:
    from calib.fit.calibration import Estimator

WORTH_SAYING = 2.0
"""Ratio beyond the sampled range from which on a shape is counted."""
WORTH_SHARE = 0.05
"""Of the time: what such shapes must take to be mentioned."""


def reach_notes(
    calibration: Estimator,
    timed: Sequence[tuple[Operator, float, str]],
    implementation: str,
    names: Mapping[Operator, str] | None = None,
) -> list[str]:
    """A sentence where much of the time is of shapes far beyond the samples, else nothing.

    ``timed``: each operator with its seconds and their provenance. ``names``: what follows the
    engine's name in that of the kernel that runs an operator.
    """
    whole = sum(seconds for _, seconds, _ in timed)
    guessed = [(op, seconds) for op, seconds, how in timed if how != MEASURED]
    different = list(dict.fromkeys(op for op, _ in guessed))
    kernels: dict[str, list[Operator]] = {}
    for op in different:
        kernels.setdefault((names or {}).get(op, ""), []).append(op)
    known = {
        op: reach
        for name, ops in kernels.items()
        for op, reach in zip(ops, beyond(calibration, ops, implementation + name), strict=True)
    }
    far = [(*known[op], op, seconds) for op, seconds in guessed if known[op][0] > WORTH_SAYING]
    share = sum(seconds for *_, seconds in far) / whole if whole else 0.0
    if not share > WORTH_SHARE:  # nor where no time is known
        return []
    ratio, name, op, _ = max(far, key=lambda one: (one[0], one[1]))
    return [
        f"Extrapolated: {share:.0%} of the kernels' time is of shapes beyond what was sampled, by "
        f"up to {_times(ratio)} ({kind_of(op).replace('_', ' ')}, {name}). There the estimate is "
        "mostly physics, and its interval wide."
    ]


def _times(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):,g} times" if ratio < 1e6 else f"{ratio:.1e} times"


def beyond(
    calibration: Estimator, ops: Sequence[Operator], implementation: str
) -> list[tuple[float, str]]:
    """For each operator the largest ratio by which a dimension, or its work, lies outside the
    samples of its kind, and which; 1 and no name inside, and where no samples tell.

    Of several calibrations, or fits of a kind, the one that reaches furthest counts.
    """
    return [found or (1.0, "") for found in _nearest(calibration, ops, implementation)]


Reach = tuple[float, str] | None
"""None: no samples tell."""


def _nearest(calibration: Any, ops: Sequence[Operator], implementation: str) -> list[Reach]:
    """Of those with fits of their own that ``calibration`` is made of: samples, and what they
    correct."""
    if isinstance(calibration, Beneath | OlderProducts):
        return _nearest(calibration.whole, ops, implementation)
    if isinstance(calibration, OlderTorch):
        found: list[Reach] = [None] * len(ops)
        for rows, known, some in calibration.parts(ops):
            for row, reach in zip(rows, _nearest(known, some, implementation), strict=True):
                found[int(row)] = reach
        return found
    if isinstance(calibration, Corrected):
        answers = [
            _beyond(calibration.own, ops, implementation),
            _nearest(calibration.base, ops, implementation),
        ]
    else:
        answers = [_beyond(calibration, ops, implementation)]
        if isinstance(calibration, Card) and calibration.torch:
            told = _beyond(calibration.torch.own, ops, implementation)
            pairs = zip(ops, told, strict=True)
            answers.append([None if np.all(calibration.is_untold(op)) else r for op, r in pairs])
    return [min((a for a in some if a), default=None) for some in zip(*answers, strict=True)]


def _beyond(layer: Calibration | Card, ops: Sequence[Operator], implementation: str) -> list[Reach]:
    """Of one calibration; None for an operator that it knows nothing of.

    What ships is asked for what stands in for an operator of torch
    (:mod:`calib.cards.tables.stand_ins`).
    """
    ships = isinstance(layer, Card) and implementation == TORCH
    own: Calibration = layer.calibration if isinstance(layer, Card) else layer
    asked = [stand_in(op).ops if ships else (op,) for op in ops]
    kinds: dict[tuple[str, str], list[Operator]] = {}
    for op in dict.fromkeys(op for some in asked for op in some):
        kinds.setdefault((kind_of(op), fitted_dtype(op)), []).append(op)
    known: dict[Operator, tuple[float, str]] = {}
    for kind, some in kinds.items():
        fits = [
            fit
            for (by, *of), fit in own.kinds.items()
            if tuple(of) == kind and (ships or by == implementation)
        ]
        answers = [_outside(fit, some, own.hardware) for fit in fits]
        if answers:
            known |= {op: min(a[i] for a in answers) for i, op in enumerate(some)}
    return [
        max(known[op] for op in some) if all(op in known for op in some) else None for some in asked
    ]


def _outside(fit: KindFit, ops: Sequence[Operator], hardware: Hardware) -> list[tuple[float, str]]:
    """[n] the largest ratio and its column; columns are logarithms, but for flags and labels."""
    x = features_of_list(ops, hardware)
    flags = {f.name for op in ops for f in fields(op) if isinstance(f.default, bool)}
    flags.update(CLASSES)
    names = [n for n in x.smooth_names if n != "hot" and n not in flags and "=" not in n]
    values = x.matrix(names)
    low, high = (np.array([ends.get(n, 0.0) for n in names]) for ends in (fit.low, fit.high))
    far = np.maximum(np.maximum(low - values, values - high), 0.0)
    ratios = np.exp(np.minimum(far.max(axis=1), _LARGEST_LOG))
    columns = [NAMES.get(names[column], names[column]) for column in far.argmax(axis=1)]
    return [(float(r), n if r > 1 else "") for r, n in zip(ratios, columns, strict=True)]


_LARGEST_LOG = 700.0
"""Of a float's range."""
NAMES = {
    **{"compute": "FLOPs", "memory": "bytes", "depth": "terms of a sum"},
    **{"active_experts": "experts touched", "uneven": "the busiest expert's rows over the mean's"},
}
"""What columns are called that are no dimension of a shape."""
