"""A calibration: what is known of a device's operators, asked for seconds of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from calib.errors import CalibError, wrong
from calib.fit.kind import KindFit
from calib.fit.physics.features import (
    TOGETHER,
    Features,
    features,
    features_of_list,
    stack,
    warn_of_unread,
    whole,
)
from calib.fit.physics.widened import is_widened, plain_products, width
from calib.hardware.datasheet import Hardware, floor, least_arithmetic, least_seconds
from calib.hardware.links import by_link
from model.ops import Collective, Conv2d, Convolution, Counted, Operator, Other, is_grid

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"

TRANSFERRED, ROOFLINE = "transferred", "roofline"

WEAKEST_FIRST = (ROOFLINE, TRANSFERRED, EXTRAPOLATED, INTERPOLATED, MEASURED)

Key = tuple[str, str, str]
"""(implementation, kind, dtype)"""


def wider(seconds: Any, low: Any, high: Any, width: Any) -> tuple[Any, Any]:
    """The ends of an interval with a half-width in log, independent of its own, added to either."""
    below, above = (np.exp(np.hypot(np.log(end), width)) for end in (seconds / low, high / seconds))
    return seconds / below, seconds * above


@dataclass(frozen=True)
class Estimates:
    """[n] what is known of operators, in order; the ends are those of a 90% interval, NaN where
    nothing is known. ``known_as``: the provenance."""

    floor: np.ndarray
    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    known_as: np.ndarray

    @classmethod
    def nothing_of(cls, count: int) -> Estimates:
        """To be written to, row by row."""
        floor, seconds, low, high = np.full((4, count), np.nan)
        return cls(floor, seconds, low, high, np.full(count, ROOFLINE, dtype=object))

    def put(self, rows: np.ndarray, other: Estimates) -> None:
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine[rows] = theirs

    def rows(self, keep: np.ndarray) -> Estimates:
        return Estimates(*(column[keep] for column in vars(self).values()))

    def scaled(self, factor: Any) -> Estimates:
        """Times ``factor`` [n]."""
        low, high = self.low * factor, self.high * factor
        return Estimates(self.floor, self.seconds * factor, low, high, self.known_as)

    def stood_in(self, floor: np.ndarray, width: Any) -> Estimates:
        """Of other operators, with floors ``floor``, that these stand in for; nothing is said where
        nothing is known. ``width``: half-width that standing in adds, in log."""
        known = self.known_as != ROOFLINE
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = wider(self.seconds, self.low, self.high, width)
        return Estimates(
            np.broadcast_to(floor, len(known)),
            np.where(known, np.maximum(self.seconds, floor), floor),
            np.where(known, low, floor),
            np.where(known, high, np.nan),
            np.where(known, TRANSFERRED, ROOFLINE).astype(object),
        )

    @property
    def efficiency(self) -> np.ndarray:
        """[n] floor over seconds; NaN of a bare roofline, which says nothing of it."""
        bare = (self.known_as == ROOFLINE) & ~np.isfinite(self.high)
        return self.floor / np.where(bare | ~(self.seconds > 0), np.nan, self.seconds)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "floor_s": self.floor,
                "estimate_s": self.seconds,
                "low_s": self.low,
                "high_s": self.high,
                "efficiency": self.efficiency,
                "provenance": self.known_as,
            }
        )


class Estimator(Protocol):
    """What a table needs of a calibration, be it fitted here, shipped, or in layers."""

    @property
    def hardware(self) -> Hardware: ...

    @property
    def held_out(self) -> pd.DataFrame: ...

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = ...,
        hot: Sequence[bool] | np.ndarray | bool | None = ...,
    ) -> pd.DataFrame: ...

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = ...,
        hot: Sequence[bool] | np.ndarray | bool | None = ...,
    ) -> Estimates:
        """The columns of ``estimate``, without the cost of a data frame."""


def operators(given: Any) -> Sequence[Operator] | Operator:
    """An operator or a grid, or a list of whatever iterable. Raises ``CalibError`` for others."""
    if isinstance(given, Operator):
        return given
    ops = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    strange = [op for op in ops if not isinstance(op, Operator)]
    if strange:
        raise CalibError(wrong("ops", strange[0], "operators of model.ops, or a grid of them"))
    return ops


class Tabled:
    """What has ``estimates`` as an :class:`Estimator` has them, with a data frame of them."""

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """The columns of ``estimate``."""
        raise NotImplementedError

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> pd.DataFrame:
        """Seconds of each operator of a list, or of each point of a grid, in order.

        ``hot``: whether inputs are found in cache; None means as the samples of the kind were
        (cold, where both were taken). Columns: floor_s, estimate_s, low_s, high_s (a 90% interval),
        efficiency (floor over estimate), provenance. Of a bare roofline low_s is the floor, which
        no kernel undercuts, and high_s and efficiency are null.

        Raises ``HardwareError`` for a dtype that the device has no peak for, and ``CalibError`` for
        what is no operator.
        """
        ops = operators(ops)
        if not isinstance(ops, Operator) and np.size(np.asarray(hot)) not in (1, len(ops)):
            raise CalibError(wrong("hot", hot, f"a flag, or one for each of {len(ops)}"))
        warn_of_unread(ops)
        return self.estimates(ops, implementation, hot).table()


class Over(Tabled):
    """Says something else of some operators than ``whole``, which it stands before."""

    whole: Estimator

    @property
    def hardware(self) -> Hardware:
        return self.whole.hardware

    @property
    def held_out(self) -> pd.DataFrame:
        return self.whole.held_out


@dataclass(frozen=True)
class Calibration(Tabled):
    """What ``fit`` returns. ``held_out``: one row a fit, its error on groups it never saw.

    ``blind``: of each fit with samples of the device, by shape in order of their first samples,
    log seconds and half-width by fits that never saw the shape's group; NaN of what never was
    held out.
    """

    hardware: Hardware
    kinds: dict[Key, KindFit]
    held_out: pd.DataFrame
    measured: dict[tuple[str, Operator, str], tuple[float, float, float]] = field(
        default_factory=dict
    )
    blind: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """The columns of ``estimate``."""
        if isinstance(ops, Operator) and is_grid(ops):
            return self._alike(ops, implementation, hot)
        ops = [ops] if isinstance(ops, Operator) else list(ops)
        flags: list[Any] = list(np.broadcast_to(np.asarray(hot, dtype=object), len(ops)))
        rows: dict[tuple[str, str, bool], list[int]] = {}
        for i, op in enumerate(ops):
            rows.setdefault((kind_of(op), fitted_dtype(op), flags[i] is None), []).append(i)
        found = Estimates.nothing_of(len(ops))
        for (_, _, unset), some in rows.items():
            known = None if unset else np.array([bool(flags[i]) for i in some])
            part = self._alike([ops[i] for i in some], implementation, known)
            found.put(np.array(some), part)
        self.put_measured(found, ops, implementation, flags)
        return found

    def _alike(
        self, ops: Sequence[Operator] | Operator, implementation: str, hot: Any
    ) -> Estimates:
        """Estimates of operators of one kind and dtype."""
        first = ops if isinstance(ops, Operator) else ops[0]
        fitted = self.kinds.get((implementation, kind_of(first), fitted_dtype(first)))
        if fitted is None and is_widened(first):
            return by_plain_products(
                ops, self.hardware, hot, lambda op, flags: self._alike(op, implementation, flags)
            )
        if hot is None:
            hot = fitted is not None and fitted.low["hot"] == 1.0
        if isinstance(ops, Operator):
            x = features(ops, self.hardware, hot)
        else:
            x = features_of_list(ops, self.hardware, hot)
        if fitted is None:
            known_as = np.full(len(x), ROOFLINE, dtype=object)
            if isinstance(first, Collective):
                seconds, low, high = linked(ops, self.hardware)
                return Estimates(x.floor_s, seconds, low, high, known_as)
            unknown = np.full(len(x), np.nan)
            return Estimates(x.floor_s, x.floor_s, x.floor_s, unknown, known_as)
        sides, least = fitted.log_ends(x), least_of(ops, self.hardware)
        middle, low, high = (np.maximum(np.exp(side), least) for side in sides)
        return Estimates(x.floor_s, middle, low, high, _known_as(fitted, x))

    def put_measured(
        self,
        found: Estimates,
        ops: Sequence[Operator],
        implementation: str,
        flags: Sequence[Any],
    ) -> None:
        """Put the median of this very shape, where it was sampled, in place of the fit's figure."""
        if not self.measured:
            return
        for i, op in enumerate(ops):
            caches = ("cold", "hot") if flags[i] is None else ("hot",) if flags[i] else ("cold",)
            known = (self.measured.get((implementation, whole(op), cache)) for cache in caches)
            seen = next((f for f in known if f), None)
            if seen:
                found.seconds[i], found.low[i], found.high[i] = seen
                found.known_as[i] = MEASURED


