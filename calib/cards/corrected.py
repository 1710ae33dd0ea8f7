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

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.correction import Correction, columns_of, matrix
from calib.cards.tables.stand_ins import all_rows, as_many_bytes, each, is_batched
from calib.fit.calibration import (
    ROOFLINE,
    TRANSFERRED,
    Calibration,
    Estimates,
    Estimator,
    Key,
    KindFit,
    Tabled,
    Told,
    by_plain_products,
    dtype_of,
    kind_of,
    least_of,
    listed,
    parted,
)
from calib.fit.physics.widened import is_widened
from calib.hardware.attention_backend import CUDNN
from calib.hardware.convolutions import is_depthwise
from calib.hardware.datasheet import Hardware, floor
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
    the samples alone, and of the correction; ``share``: of the correction, what is carried.
    ``trusted``: near the samples all of both is carried, and the share of the fit to them."""

    own: float
    share: Any
    width: float
    trusted: bool = False


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
    samples are of another card, what carrying them adds. ``many``: dtypes of batched products that
    the base was fitted to."""

    base: Estimator
    own: Calibration
    blends: dict[tuple[str, str], Blend] = field(default_factory=dict)
    away: Callable[[Sequence[Operator] | Operator], Away] | None = None
    many: Collection[str] = ()

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
        apart = self._told_apart(ops, implementation)
        if apart is not None:
            return self._parted(ops, *apart, implementation, hot)
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
        for kernels, rows, some in by_dtype(ops, len(unknown)):
            blend = self._blend(implementation, kernels)
            if blend is not None:
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

    def _told_apart(
        self, ops: Sequence[Operator] | Operator, implementation: str
    ) -> tuple[np.ndarray, Told] | None:
        """Products that widen their weights, else batched ones on another card than the samples'
        that no table of this one has, [n], and what tells them."""
        rows = np.array([is_widened(op) for op in listed(ops)], dtype=bool)
        if rows.any():
            return rows, self._widened
        away = self.away is not None and (implementation, *_PLAIN) in self.own.kinds
        rows = np.array([is_batched(op, self.many) for op in listed(ops)], dtype=bool)
        return (rows, self._over_one) if away and rows.any() else None

    def _parted(
        self, ops: Any, rows: np.ndarray, told: Told, implementation: str, hot: Any
    ) -> Estimates:
        """``rows`` as ``told``, the others as ever."""
        if isinstance(ops, Operator):
            return told(ops, implementation, hot)
        return parted(ops, rows, told, self.estimates, implementation, hot)

    def _widened(self, ops: Any, implementation: str, hot: Any) -> Estimates:
        """Samples tell the plain products; how far those are from each other nobody corrected."""
        plain = partial(self.estimates, implementation=implementation)
        return by_plain_products(ops, self.hardware, hot, lambda op, at: plain(op, hot=at))

    def _over_one(self, ops: Any, implementation: str, hot: Any) -> Estimates:
        """Batched products: what this card takes for one product of all rows, times what the
        samples' fit says of the one over the other. How far its level is off on another card
        cancels there, the more the nearer the two are."""
        assert self.away is not None
        flags, whole = self._flags(ops, implementation, hot), each(all_rows, ops)
        level = self.estimates(whole, implementation, hot)
        pair = (each(self._sampled, some) for some in (ops, whole))
        many, one = (said(self._fits.estimates(some, implementation, flags)) for some in pair)
        over, blend = many.centre - one.centre, self._blend(implementation, _PLAIN[0] + BATCHED)
        apart = np.zeros(len(over))
        for _, rows, some in by_dtype(ops, len(over)):
            apart[rows] = self.away(some).own
        left = np.minimum(np.abs(over), 1.0) * apart
        width = (blend.quantile if blend else NORMAL) * np.hypot(many.spread, left)
        found = level.scaled(np.exp(over)).stood_in(np.zeros(len(over)), width)
        least = least_of(ops, self.hardware, flags)
        seconds, low, high = (np.maximum(s, least) for s in (found.seconds, found.low, found.high))
        bare = np.concatenate([np.atleast_1d(floor(op, self.hardware)) for op in listed(ops)])
        return Estimates(bare, seconds, low, high, found.known_as)

    def _sampled(self, op: Matmul) -> Matmul:
        """Of a dtype of whose batches there are samples."""
        fits = (fit for key, fit in self.own.kinds.items() if key[1:] == (op.operator, op.dtype))
        return op if any(fit.high["batch"] > 0 for fit in fits) else as_many_bytes(op)

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


_PLAIN = ("matmul", "bfloat16")


FLOAT32, BATCHED = " float32", " batched"


def kernels_of(op: Operator) -> str:
    """What is corrected together: a kind, but batched products apart, and float32 of what matrix
    units compute. Other kernels do it, on other units, and what stands in for it says less of it.
    A product of tf32 is the matrix units' like any; of convolutions, float32 is tf32.
    No product stands in for a convolution channel by channel."""
    if isinstance(op, Conv2d | Convolution) and np.all(is_depthwise(op)):
        return kind_of(op) + " by channel"
    single = ("float32", "tf32") if isinstance(op, Conv2d | Convolution) else ("float32",)
    is_apart = isinstance(op, TensorCoreOperator) and dtype_of(op) in single
    many = isinstance(op, Matmul) and bool(np.all(np.asarray(op.batch) > 1))
    return kind_of(op) + BATCHED * many + FLOAT32 * is_apart


def by_kernels(ops: Sequence[Operator] | Operator, count: int) -> dict[str, np.ndarray]:
    if isinstance(ops, Operator):
        return {kernels_of(ops): np.arange(count)}
    names = np.array([kernels_of(op) for op in ops], dtype=object)
    return {name: np.flatnonzero(names == name) for name in dict.fromkeys(names)}


def by_dtype(
    ops: Sequence[Operator] | Operator, count: int
) -> Iterator[tuple[str, np.ndarray, Sequence[Operator] | Operator]]:
    """The same, each dtype by itself, as corrections are carried to another card: places and
    operators."""
    for kernels, rows in by_kernels(ops, count).items():
        if isinstance(ops, Operator):
            yield kernels, rows, ops
            continue
        dtypes = np.array([dtype_of(ops[i]) for i in rows], dtype=object)
        for dtype in dict.fromkeys(dtypes):
            some = rows[dtypes == dtype]
            yield kernels, some, [ops[i] for i in some]


def blended(
    blend: Blend,
    columns: dict[str, np.ndarray],
    own: Said,
    base: Said,
    away: Away | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] log seconds, half-width and w; NaN where neither source says anything.

    ``away``: on another card than the samples'. What the shares on their own card were says nothing
    there, but near samples that are trusted: each source counts by its spread alone.
    """
    said = corrected(blend.correction, columns, base, away)
    share: float | np.ndarray | None = blend.share
    if away is not None:
        own = Said(own.centre, np.hypot(own.spread, away.own))
        nearer = (1 - said.far) if away.trusted else 0.0
        share = None if share is None else 0.5 + (share - 0.5) * nearer
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
    if away is not None and away.trusted:
        share = share + (1 - share) * (1 - far)
    spread = np.hypot(share * spread, np.hypot(far * base.spread, width))
    return Said(base.centre + share * mean, spread, far)


def weight_of(share: float | np.ndarray | None, own: Said, base: Said) -> np.ndarray:
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
