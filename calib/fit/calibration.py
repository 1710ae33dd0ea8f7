"""Samples in, a calibration out: seconds of any operator, with an interval and how it is known.

Each (implementation, kind, dtype) has a fit of its own (:mod:`calib.fit.kind`) to the logarithm of
the drift-corrected median seconds. Of the device itself groups of shapes are held out whole; of
other devices, each device in turn. The held-out predictions scale the intervals and give the error
that is reported, beside those of the plain roofline and of one constant efficiency on the same
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from calib.errors import CalibError
from calib.fit.kind import LEAST_DEVICES, HeldOut, KindFit, Plan, conformal, fit_kind, plan_of
from calib.fit.lessons import Foretold, Lessons, lessons_of
from calib.fit.likeness import card_to_card, likeness, plan_over_devices
from calib.fit.physics.features import (
    Features,
    concatenate,
    features,
    features_of_list,
    whole,
)
from calib.fit.physics.product_blocks import told_apart
from calib.fit.residual import MOST_EXACT
from calib.fit.trees import sum_of
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.drift import drift_corrected, typical, visits
from calib.samples.sample import HOT, Sample
from model.ops import Operator, Other, TensorCoreOperator, is_grid

_FOLDS = 5

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"
TRANSFERRED, ROOFLINE = "transferred", "roofline"
WEAKEST_FIRST = (ROOFLINE, TRANSFERRED, EXTRAPOLATED, INTERPOLATED, MEASURED)

Key = tuple[str, str, str]
"""(implementation, kind, dtype)"""


@dataclass(frozen=True)
class Calibration:
    """What ``fit`` returns. ``held_out``: one row a fit, its error on groups it never saw."""

    hardware: Hardware
    kinds: dict[Key, KindFit]
    held_out: pd.DataFrame
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
        known_as = _known_as(fitted, x)
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


def _known_as(fitted: KindFit, x: Features) -> np.ndarray:
    """[n] provenance: outside the own range, other devices' samples still tell something."""
    elsewhere = TRANSFERRED if fitted.base else EXTRAPOLATED
    inside = np.where(fitted.inside(x), INTERPOLATED, elsewhere).astype(object)
    return np.full(len(x), TRANSFERRED, dtype=object) if fitted.transferred else inside


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


def fit(
    samples: Iterable[Sample],
    hardware: Hardware,
    progress: Callable[[str], None] = lambda name: None,
) -> Calibration:
    """Fit every (implementation, kind, dtype) among ``samples`` that has at least four shapes.

    ``hardware`` is the device to estimate. Samples of other devices, described in ``conf/hw``, give
    a transferred fit; samples of the device beside them refine it, and alone stand by themselves.

    Raises ``CalibError`` for another device that ``conf/hw`` does not describe by figures.
    """
    usable = [s for s in samples if s.status == "ok" and len(s.seconds)]
    groups: dict[Key, list[Sample]] = {}
    for sample in usable:
        key = (sample.implementation, kind_of(sample.op), dtype_of(sample.op))
        groups.setdefault(key, []).append(sample)
    kinds, held_out = {}, []
    for key, some in groups.items():
        progress(" ".join(key))
        fitted, row = _fit_key(some, hardware)
        if fitted is not None:
            kinds[key] = fitted
            held_out.append(dict(zip(HELD_OUT_COLUMNS, (*key, *row), strict=True)))
    table = pd.DataFrame(held_out, columns=HELD_OUT_COLUMNS)
    own = [s for s in usable if s.hardware == hardware.name]
    return Calibration(hardware, kinds, table, measured_shapes(own, hardware))


def _fit_key(
    samples: Sequence[Sample], hardware: Hardware
) -> tuple[KindFit | None, tuple[Any, ...]]:
    """The fit of one kind and its row of ``HELD_OUT_COLUMNS``; None for fewer than four shapes."""
    own = [s for s in samples if s.hardware == hardware.name]
    others: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.hardware != hardware.name:
            others.setdefault(sample.hardware, []).append(sample)
    teach = len(own) <= MOST_EXACT and len({s.op for s in own}) >= _LEAST_SHAPES
    fitted, row, lessons = _fit_others(others, hardware, teach) if others else (None, (), None)
    if len({s.op for s in own}) < _LEAST_SHAPES:
        return fitted, row
    data = _data_of(own, hardware, visits(own))
    folds = _folds(data.groups)
    refined, seen = fit_kind(data.x, data.seconds, plan_of(folds), fitted, lessons)
    return refined, _row(data, folds, folds >= 0, refined, seen)


