"""Samples over what was known before: they correct it, and do not replace it.

Two say what an operator takes. One is what was known before (``base``: a card's shipped figures, or
another implementation's) with the samples' correction (:mod:`calib.cards.correction`). The other is
a fit to the samples alone (:mod:`calib.fit.kind`). In log seconds, with s the spread that each
states at that shape,

    log t = w * own + (1 - w) * corrected     w = o / (1 + o)     o = a / (1 - a) (s_base / s_own)^2

a is the share that predicts held-out groups best, leaning to the own fit where what was known was
far off. Odds for the own fit fade to even ones away from the samples, which cannot speak for it
there, and its spread grows, so that what was known takes over; the spread of the corrected estimate
grows there to that of the base. Their sum, scaled on held-out groups, is the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.correction import Correction, columns_of, matrix
from calib.fit.calibration import (
    ROOFLINE,
    TRANSFERRED,
    Calibration,
    Estimates,
    Estimator,
    Key,
    KindFit,
    Tabled,
    by_plain_products,
    dtype_of,
    kind_of,
    least_of,
)
from calib.fit.physics.widened import is_widened
from calib.hardware.attention_backend import CUDNN
from calib.hardware.convolutions import is_depthwise
from calib.hardware.datasheet import Hardware
from model.ops import Conv2d, Convolution, Matmul, Operator, TensorCoreOperator, is_grid

if TYPE_CHECKING:
    import pandas as pd


NORMAL = 1.645
"""Half-width of a 90% interval over the deviation of a normal distribution."""
_FADING = 8
"""Power of the share of variance left, by which odds fade: of half of it nothing is lost."""


@dataclass(frozen=True)
class Blend:
    """How one implementation's kernels of a kind (:func:`kernels_of`) are told.

    ``share``: a of the formula; None: no own fit. ``quantile``: half-width over the spread;
    ``hot``: samples were taken hot only.
    """

    correction: Correction | None
    share: float | None
    quantile: float
    hot: bool


@dataclass(frozen=True)
class Said:
    """[n] log seconds and their spread, by one source; NaN where it knows nothing.

    ``far``: the share of a correction's variance that samples leave, 0 beside them, 1 far from all.
    """

    centre: np.ndarray
    spread: np.ndarray
    far: np.ndarray | float = 0.0

    def rows(self, keep: np.ndarray) -> Said:
        far = self.far[keep] if isinstance(self.far, np.ndarray) else self.far
        return Said(self.centre[keep], self.spread[keep], far)


def said(found: Estimates) -> Said:
    known = (found.known_as != ROOFLINE) & (found.low > 0) & np.isfinite(found.high)
    low, seconds, high = (
        np.log(np.where(known, end, np.nan)) for end in (found.low, found.seconds, found.high)
    )
    return Said(seconds, (high - low) / 2 / NORMAL)


@dataclass(frozen=True)
class Away:
    """What carrying samples to another card costs. ``own``, ``width``: added spread of the fit to
    the samples alone, and of the correction; ``share``: of the correction, what is carried."""

    own: float
    share: float
    width: float


@dataclass(frozen=True)
class Carried:
    """How much of a ratio between two implementations' times, in log, another card's ratio tells:
    its ``share``, and the half-width within which 90% lie about that."""

    share: float
    width: float


@dataclass(frozen=True)
class Taught:
    """What torch's samples of one card tell beyond that card's tables.

    ``kinds``: fits to them alone, in clock cycles; ``blends``: how far they lie from what the
    tables say. ``carried``: (card, kind of the tables) -> how another engine's ratios to this one
    on this card tell those on that one; the card is empty where it is told of all. ``elsewhere``:
    in place of ``kinds`` on cards of another compute capability, of which the kernels that the
    physics of some kinds describe are not. ``attention``: the families of kernels that its samples
    of attention are of, which tell of no other.
    """

    hardware: str
    kinds: dict[Key, KindFit]
    blends: dict[tuple[str, str], Blend]
    carried: dict[tuple[str, str], Carried]
    elsewhere: dict[Key, KindFit] = field(default_factory=dict)
    attention: tuple[str, ...] = (CUDNN.name,)


@dataclass(frozen=True)
class Corrected(Tabled):
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

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """As ``Calibration.estimate``; what samples know nothing of is as the base says."""
        if isinstance(ops, Operator) and not is_grid(ops):
            ops = [ops]
        if self._has_widened(ops):
            return self._split(ops, implementation, hot)
        flags = self._flags(ops, implementation, hot)
        told = self._fits.estimates(ops, implementation, flags)
        base = self.base.estimates(ops, implementation, flags)
        own, known = said(told), said(base)
        unknown = told.known_as == ROOFLINE
        known_as = np.where(unknown | (self.away is None), told.known_as, TRANSFERRED)
        pairs = zip(
            vars(replace(told, known_as=known_as)).values(), vars(base).values(), strict=True
        )
        found = Estimates(*(np.where(unknown, theirs, mine) for mine, theirs in pairs))
        for kernels, rows in by_kernels(ops, len(unknown)).items():
            blend = self._blend(implementation, kernels)
            if blend is not None:
                some = ops if isinstance(ops, Operator) else [ops[i] for i in rows]
                columns = columns_of(some, self.own.hardware, flags[rows])
                away = self.away(some) if self.away else None
                mix = blended(blend, columns, own.rows(rows), known.rows(rows), away)
                _put(found, base, rows, *mix)
        least = least_of(ops, self.hardware, flags)
        seconds, low, high = (np.maximum(s, least) for s in (found.seconds, found.low, found.high))
        # A card may clock above its rating: its floor does not.
        found = Estimates(base.floor, seconds, low, high, found.known_as)
        if not isinstance(ops, Operator):
            given = flags if hot is not None else [None] * len(ops)
            self.own.put_measured(found, ops, implementation, list(given))
        return found

    def _has_widened(self, ops: Sequence[Operator] | Operator) -> bool:
        return any(is_widened(op) for op in ([ops] if isinstance(ops, Operator) else ops))

    def _split(
        self, ops: Sequence[Operator] | Operator, implementation: str, hot: Any
    ) -> Estimates:
        """Where some products widen their weights: samples tell those of the plain ones, and how
        far they are from each other nobody corrected."""

        def plain(op: Operator, flags: Any) -> Estimates:
            return self.estimates(op, implementation, flags)

        if isinstance(ops, Operator):
            return by_plain_products(ops, self.hardware, hot, plain)
        found, flags = Estimates.nothing_of(len(ops)), np.broadcast_to(np.asarray(hot), len(ops))
        widened = np.array([is_widened(op) for op in ops])
        for rows, is_one in ((np.flatnonzero(widened), True), (np.flatnonzero(~widened), False)):
            if not len(rows):
                continue
            some, known = [ops[int(i)] for i in rows], None if hot is None else flags[rows]
            found.put(
                rows,
                by_plain_products(some, self.hardware, known, plain)
                if is_one
                else self.estimates(some, implementation, known),
            )
        return found

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

    def _blend(self, implementation: str, kernels: str) -> Blend | None:
        """What has none of its own takes that of more."""
        whole = kernels.removesuffix(FLOAT32)
        names = ((implementation, n) for n in (kernels, whole, whole.removesuffix(BATCHED)))
        return next((self.blends[name] for name in names if name in self.blends), None)

    def _hot(self, implementation: str, kind: str) -> bool:
        blend = self.blends.get((implementation, kind))
        if blend is not None:
            return blend.hot
        own = [f for key, f in self.own.kinds.items() if key[:2] == (implementation, kind)]
        return all(fitted.low["hot"] == 1.0 for fitted in own)


def _put(
    found: Estimates,
    base: Estimates,
    rows: np.ndarray,
    centre: np.ndarray,
    half: np.ndarray,
    weight: np.ndarray,
) -> None:
    """An estimate is known as the source is that it takes more of."""
    some = np.isfinite(centre)
    leans, where = rows[some & (weight < 0.5)], rows[some]
    found.known_as[leans] = base.known_as[leans]
    centre, half = centre[some], half[some]
    found.seconds[where] = np.exp(centre)
    found.low[where], found.high[where] = np.exp(centre - half), np.exp(centre + half)


FLOAT32, BATCHED = " float32", " batched"


def kernels_of(op: Operator) -> str:
    """What is corrected together: a kind, but batched products apart, and float32 of what matrix
    units compute. Other kernels do it, on other units, and what stands in for it says less of it.
    No product stands in for a convolution channel by channel."""
    if isinstance(op, Conv2d | Convolution) and np.all(is_depthwise(op)):
        return kind_of(op) + " by channel"
    is_apart = isinstance(op, TensorCoreOperator) and dtype_of(op) in ("float32", "tf32")
    many = isinstance(op, Matmul) and bool(np.all(np.asarray(op.batch) > 1))
    return kind_of(op) + BATCHED * many + FLOAT32 * is_apart


def by_kernels(ops: Sequence[Operator] | Operator, count: int) -> dict[str, np.ndarray]:
    if isinstance(ops, Operator):
        return {kernels_of(ops): np.arange(count)}
    names = np.array([kernels_of(op) for op in ops], dtype=object)
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


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
    return mixed(weight, own, said), blend.quantile * mixed_spread(weight, own, said), weight


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
    return Said(base.centre + share * mean, spread, far)


def weight_of(share: float | None, own: Said, base: Said) -> np.ndarray:
    """[n] w of the formula."""
    if share is None:
        return np.where(np.isfinite(base.centre), 0.0, 1.0)
    odds = share / (1 - share) * (base.spread / np.maximum(own.spread, 1e-6)) ** 2
    odds = np.where(odds > 1, odds ** (1 - np.power(base.far, _FADING)), odds)
    weight = odds / (1 + odds)
    weight = np.where(np.isfinite(own.centre), weight, 0.0)
    return np.where(np.isfinite(base.centre), weight, 1.0)


def mixed(weight: np.ndarray, own: Said, base: Said) -> np.ndarray:
    return np.asarray(
        np.where(weight > 0, weight * own.centre, 0.0)
        + np.where(weight < 1, (1 - weight) * base.centre, 0.0)
    )


def mixed_spread(weight: np.ndarray, own: Said, base: Said) -> np.ndarray:
    """The sum, as if both missed in the same way: they saw the same samples."""
    return mixed(weight, Said(own.spread, own.spread), Said(base.spread, base.spread))
