"""How samples correct what was known before: what :mod:`calib.cards.corrected` needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib.cards.corrected import (
    BATCHED,
    FLOAT32,
    NORMAL,
    Blend,
    Corrected,
    Said,
    kernels_of,
    mixed,
    mixed_spread,
    said,
    weight_of,
)
from calib.cards.correction import Correction, columns_of, fit_correction, matrix
from calib.fit.calibration import Calibration, Estimator, fitted_dtype, kind_of
from calib.fit.held_out import data_of, folds_of
from calib.fit.plan import CONFIDENCE
from calib.samples.drift import visits
from calib.samples.faults import clean
from calib.samples.sample import HOT, Sample
from model.ops import Operator

_SHARES = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98])
_PER_LOGIT = 1.0
"""Standard deviation of a share's logit about what is expected of it."""
_LEAST_APART = 20
"""Samples of float32, or of batched products, from which on they are corrected apart."""
_FEW = 200
"""Samples of which a correction is fitted anew without each fold: more of them hardly move it."""
_PSEUDO = 20
"""Scores of a normal distribution that stand beside those of the samples: a few samples cannot
tell a 90th percentile."""


def correct(base: Estimator, own: Calibration, samples: Sequence[Sample]) -> Corrected:
    """``samples``: those that ``own`` was fitted to."""
    by_kind: dict[tuple[str, str], list[Sample]] = {}
    for s in clean(samples):  # as the fit took them
        if s.status == "ok" and len(s.seconds) and s.hardware == own.hardware.name:
            by_kind.setdefault((s.implementation, kind_of(s.op)), []).append(s)
    blends: dict[tuple[str, str], Blend] = {}
    for key, some in by_kind.items():
        shapes = _shapes(key, some, own)
        for kernels, rows in _apart(shapes.ops).items():
            blend = _fit_blend(key, shapes.rows(rows), base, own)
            if blend is not None:
                blends[key[0], kernels] = blend
    return Corrected(base, own, blends)


def _apart(ops: Sequence[Operator]) -> dict[str, np.ndarray]:
    """Rows of what is corrected together, by its name; few of a suffix with the others."""
    names = np.array([kernels_of(op) for op in ops], dtype=object)
    for suffix in (FLOAT32, BATCHED):
        for name in dict.fromkeys(names):
            others = name.removesuffix(suffix)
            if name != others and others in names and (names == name).sum() < _LEAST_APART:
                names[names == name] = others
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class _Shapes:
    """The shapes of one kind, [n]; ``own``: what fits that never saw a shape's group say of it."""

    ops: list[Operator]
    hot: np.ndarray
    log_seconds: np.ndarray
    groups: np.ndarray
    own: Said

    def rows(self, keep: np.ndarray) -> _Shapes:
        ops, own = [self.ops[i] for i in keep], self.own.rows(keep)
        return _Shapes(ops, self.hot[keep], self.log_seconds[keep], self.groups[keep], own)


def _shapes(key: tuple[str, str], samples: Sequence[Sample], own: Calibration) -> _Shapes:
    parts: list[_Shapes] = []
    for dtype in dict.fromkeys(fitted_dtype(s.op) for s in samples):
        some = [s for s in samples if fitted_dtype(s.op) == dtype]
        places = visits(some)
        data = data_of(some, own.hardware, places)
        firsts = [some[rows[0]] for rows in places]
        nothing = np.full(len(firsts), np.nan)
        centre, half = own.blind.get((*key, dtype), (nothing, nothing))
        parts.append(
            _Shapes(
                [s.op for s in firsts],
                np.array([s.cache == HOT for s in firsts]),
                np.log(data.seconds),
                data.groups,
                Said(centre, half / NORMAL),
            )
        )
    return _Shapes(
        [op for p in parts for op in p.ops],
        np.concatenate([p.hot for p in parts]),
        np.concatenate([p.log_seconds for p in parts]),
        np.concatenate([p.groups for p in parts]),
        Said(
            np.concatenate([p.own.centre for p in parts]),
            np.concatenate([p.own.spread for p in parts]),
        ),
    )