_LEAST_SHAPES = 4


def _fit_others(
    others: dict[str, list[Sample]], hardware: Hardware, teach: bool
) -> tuple[KindFit | None, tuple[Any, ...], Lessons | None]:
    """A fit of other devices, of each the more samples the more it is like ``hardware``.

    Where they are several, each is held out in turn, and foretold from the rest in the same way.
    ``teach``: whether samples of ``hardware`` will correct the fit, by what those tests missed.
    """
    known: list[tuple[Hardware, list[Sample]]] = []
    for name, some in others.items():
        device = load_hardware(name)
        if device.unprobed:
            raise CalibError(
                f"samples: hardware = {name!r}: expected {hardware.name!r}, or a device that "
                "conf/hw describes by figures"
            )
        if dtype_of(some[0].op) in device.peak_flops or not isinstance(
            some[0].op, TensorCoreOperator
        ):
            known.append((device, some))
    if not known or sum(len(some) for _, some in known) < _LEAST_SHAPES:
        return None, (), None
    op = known[0][1][0].op
    dtype = dtype_of(op)
    apart = card_to_card(hardware, [device for device, _ in known], dtype)
    if len(known) == 1:
        data = _data_of(known[0][1], known[0][0])
        data = replace(data, x=_lent(data.x, op, hardware))
        folds = _folds(data.groups)
        fitted, seen = fit_kind(data.x, data.seconds, plan_of(folds))
        lone = replace(fitted, transferred=True, at_least=apart)
        return lone, _row(data, folds, folds >= 0, lone, seen), None
    counts = [len(some) for _, some in known]
    plan = plan_over_devices(hardware, [device for device, _ in known], counts, dtype)
    used, plan = plan.compacted()
    numbers = np.repeat(np.arange(len(known)), counts)[used]
    firsts = np.cumsum([0, *counts])
    parts = [
        _data_of([some[i] for i in used[numbers == d] - firsts[d]], device)
        for d, (device, some) in enumerate(known)
    ]
    data = _Data(
        _lent(concatenate([p.x for p in parts]), op, hardware),
        np.concatenate([p.seconds for p in parts]),
        np.concatenate([p.groups for p in parts]),
    )
    fitted, seen = fit_kind(data.x, data.seconds, plan)
    asked = plan.parts(len(used)) >= 0
    least = apart if len(known) < LEAST_DEVICES else 0.0
    carried = replace(fitted, transferred=True, at_least=least)
    devices = [device for device, _ in known]
    lessons = None
    if teach:
        lessons = _lessons(data, numbers, plan, seen, fitted, devices, hardware, dtype)
    return carried, _row(data, numbers, asked, carried, seen), lessons


def _lent(x: Features, op: Operator, hardware: Hardware) -> Features:
    """What ``x`` of other devices tells of ``hardware``."""
    return replace(x, columns=told_apart(x.columns, op, hardware))


def _lessons(
    data: _Data,
    numbers: np.ndarray,
    plan: Plan,
    seen: HeldOut,
    fitted: KindFit,
    devices: Sequence[Hardware],
    hardware: Hardware,
    dtype: str,
) -> Lessons | None:
    """What the test of ``fitted`` on each of ``devices`` teaches; None without trees.

    ``numbers`` [n]: position among ``devices`` of the one that each sample is of.
    """
    if fitted.trees is None:
        return None
    tested = []
    for d, (asked, _) in enumerate(plan.held_out):
        mine = np.flatnonzero(numbers == d)
        rest = [e for e in range(len(devices)) if e != d]
        alike = np.zeros(len(devices))
        alike[rest] = likeness(devices[d], [devices[e] for e in rest], dtype)
        x = data.x.rows(mine)
        y = np.log(data.seconds[mine]) + np.log(x.clock_hz)
        tested.append(Foretold(x, y, np.searchsorted(mine, asked), seen.steps[asked], alike))
    blend = sum_of([fitted.trees], [fitted.trees_share])
    return lessons_of(tested, fitted.prior, blend, likeness(hardware, devices, dtype))


