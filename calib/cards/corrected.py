"""Samples over what was known before: they correct it, and do not replace it.

Two say what an operator takes. One is what was known before (``base``: a card's shipped figures, or
another implementation's) with the samples' correction (:mod:`calib.cards.correction`). The other is
a fit to the samples alone (:mod:`calib.fit.kind`). In log seconds, with s the spread that each
states at that shape,

    log t = w * own + (1 - w) * corrected     w = a / s_own^2 / (a / s_own^2 + (1 - a) / s_base^2)

a is the share that predicts held-out groups best, started from one half. Far from the samples the
own fit's spread grows, so that what was known takes over; the spread of the corrected estimate
grows there to that of the base. Their sum, scaled on held-out groups, is the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.correction import Correction, columns_of, fit_correction, matrix
from calib.fit.calibration import ROOFLINE, TRANSFERRED, Calibration, dtype_of, kind_of
from calib.fit.held_out import data_of, folds_of
from calib.fit.plan import CONFIDENCE
from calib.hardware.datasheet import Hardware
from calib.samples.drift import visits
from calib.samples.sample import HOT, Sample
from model.ops import Operator, is_grid

if TYPE_CHECKING:
    import pandas as pd

    from calib.estimates.tables import Estimator

NORMAL = 1.645
"""Half-width of a 90% interval over the deviation of a normal distribution."""
_SHARES = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98])
_PULL = 1.0
"""To go from one share to all or nothing costs as much as so many typical held-out errors."""
_PSEUDO = 20
"""Scores of a normal distribution that stand beside those of the samples: a few samples cannot
tell a 90th percentile."""


@dataclass(frozen=True)
class Blend:
    """How one (implementation, kind) is told. ``share``: a of the formula; None: no own fit.

    ``quantile``: half-width over the spread; ``hot``: samples were taken hot only.
    """

    correction: Correction | None
    share: float | None
    quantile: float
    hot: bool


@dataclass(frozen=True)
class Said:
    """[n] log seconds and their spread, by one source; NaN where it knows nothing."""

    centre: np.ndarray
    spread: np.ndarray

    def rows(self, keep: np.ndarray) -> Said:
        return Said(self.centre[keep], self.spread[keep])

    @classmethod
    def of(cls, table: pd.DataFrame) -> Said:
        known = (table["provenance"] != ROOFLINE).to_numpy() & (table["low_s"] > 0).to_numpy()
        low, seconds, high = (table[n].to_numpy(float) for n in ("low_s", "estimate_s", "high_s"))
        known = known & np.isfinite(high)
        low, seconds, high = (np.where(known, v, np.nan) for v in (low, seconds, high))
        return cls(np.log(seconds), np.log(high / low) / 2 / NORMAL)


@dataclass(frozen=True)
class Away:
    """What carrying samples to another card costs. ``own``, ``width``: added spread of the fit to
    the samples alone, and of the correction; ``share``: of the correction, what is carried."""

    own: float
    share: float
    width: float


@dataclass(frozen=True)
class Corrected:
    """``own``: the fit to samples alone, with the shapes that were measured. ``away``: where the
    samples are of another card, what carrying them adds."""

    base: Estimator
    own: Calibration
    blends: dict[tuple[str, str], Blend] = field(default_factory=dict)
    away: Callable[[Sequence[Operator] | Operator], Away] | None = None

    @property
    def hardware(self) -> Hardware:
        return self.base.hardware

    @property
    def held_out(self) -> pd.DataFrame:
        import pandas as pd

        tables = [self.own.held_out, self.base.held_out]
        return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)

    @cached_property
    def _fits(self) -> Calibration:
        return replace(self.own, measured={})

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> pd.DataFrame:
        """As ``Calibration.estimate``; what samples know nothing of is as the base says."""
        if isinstance(ops, Operator) and not is_grid(ops):
            ops = [ops]
        flags = self._flags(ops, implementation, hot)
        table = self._fits.estimate(ops, implementation, flags)
        base = self.base.estimate(ops, implementation, flags)
        table["floor_s"] = base["floor_s"]  # a card may clock above its rating: its floor does not
        own, known = Said.of(table), Said.of(base)
        unknown = (table["provenance"] == ROOFLINE).to_numpy()
        if self.away:
            table.loc[~unknown, "provenance"] = TRANSFERRED
        table.loc[unknown] = base[unknown]
        for kind, rows in _by_kind(ops, len(table)).items():
            blend = self.blends.get((implementation, kind))
            if blend is not None:
                some = ops if isinstance(ops, Operator) else [ops[i] for i in rows]
                columns = columns_of(some, self.own.hardware, flags[rows])
                away = self.away(some) if self.away else None
                found = blended(blend, columns, own.rows(rows), known.rows(rows), away)
                self._put(table, base, rows, *found)
        if isinstance(ops, Operator):
            return table
        given = flags if hot is not None else [None] * len(ops)
        return self.own.with_measured(table, ops, implementation, list(given))

    def _put(
        self,
        table: pd.DataFrame,
        base: pd.DataFrame,
        rows: np.ndarray,
        centre: np.ndarray,
        half: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        """An estimate is known as the source is that it takes more of."""
        found = np.isfinite(centre)
        leans = table.index[rows[found & (weight < 0.5)]]
        table.loc[leans, "provenance"] = base.loc[leans, "provenance"]
        where = table.index[rows[found]]
        centre, half = centre[found], half[found]
        table.loc[where, "estimate_s"] = np.exp(centre)
        table.loc[where, "low_s"] = np.exp(centre - half)
        table.loc[where, "high_s"] = np.exp(centre + half)
        table.loc[where, "efficiency"] = table.loc[where, "floor_s"] / np.exp(centre)

    def _flags(self, ops: Sequence[Operator] | Operator, implementation: str, hot: Any) -> Any:
        """[n] bool: not said means as the samples were, and where there are none, hot."""
        if isinstance(ops, Operator):
            n = len(np.atleast_1d(np.asarray(ops.bytes + 0 * ops.min_flops)))
            kinds = [kind_of(ops)] * n if hot is None else []
        else:
            n, kinds = len(ops), [kind_of(op) for op in ops]
        if hot is not None:
            return np.broadcast_to(np.asarray(hot, dtype=bool), n)
        known = {kind: self._hot(implementation, kind) for kind in dict.fromkeys(kinds)}
        return np.array([known[kind] for kind in kinds], dtype=bool)

    def _hot(self, implementation: str, kind: str) -> bool:
        blend = self.blends.get((implementation, kind))
        if blend is not None:
            return blend.hot
        own = [f for key, f in self.own.kinds.items() if key[:2] == (implementation, kind)]
        return all(fitted.low["hot"] == 1.0 for fitted in own)


def _by_kind(ops: Sequence[Operator] | Operator, count: int) -> dict[str, np.ndarray]:
    if isinstance(ops, Operator):
        return {kind_of(ops): np.arange(count)}
    kinds = np.array([kind_of(op) for op in ops], dtype=object)
    return {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds)}


def blended(
    blend: Blend,
    columns: dict[str, np.ndarray],
    own: Said,
    base: Said,
    away: Away | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] log seconds, half-width and w; NaN where neither source says anything.

    ``away``: on another card than the samples'. What the shares on their own card were says nothing
    there: each source counts by its spread alone.
    """
    said, share = corrected(blend.correction, columns, base, away), blend.share
    if away is not None:
        own = Said(own.centre, np.hypot(own.spread, away.own))
        share = None if share is None else 0.5
    weight = weight_of(share, own, said)
    return _mixed(weight, own, said), blend.quantile * _mixed_spread(weight, own, said), weight