def _known_as(fitted: KindFit, x: Features) -> np.ndarray:
    """[n] provenance: outside the own range, other devices' samples still tell something."""
    elsewhere = TRANSFERRED if fitted.base else EXTRAPOLATED
    inside = np.where(fitted.inside(x), INTERPOLATED, elsewhere).astype(object)
    return np.full(len(x), TRANSFERRED, dtype=object) if fitted.transferred else inside


def linked(ops: Sequence[Operator] | Operator, hardware: Hardware) -> np.ndarray:
    """[3, n] seconds, low and high by the link alone, of what cards do together."""
    some = listed(ops)
    found = (np.broadcast_arrays(*by_link(op, hardware.links)) for op in some)  # type: ignore[arg-type]
    return np.concatenate([np.atleast_2d(np.array(ends).reshape(3, -1)) for ends in found], axis=1)


def listed(ops: Sequence[Operator] | Operator) -> Sequence[Operator]:
    return [ops] if isinstance(ops, Operator) else ops


Told = Callable[[Any, str, Any], Estimates]
"""Of operators, by an implementation, hot or not."""


def parted(
    ops: Sequence[Operator],
    rows: np.ndarray,
    told: Told,
    others: Told,
    implementation: str,
    hot: Any,
) -> Estimates:
    """A list of which ``rows`` [n] bool are as ``told`` says, and the rest as ``others``."""
    found, flags = Estimates.nothing_of(len(ops)), np.broadcast_to(np.asarray(hot), len(ops))
    for where, tell in ((np.flatnonzero(rows), told), (np.flatnonzero(~rows), others)):
        if len(where):
            some, known = [ops[int(i)] for i in where], None if hot is None else flags[where]
            found.put(where, tell(some, implementation, known))
    return found