def measured_shapes(
    samples: Sequence[Sample], hardware: Hardware
) -> dict[tuple[str, Operator, str], tuple[float, float, float]]:
    """Expected seconds, 5th and 95th percentile of the repeats of each shape, drift-corrected."""
    usable = [s for s in samples if s.status == "ok" and len(s.seconds) and s.expected > 0]
    corrected = drift_corrected(usable, hardware)
    known: dict[tuple[str, Operator, str], tuple[float, float, float]] = {}
    places = visits(usable)
    at_one_speed = typical(corrected, places)
    for seconds, rows in zip(at_one_speed, places, strict=True):
        repeats = [np.array(usable[i].seconds) * corrected[i] / usable[i].expected for i in rows]
        spread = np.concatenate(repeats)
        low, high = np.quantile(spread, [0.05, 0.95]) if len(spread) > 1 else spread.repeat(2)
        first = usable[rows[0]]
        key = (first.implementation, first.op, first.cache)
        known[key] = (float(seconds), float(low), float(high))
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


@dataclass(frozen=True)
class _Data:
    """Shapes of one kind as arrays [n]: features, drift-corrected seconds, groups."""

    x: Features
    seconds: np.ndarray
    groups: np.ndarray


def _data_of(
    samples: Sequence[Sample], hardware: Hardware, places: Sequence[list[int]] | None = None
) -> _Data:
    """``places``: samples that are taken together (``visits``); None: each by itself."""
    corrected = drift_corrected(samples, hardware)
    places = [[i] for i in range(len(samples))] if places is None else places
    shapes = [samples[rows[0]] for rows in places]
    x = features_of_list([s.op for s in shapes], hardware, [s.cache == HOT for s in shapes])
    groups = np.array([group_of(s) for s in shapes])
    return _Data(x, typical(corrected, places), groups)


def _row(
    data: _Data, folds: np.ndarray, held: np.ndarray, fitted: KindFit, seen: HeldOut
) -> tuple[Any, ...]:
    """The figures of ``HELD_OUT_COLUMNS`` after the key; ``held`` [n]: what was held out."""
    y, floors = np.log(data.seconds), np.log(np.maximum(data.x.floor_s, _LEAST_S))
    constant = floors - _blind_median(floors - y, folds)
    y, floors, constant, folds = y[held], floors[held], constant[held], folds[held]
    centre, spread = seen.centre[held], seen.spread[held]
    scores = np.abs(y - centre) / spread
    error = np.abs(np.expm1(centre - y))
    return (
        len(data.seconds),
        len(set(data.groups)),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(np.median(np.abs(np.expm1(floors - y)))),
        float(np.median(np.abs(np.expm1(constant - y)))),
        _coverage(scores, folds),
        float(np.median(np.expm1(fitted.quantile * spread))),
    )


_LEAST_S = 1e-12
"""Stands for the floor of an operator that touches no memory, where its logarithm is taken [s]."""


def _blind_median(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """[n] median over the samples of the other folds; zero where there is no other fold."""
    numbers, index = np.unique(folds, return_inverse=True)
    others = [values[folds != f] for f in numbers]
    return np.array([np.median(rest) if len(rest) else 0.0 for rest in others])[index]


def _folds(groups: np.ndarray) -> np.ndarray:
    """[n] number of the fold that holds each sample out; a group is never split.

    Of many samples one fold is held out and the rest (-1) never is: thousands of errors are enough
    to tell an interval, and one large forest predicts better than five of that fold's size.
    """
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    fold = {name: int(order[i]) % min(_FOLDS, len(names)) for i, name in enumerate(names)}
    folds = np.array([fold[name] for name in groups])
    is_one = len(groups) >= _MANY and len(names) >= _MANY_GROUPS
    return np.where(folds == 0, 0, -1) if is_one else folds


_MANY, _MANY_GROUPS = 4000, 200


def _coverage(scores: np.ndarray, folds: np.ndarray) -> float:
    """Share of samples inside an interval whose quantile comes from the other folds."""
    hits = [
        np.mean(scores[folds == f] <= conformal(scores[folds != f])) * np.sum(folds == f)
        for f in np.unique(folds)
        if np.any(folds != f)
    ]
    return float(np.sum(hits) / len(scores)) if hits else float("nan")