def corrected(
    correction: Correction | None,
    columns: dict[str, np.ndarray],
    base: Said,
    away: Away | None = None,
) -> Said:
    """What was known, with the samples' correction: its spread is the base's far from them."""
    if correction is None:
        return base
    rows = matrix(columns, correction.names, len(base.centre))
    mean, spread, far = correction.predict(rows)
    share, width = (away.share, away.width) if away else (1.0, 0.0)
    spread = np.hypot(share * spread, np.hypot(far * base.spread, width))
    return Said(base.centre + share * mean, spread)


def weight_of(share: float | None, own: Said, base: Said) -> np.ndarray:
    """[n] w of the formula."""
    if share is None:
        return np.where(np.isfinite(base.centre), 0.0, 1.0)
    odds = share / (1 - share) * (base.spread / np.maximum(own.spread, 1e-6)) ** 2
    weight = odds / (1 + odds)
    weight = np.where(np.isfinite(own.centre), weight, 0.0)
    return np.where(np.isfinite(base.centre), weight, 1.0)


def _mixed(weight: np.ndarray, own: Said, base: Said) -> np.ndarray:
    return np.asarray(
        np.where(weight > 0, weight * own.centre, 0.0)
        + np.where(weight < 1, (1 - weight) * base.centre, 0.0)
    )


