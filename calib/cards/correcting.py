"""How samples correct what was known before: what :mod:`calib.cards.corrected` needs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib.cards.corrected import (
    BATCHED,
    FLOAT32,
    NORMAL,
    Blend,
    Corrected,
    Said,
    by_kernels,
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

_LOGITS = np.arange(-18, 19) / 3
"""Of the shares that are tried."""
_PER_LOGIT = 0.7
"""Standard deviation of a share's logit about what is expected of it."""
_POWER = 3.5
"""Of the ratio of two sources' errors: their best odds, near even ones, where their errors
correlate by 0.4. Those of ten kinds did by 0.2 to 0.6."""
_ERRS = 0.09
"""Mean log error that a fit to few samples is expected to have before any is held against it."""
_AS_MANY = 25
"""Held-out errors that count for as much as what was expected of a source before them."""
_FOLDED = 5
"""Groups from which on there is a fold for each. Of fewer, a fit that held one out saw three or
less: then what the own fit states of itself is all that is known of its error."""
_LEAST = 1e-3
"""Log error that no clock tells from none."""
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
        apart = _apart(shapes.ops)
        for kernels, rows in apart.items():
            for name, blend in _fit_blends(key, kernels, shapes.rows(rows), base, own):
                if name == kernels or name not in apart:
                    blends[key[0], name] = blend
    return Corrected(base, own, blends)


def _apart(ops: Sequence[Operator]) -> dict[str, np.ndarray]:
    """Rows of what is corrected together, by its name; few of a suffix with the others, which do
    without them where they are many."""
    names = np.array([kernels_of(op) for op in ops], dtype=object)
    beside: dict[str, np.ndarray] = {}
    for suffix in (FLOAT32, BATCHED):
        for name in dict.fromkeys(names):
            others = name.removesuffix(suffix)
            few, many = names == name, names == others
            if name == others or not many.any() or few.sum() >= _LEAST_APART:
                continue
            if many.sum() >= _LEAST_APART:
                beside[name] = np.flatnonzero(few | many)
                names[few] = ""
            else:
                names[few] = others
    found = {name: np.flatnonzero(names == name) for name in dict.fromkeys(names) if name}
    return found | beside


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


def _fit_blends(
    key: tuple[str, str], kernels: str, shapes: _Shapes, base: Estimator, own: Calibration
) -> Iterator[tuple[str, Blend]]:
    """Of what is corrected together. How far either source is trusted is told by each kernel's own
    samples, be they few: of some the own fit knows less than of others, and so does the base.

    Nothing where the base knows nothing of the kind: then the own fit stands alone.
    """
    known = said(base.estimates(shapes.ops, key[0], shapes.hot))
    told = np.isfinite(known.centre)
    if not told.any():
        return
    columns = columns_of(shapes.ops, own.hardware, shapes.hot)
    names = sorted(columns)
    rows, left = matrix(columns, names, len(told)), shapes.log_seconds - known.centre
    expected = float(np.median(known.spread[told]))
    correction = fit_correction(names, rows[told], left[told], expected)
    blind = _blind(correction, rows, left, known, shapes.groups, expected)
    has_own = any(key == k[:2] for k in own.kinds)
    for name, some in by_kernels(shapes.ops, len(told)).items():
        part, unseen = shapes.rows(some), blind.rows(some)
        if name != kernels and not np.isfinite(part.own.centre).any():
            continue  # as the others
        share = _share(part, unseen, known.rows(some)) if has_own else None
        weight = weight_of(share, part.own, unseen)
        error = mixed(weight, part.own, unseen) - part.log_seconds
        scores = np.abs(error) / mixed_spread(weight, part.own, unseen)
        scored = scores[np.isfinite(scores)]
        yield name, Blend(correction, share, quantile(scored), bool(part.hot.all()))


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


def _share(shapes: _Shapes, blind: Said, known: Said) -> float:
    """The likeliest share, by held-out errors of Laplace's distribution and what is expected.

    Expected where both sources state their usual spread are odds by their errors, not by how sure
    either sounds. A correction is expected to err as what was known does beside an offset: that has
    another form than the samples, and the correction of a few does not mend it.
    """
    own, y = shapes.own, shapes.log_seconds
    told = np.isfinite(own.centre) & np.isfinite(known.centre)
    if not told.any():
        return 0.5
    both = told & np.isfinite(blind.centre)
    missed, stated = known.centre[told] - y[told], np.median(own.spread[told])
    if len(set(shapes.groups[told])) < _FOLDED:
        expected = 2 * np.log(np.sqrt(np.square(missed).mean() + _LEAST**2) / stated)
    else:
        before = float(np.abs(_beside_an_offset(missed, shapes.groups[told])).mean())
        base_errs = _log_error(blind.centre[both] - y[both], before)
        spreads = blind.spread[both] if both.any() else known.spread[told]
        own_errs = _log_error(own.centre[told] - y[told], _ERRS)
        expected = _POWER * (base_errs - own_errs) - 2 * np.log(np.median(spreads) / stated)
    off = _LOGITS - np.clip(expected, _LOGITS[0], _LOGITS[-1])
    costs, shares = np.square(off / _PER_LOGIT) / 2, 1 / (1 + np.exp(-_LOGITS))
    if both.any():
        own, base, y = own.rows(both), blind.rows(both), y[both]
        errors = [np.abs(mixed(weight_of(a, own, base), own, base) - y).mean() for a in shares]
        costs = costs + len(y) * np.log(np.array(errors) + 1e-9)
    return float(shares[int(np.argmin(costs))])


def _log_error(held_out: np.ndarray, before: float) -> float:
    """Logarithm of the mean error expected of a source: of its [n] held-out errors, which are few,
    and of ``before``, what is expected without them."""
    count = len(held_out)
    mean = float(np.abs(held_out).mean()) if count else 0.0
    log_errors = count * np.log(mean + _LEAST) + _AS_MANY * np.log(before + _LEAST)
    return float(log_errors / (count + _AS_MANY))


def _beside_an_offset(error: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """[n] ``error`` less its mean over the other folds of groups."""
    folds = folds_of(groups)
    left = error.copy()
    for fold in np.unique(folds):
        others = error[folds != fold]
        left[folds == fold] -= others.mean() if len(others) else 0.0
    return left


def quantile(scores: np.ndarray) -> float:
    """Half-width over spread that holds 90%, of held-out ``scores`` and ``_PSEUDO`` normal ones."""
    from statistics import NormalDist

    levels = (np.arange(_PSEUDO) + 0.5) / _PSEUDO
    normal = [NormalDist().inv_cdf(0.5 + level / 2) for level in levels]
    every = np.sort(np.concatenate([scores, normal]))
    rank = min(int(np.ceil((len(every) + 1) * CONFIDENCE)), len(every))
    return float(every[rank - 1])
