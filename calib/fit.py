"""Samples in, a calibration out: seconds of any operator, with an interval and how it is known.

For each (implementation, kind, dtype) a prior (:mod:`calib.prior`) plus a residual process
(:mod:`calib.residual`) is fitted to the logarithm of the drift-corrected median seconds. Intervals
are split-conformal: groups of shapes are held out whole, their error is measured in units of the
predicted spread, and the quantile of that error scales the spread (Lei et al., JASA 113, 2018).
The same held-out predictions give the error that is reported, beside those of the plain roofline
and of one constant efficiency on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from calib.errors import CalibError
from calib.features import HOT, Features, features, features_of_list, whole
from calib.hardware import Hardware, floor, peak
from calib.prior import Prior, fit_prior
from calib.residual import Residual, fit_residual
from calib.samples import Sample
from model.ops import Operator, Other, is_grid

CONFIDENCE = 0.9
_FOLDS = 5
_MARGIN = np.log(1.25)
"""A shape within a quarter of the sampled range's edge still counts as interpolated."""

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"
TRANSFERRED, ROOFLINE = "transferred", "roofline"
WEAKEST_FIRST = (ROOFLINE, TRANSFERRED, EXTRAPOLATED, INTERPOLATED, MEASURED)

Key = tuple[str, str, str]
"""(implementation, kind, dtype)"""


@dataclass(frozen=True)
class KindFit:
    """The fit of one (implementation, kind, dtype)."""

    prior: Prior
    residual: Residual
    quantile: float
    low: dict[str, float]
    high: dict[str, float]

    def log_seconds(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        """[n] predicted log seconds and [n] half-width of the interval, in log."""
        mean, spread = self.residual.predict(x)
        return self.prior.log_seconds(x) + mean, self.quantile * spread

    def inside(self, x: Features) -> np.ndarray:
        """[n] whether every column lies within the sampled range."""
        inside = np.ones(len(x), dtype=bool)
        for name, values in x.columns.items():
            low, high = self.low.get(name, 0.0), self.high.get(name, 0.0)
            inside &= (values >= low - _MARGIN) & (values <= high + _MARGIN)
        return inside


@dataclass(frozen=True)
class Calibration:
    """What ``fit`` returns. ``held_out``: one row a fit, its error on groups it never saw."""

    hardware: Hardware
    kinds: dict[Key, KindFit]
    held_out: pd.DataFrame
    transferred: bool = False
    measured: dict[tuple[str, Operator, str], tuple[float, float, float]] = field(
        default_factory=dict
    )

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> pd.DataFrame:
        """Seconds of each operator of a list, or of each point of a grid, in order.

        ``hot``: whether inputs are found in cache; None means as the samples of the kind were
        (cold, where both were taken). Columns: floor_s, estimate_s, low_s, high_s (a 90% interval;
        null where nothing is known), efficiency (floor over estimate), provenance.

        Raises ``HardwareError`` for a dtype that the device has no peak for.
        """
        if isinstance(ops, Operator) and is_grid(ops):
            return self._alike(ops, implementation, hot)
        ops = [ops] if isinstance(ops, Operator) else list(ops)
        flags: list[Any] = list(np.broadcast_to(np.asarray(hot, dtype=object), len(ops)))
        rows: dict[tuple[str, str, bool], list[int]] = {}
        for i, op in enumerate(ops):
            rows.setdefault((kind_of(op), dtype_of(op), flags[i] is None), []).append(i)
        parts = []
        for (_, _, unset), some in rows.items():
            known = None if unset else np.array([bool(flags[i]) for i in some])
            part = self._alike([ops[i] for i in some], implementation, known)
            parts.append(part.set_index(pd.Index(some)))
        if not parts:
            none = np.zeros(0)
            return _table(none, none, none, none, none.astype(object))
        return self._with_measured(pd.concat(parts).sort_index(), ops, implementation, flags)

    def _alike(
        self, ops: Sequence[Operator] | Operator, implementation: str, hot: Any
    ) -> pd.DataFrame:
        """Estimates of operators of one kind and dtype."""
        first = ops if isinstance(ops, Operator) else ops[0]
        fitted = self.kinds.get((implementation, kind_of(first), dtype_of(first)))
        if hot is None:
            hot = fitted is not None and fitted.low["hot"] == 1.0
        if isinstance(ops, Operator):
            x = features(ops, self.hardware, hot)
        else:
            x = features_of_list(ops, self.hardware, hot)
        if fitted is None:
            unknown = np.full(len(x), np.nan)
            known_as = np.full(len(x), ROOFLINE, dtype=object)
            return _table(x.floor_s, x.floor_s, x.floor_s, unknown, known_as)
        centre, half = fitted.log_seconds(x)
        known_as = np.where(fitted.inside(x), INTERPOLATED, EXTRAPOLATED).astype(object)
        if self.transferred:
            known_as[:] = TRANSFERRED
        return _table(
            x.floor_s, np.exp(centre), np.exp(centre - half), np.exp(centre + half), known_as
        )

    def _with_measured(
        self, table: pd.DataFrame, ops: Sequence[Operator], implementation: str, flags: list[Any]
    ) -> pd.DataFrame:
        """Put the median of this very shape, where it was sampled, in place of the fit's figure."""
        columns = {name: table[name].to_numpy(copy=True) for name in table.columns}
        for i, op in enumerate(ops):
            caches = ("cold", "hot") if flags[i] is None else ("hot",) if flags[i] else ("cold",)
            found = (self.measured.get((implementation, whole(op), cache)) for cache in caches)
            seen = next((f for f in found if f), None)
            if seen:
                columns["estimate_s"][i], columns["low_s"][i], columns["high_s"][i] = seen
                columns["provenance"][i] = MEASURED
        order = ("floor_s", "estimate_s", "low_s", "high_s", "provenance")
        return _table(*(columns[name] for name in order))


def _table(
    floor_s: np.ndarray,
    estimate_s: np.ndarray,
    low_s: np.ndarray,
    high_s: np.ndarray,
    provenance: np.ndarray,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "floor_s": floor_s,
            "estimate_s": estimate_s,
            "low_s": low_s,
            "high_s": high_s,
            "efficiency": floor_s / np.where(estimate_s > 0, estimate_s, np.nan),
            "provenance": provenance,
        }
    )