def _mixed_spread(weight: np.ndarray, own: Said, base: Said) -> np.ndarray:
    """The sum, as if both missed in the same way: they saw the same samples."""
    return _mixed(weight, Said(own.spread, own.spread), Said(base.spread, base.spread))


def correct(base: Estimator, own: Calibration, samples: Sequence[Sample]) -> Corrected:
    """``samples``: those that ``own`` was fitted to."""
    by_kind: dict[tuple[str, str], list[Sample]] = {}
    for s in samples:
        if s.status == "ok" and len(s.seconds) and s.hardware == own.hardware.name:
            by_kind.setdefault((s.implementation, kind_of(s.op)), []).append(s)
    blends = {key: _fit_blend(key, some, base, own) for key, some in by_kind.items()}
    return Corrected(base, own, {key: b for key, b in blends.items() if b is not None})


@dataclass(frozen=True)
class _Shapes:
    """The shapes of one kind, [n]; ``own``: what fits that never saw a shape's group say of it."""

    ops: list[Operator]
    hot: np.ndarray
    log_seconds: np.ndarray
    groups: np.ndarray
    own: Said


def _shapes(key: tuple[str, str], samples: Sequence[Sample], own: Calibration) -> _Shapes:
    parts: list[_Shapes] = []
    for dtype in dict.fromkeys(dtype_of(s.op) for s in samples):
        some = [s for s in samples if dtype_of(s.op) == dtype]
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
    key: tuple[str, str], samples: Sequence[Sample], base: Estimator, own: Calibration
) -> Blend | None:
    """None where the base knows nothing of the kind: then the own fit stands alone."""
    shapes = _shapes(key, samples, own)
    known = Said.of(base.estimate(shapes.ops, key[0], shapes.hot))
    told = np.isfinite(known.centre)
    if not told.any():
        return None
    columns = columns_of(shapes.ops, own.hardware, shapes.hot)
    names = sorted(columns)
    rows, left = matrix(columns, names, len(told)), shapes.log_seconds - known.centre
    expected = float(np.median(known.spread[told]))
    correction = fit_correction(names, rows[told], left[told], expected)
    blind = _blind(correction, rows, left, known, shapes.groups)
    share = _share(shapes, blind) if any(key == k[:2] for k in own.kinds) else None
    weight = weight_of(share, shapes.own, blind)
    error = _mixed(weight, shapes.own, blind) - shapes.log_seconds
    scores = np.abs(error) / _mixed_spread(weight, shapes.own, blind)
    return Blend(correction, share, quantile(scores[np.isfinite(scores)]), bool(shapes.hot.all()))


def _blind(
    correction: Correction,
    rows: np.ndarray,
    left: np.ndarray,
    known: Said,
    groups: np.ndarray,
) -> Said:
    """What corrections that never saw a shape's group say of it; nothing where there is one."""
    mean, spread = np.full(len(left), np.nan), np.full(len(left), np.nan)
    told = np.isfinite(left)
    folds = folds_of(groups)
    if len(np.unique(folds)) > 1:
        for fold in np.unique(folds[folds >= 0]):
            asked, learned = np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) & told)
            if len(learned) > len(correction.points):
                learned = np.random.default_rng(0).permutation(learned)[: len(correction.points)]
            if len(learned):
                part = replace(correction, points=rows[learned], residual=left[learned])
                mean[asked], found, far = part.predict(rows[asked])
                spread[asked] = np.hypot(found, far * known.spread[asked])
    return Said(known.centre + mean, spread)


def _share(shapes: _Shapes, blind: Said) -> float:
    """The share with the least held-out mean absolute error, pulled to one half."""
    both = np.isfinite(shapes.own.centre) & np.isfinite(blind.centre)
    if not both.any():
        return 0.5
    own, base, y = shapes.own.rows(both), blind.rows(both), shapes.log_seconds[both]
    errors = np.array([np.abs(_mixed(weight_of(a, own, base), own, base) - y) for a in _SHARES])
    costs = errors.sum(1) + _PULL * errors.mean() * 2 * np.abs(_SHARES - 0.5)
    return float(_SHARES[int(np.argmin(costs))])


def quantile(scores: np.ndarray) -> float:
    """Half-width over spread that holds 90%, of held-out ``scores`` and ``_PSEUDO`` normal ones."""
    from statistics import NormalDist

    levels = (np.arange(_PSEUDO) + 0.5) / _PSEUDO
    normal = [NormalDist().inv_cdf(0.5 + level / 2) for level in levels]
    every = np.sort(np.concatenate([scores, normal]))
    rank = min(int(np.ceil((len(every) + 1) * CONFIDENCE)), len(every))
    return float(every[rank - 1])