def _fit_blend(
    key: tuple[str, str], shapes: _Shapes, base: Estimator, own: Calibration
) -> Blend | None:
    """None where the base knows nothing of the kind: then the own fit stands alone."""
    known = said(base.estimates(shapes.ops, key[0], shapes.hot))
    told = np.isfinite(known.centre)
    if not told.any():
        return None
    columns = columns_of(shapes.ops, own.hardware, shapes.hot)
    names = sorted(columns)
    rows, left = matrix(columns, names, len(told)), shapes.log_seconds - known.centre
    expected = float(np.median(known.spread[told]))
    correction = fit_correction(names, rows[told], left[told], expected)
    blind = _blind(correction, rows, left, known, shapes.groups, expected)
    share = _share(shapes, blind, left) if any(key == k[:2] for k in own.kinds) else None
    weight = weight_of(share, shapes.own, blind)
    error = mixed(weight, shapes.own, blind) - shapes.log_seconds
    scores = np.abs(error) / mixed_spread(weight, shapes.own, blind)
    return Blend(correction, share, quantile(scores[np.isfinite(scores)]), bool(shapes.hot.all()))


def _blind(
    correction: Correction,
    rows: np.ndarray,
    left: np.ndarray,
    known: Said,
    groups: np.ndarray,
    expected: float,
) -> Said:
    """What corrections that never saw a shape's group say of it; nothing where there is one.

    Of few samples their lengths and variances are found without the group too: those of all would
    flatter the correction, and its share with it.
    """
    mean, spread, far = (np.full(len(left), np.nan) for _ in range(3))
    told = np.isfinite(left)
    folds = folds_of(groups)
    if len(np.unique(folds)) > 1:
        for fold in np.unique(folds[folds >= 0]):
            asked, learned = np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) & told)
            if len(learned) > len(correction.points):
                learned = np.random.default_rng(0).permutation(learned)[: len(correction.points)]
            if len(learned):
                part = (
                    fit_correction(correction.names, rows[learned], left[learned], expected)
                    if len(left) <= _FEW
                    else replace(correction, points=rows[learned], residual=left[learned])
                )
                mean[asked], found, far[asked] = part.predict(rows[asked])
                spread[asked] = np.hypot(found, far[asked] * known.spread[asked])
    return Said(known.centre + mean, spread, far)


def _share(shapes: _Shapes, blind: Said, left: np.ndarray) -> float:
    """The likeliest share: held-out errors of Laplace's distribution, and what is expected of it.

    ``left`` [n]: how far off what was known is, uncorrected. What misses by much has another form
    than the samples, and the correction of a few does not mend that, though its spread says so.
    """
    both = np.isfinite(shapes.own.centre) & np.isfinite(blind.centre)
    if not both.any():
        return 0.5
    own, base, y = shapes.own.rows(both), blind.rows(both), shapes.log_seconds[both]
    missed = float(np.mean(np.square(left[both])))
    expected = missed / (missed + float(np.median(own.spread)) ** 2)
    errors = np.array([np.abs(mixed(weight_of(a, own, base), own, base) - y) for a in _SHARES])
    off = _logit(_SHARES) - _logit(np.clip(expected, _SHARES[0], _SHARES[-1]))
    costs = len(y) * np.log(errors.mean(1) + 1e-9) + np.square(off / _PER_LOGIT) / 2
    return float(_SHARES[int(np.argmin(costs))])


def _logit(share: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(share / (1 - share)))


def quantile(scores: np.ndarray) -> float:
    """Half-width over spread that holds 90%, of held-out ``scores`` and ``_PSEUDO`` normal ones."""
    from statistics import NormalDist

    levels = (np.arange(_PSEUDO) + 0.5) / _PSEUDO
    normal = [NormalDist().inv_cdf(0.5 + level / 2) for level in levels]
    every = np.sort(np.concatenate([scores, normal]))
    rank = min(int(np.ceil((len(every) + 1) * CONFIDENCE)), len(every))
    return float(every[rank - 1])