def uncalibrated(hardware: Hardware) -> Calibration:
    """A calibration without samples: every estimate is the roofline, and says so."""
    return Calibration(hardware, {}, pd.DataFrame(columns=HELD_OUT_COLUMNS))


def kind_of(op: Operator) -> str:
    """What a fit is for: the operator's kind; each operator without a formula is its own kind."""
    return f"{op.operator}: {op.name}" if isinstance(op, Other) else op.operator


def dtype_of(op: Operator) -> str:
    return str(vars(op)["dtype"])


def group_of(sample: Sample) -> str:
    """What is held out together: the sample's own group, else the part of a shape that repeats."""
    if sample.group:
        return sample.group
    shape = sample.op.shape()
    for names in (("n", "k"), ("heads", "kv_heads", "batch"), ("in_channels", "out_channels")):
        if all(name in shape for name in names):
            return "/".join(f"{shape[name]}" for name in names)
    return str(sample.op)


def drift_corrected(samples: Sequence[Sample], hardware: Hardware) -> np.ndarray:
    """[n] median seconds at the store's typical machine state.

    A block whose probes ran slower than the median of all blocks had a slower machine: its times
    are divided by that factor, the compute probe's and the bandwidth probe's blended by the share
    of each floor. Samples without probes are taken as they are.
    """
    medians = np.array([s.median for s in samples])
    if any(s.probe_flops is None or s.probe_bandwidth is None for s in samples):
        return medians
    flops = np.array([s.probe_flops for s in samples], dtype=float)
    bandwidth = np.array([s.probe_bandwidth for s in samples], dtype=float)
    compute = np.array([float(s.op.min_flops) / peak(s.op, hardware) for s in samples])
    memory = np.array([float(s.op.bytes) / hardware.bandwidth for s in samples])
    share = compute / np.maximum(compute + memory, 1e-30)
    speed = share * flops / np.median(flops) + (1 - share) * bandwidth / np.median(bandwidth)
    return np.asarray(medians * speed)


def fit(
    samples: Iterable[Sample],
    hardware: Hardware,
    progress: Callable[[str], None] = lambda name: None,
) -> Calibration:
    """Fit every (implementation, kind, dtype) among ``samples`` that has at least four shapes.

    ``hardware`` is the device to estimate. Samples of other devices only give a transferred
    calibration. Raises ``CalibError`` when samples of the target and of others are mixed.
    """
    usable = [s for s in samples if s.status == "ok" and len(s.seconds)]
    own = {s.hardware == hardware.name for s in usable}
    if len(own) > 1:
        names = ", ".join(sorted({s.hardware for s in usable}))
        raise CalibError(f"samples: hardware = {names}: expected {hardware.name} only, or none")
    groups: dict[Key, list[Sample]] = {}
    for sample in usable:
        key = (sample.implementation, kind_of(sample.op), dtype_of(sample.op))
        groups.setdefault(key, []).append(sample)
    kinds, held_out = {}, []
    is_own = own != {False}
    for key, some in groups.items():
        progress(" ".join(key))
        seconds = drift_corrected(some, hardware)
        if len({s.op for s in some}) >= 4:
            kinds[key], row = _fit_kind(some, seconds, hardware)
            held_out.append(dict(zip(HELD_OUT_COLUMNS, (*key, *row), strict=True)))
    table = pd.DataFrame(held_out, columns=HELD_OUT_COLUMNS)
    measured = measured_shapes(usable, hardware) if is_own else {}
    return Calibration(hardware, kinds, table, not is_own, measured)