def least_of(
    ops: Sequence[Operator] | Operator, hardware: Hardware, hot: np.ndarray | None = None
) -> np.ndarray:
    """[n] or [] seconds that products and main memory of a GPU take at least: the latter for the
    bytes that no cache can hold, and of what is not ``hot`` [n] for the weights. Of what has no
    weights not hot means that kernels in a row each drive out what the last one left: nothing of
    its bytes finds a cache."""
    if isinstance(ops, Operator):
        return np.asarray(_least(ops, hardware, hot))
    flags = [None] * len(ops) if hot is None else list(hot)
    return np.array([float(_least(op, hardware, at)) for op, at in zip(ops, flags, strict=True)])


def _least(op: Operator, hardware: Hardware, hot: Any) -> Any:
    least = np.maximum(least_seconds(op, hardware), least_arithmetic(op, hardware))
    if hot is None or hardware.compute_capability is None:
        return least
    weights = np.asarray(op.weight_bytes_read, dtype=float)
    fetched = np.where(weights > 0, weights, np.asarray(op.bytes, dtype=float))
    return np.maximum(least, np.where(hot, 0.0, fetched / hardware.bandwidth))


def uncalibrated(hardware: Hardware) -> Calibration:
    """A calibration without samples: every estimate is the roofline, and says so."""
    return Calibration(hardware, {}, pd.DataFrame(columns=HELD_OUT_COLUMNS))


def kind_of(op: Operator) -> str:
    """What a fit is for: the operator's kind; each operator without a formula is its own kind."""
    if isinstance(op, Convolution):
        return Conv2d.operator  # one rule, whatever the number of dimensions
    return f"{op.operator}: {op.name}" if isinstance(op, Other | Counted) else op.operator


def dtype_of(op: Operator) -> str:
    return str(vars(op)["dtype"])


EVERY = "every"


def fitted_dtype(op: Operator) -> str:
    """The dtype that a fit is for; of a product that widens its weights both: "bfloat16 x int4";
    ``EVERY`` of kinds whose dtypes are fitted together."""
    if op.operator in TOGETHER:
        return EVERY
    return f"{dtype_of(op)} x {vars(op)['weight_dtype']}" if is_widened(op) else dtype_of(op)


def by_plain_products(
    ops: Sequence[Operator] | Operator,
    hardware: Hardware,
    flags: Any,
    estimates: Callable[[Operator, Any], Estimates],
) -> Estimates:
    """Products that widen their weights, by what ``estimates`` says of plain ones; ``flags``: None
    or [n], as ``estimates`` takes them for a grid."""
    if not isinstance(ops, Operator):
        found = Estimates.nothing_of(len(ops))
        for grid, rows in stack(ops):
            some = flags if flags is None else np.broadcast_to(flags, len(ops))[rows]
            found.put(rows, by_plain_products(grid, hardware, some, estimates))
        return found
    short, same = (estimates(p.op, flags).scaled(p.scale) for p in plain_products(ops, hardware))
    columns = zip(vars(short).values(), vars(same).values(), strict=True)
    lesser = short.seconds < same.seconds
    floor_s, seconds, low, high, known_as = (np.where(lesser, a, b) for a, b in columns)
    least = np.broadcast_to(floor(ops, hardware), len(floor_s))
    return Estimates(floor_s, seconds, low, high, known_as).stood_in(least, width(ops, hardware))


HELD_OUT_COLUMNS = [
    "implementation",
    "kind",
    "dtype",
    "samples",
    "groups",
    "median_error",
    "p90_error",
    "roofline_median_error",
    "constant_median_error",
    "coverage",
    "halfwidth",
]