def measured_shapes(
    samples: Sequence[Sample], hardware: Hardware
) -> dict[tuple[str, Operator, str], tuple[float, float, float]]:
    """Median, 5th and 95th percentile of the repeats of each shape, drift-corrected."""
    usable = [s for s in samples if s.status == "ok" and len(s.seconds)]
    known = {}
    for sample, corrected in zip(usable, drift_corrected(usable, hardware), strict=True):
        low, high = np.quantile(sample.seconds, [0.05, 0.95]) * corrected / sample.median
        key = (sample.implementation, sample.op, sample.cache)
        known[key] = (float(corrected), float(low), float(high))
    return known


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


def _fit_kind(
    samples: Sequence[Sample], seconds: np.ndarray, hardware: Hardware
) -> tuple[KindFit, tuple[Any, ...]]:
    ops = [s.op for s in samples]
    x = features_of_list(ops, hardware, [s.cache == HOT for s in samples])
    y = np.log(seconds)
    groups = np.array([group_of(s) for s in samples])
    folds = _folds(groups)
    centre, spread, constant = _held_out(x, y, folds)
    scores = np.abs(y - centre) / spread
    quantile = _conformal(scores)
    prior = fit_prior(x, y)
    residual = fit_residual(x, y - prior.log_seconds(x))
    low = {name: float(values.min()) for name, values in x.columns.items()}
    high = {name: float(values.max()) for name, values in x.columns.items()}
    floors = np.maximum(np.array([float(floor(op, hardware)) for op in ops]), _LEAST_S)
    error = np.abs(np.expm1(centre - y))
    row = (
        len(samples),
        len(set(groups)),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(np.median(np.abs(floors / seconds - 1))),
        float(np.median(np.abs(np.expm1(constant - y)))),
        _coverage(scores, folds),
        float(np.median(np.expm1(quantile * spread))),
    )
    return KindFit(prior, residual, quantile, low, high), row


def _folds(groups: np.ndarray) -> np.ndarray:
    """[n] number of the fold that holds each sample out; a group is never split."""
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    fold = {name: int(order[i]) % min(_FOLDS, len(names)) for i, name in enumerate(names)}
    return np.array([fold[name] for name in groups])


def _held_out(
    x: Features, y: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] prediction, spread and constant-efficiency prediction by fits without the fold."""
    centre, spread, constant = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    for number in np.unique(folds):
        test, train = _rows(x, folds == number), _rows(x, folds != number)
        known = y[folds != number]
        if len(known) == 0:  # a single group: nothing to learn from
            centre[:], spread[:], constant[:] = _log_floor(x), 1.0, _log_floor(x)
            break
        prior = fit_prior(train, known)
        residual = fit_residual(train, known - prior.log_seconds(train))
        mean, some = residual.predict(test)
        centre[folds == number] = prior.log_seconds(test) + mean
        spread[folds == number] = some
        efficiency = np.median(_log_floor(train) - known)
        constant[folds == number] = _log_floor(test) - efficiency
    return centre, spread, constant


_LEAST_S = 1e-12
"""Stands for the floor of an operator that touches no memory, where its logarithm is taken [s]."""


def _log_floor(x: Features) -> np.ndarray:
    return np.asarray(np.log(np.maximum(x.floor_s, _LEAST_S)))


def _rows(x: Features, keep: np.ndarray) -> Features:
    columns = {name: values[keep] for name, values in x.columns.items()}
    return Features(x.compute_s[keep], x.memory_s[keep], x.hot[keep], columns)


def _conformal(scores: np.ndarray) -> float:
    """The finite-sample quantile of held-out scores; the largest where they are too few."""
    rank = min(int(np.ceil((len(scores) + 1) * CONFIDENCE)), len(scores))
    return float(np.sort(scores)[rank - 1])


def _coverage(scores: np.ndarray, folds: np.ndarray) -> float:
    """Share of samples inside an interval whose quantile comes from the other folds."""
    hits = [
        np.mean(scores[folds == f] <= _conformal(scores[folds != f])) * np.sum(folds == f)
        for f in np.unique(folds)
        if np.any(folds != f)
    ]
    return float(np.sum(hits) / len(scores)) if hits else float("nan")
