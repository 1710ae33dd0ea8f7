"""Samples in, a calibration out: seconds of any operator, with an interval and how it is known.

Each (implementation, kind, dtype) has a fit of its own (:mod:`calib.fit.kind`) to the logarithm of
the drift-corrected median seconds. Of the device itself groups of shapes are held out whole; of
other devices, each device in turn. The held-out predictions scale the intervals and give the error
that is reported, beside those of the plain roofline and of one constant efficiency on the same
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from calib.errors import CalibError
from calib.fit.calibration import (
    HELD_OUT_COLUMNS,
    Calibration,
    Key,
    dtype_of,
    fitted_dtype,
    kind_of,
    wider,
)
from calib.fit.held_out import Data, data_of, folds_of, row_of
from calib.fit.kind import KindFit, fit_kind
from calib.fit.lessons import Foretold, Lessons, lessons_of
from calib.fit.likeness import card_to_card, likeness, plan_over_devices
from calib.fit.physics.blocks.attention.flash import FLASH
from calib.fit.physics.blocks.product_blocks import told_apart
from calib.fit.physics.features import Features, concatenate
from calib.fit.physics.limits.power import foretold, is_limited, slowed, sustained
from calib.fit.plan import LEAST_DEVICES, HeldOut, Plan, plan_of
from calib.fit.residual import MOST_EXACT
from calib.fit.trees import sum_of
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.drift import drift_corrected, typical, visits
from calib.samples.faults import clean
from calib.samples.sample import Sample
from model.ops import Operator, TensorCoreOperator


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
    usable = [s for s in clean(samples) if s.status == "ok" and len(s.seconds)]
    groups: dict[Key, list[Sample]] = {}
    for sample in usable:
        key = (sample.implementation, kind_of(sample.op), fitted_dtype(sample.op))
        groups.setdefault(key, []).append(sample)
    kinds, held_out = {}, []
    blind: dict[Key, tuple[np.ndarray, np.ndarray]] = {}
    for key, some in groups.items():
        progress(" ".join(key))
        fitted, row, unseen = _fit_key(some, hardware)
        if fitted is not None:
            kinds[key] = fitted
            blind |= {key: unseen} if unseen else {}
            held_out.append(dict(zip(HELD_OUT_COLUMNS, (*key, *row), strict=True)))
    table = pd.DataFrame(held_out, columns=HELD_OUT_COLUMNS)
    own = [s for s in usable if s.hardware == hardware.name]  # clean, and so not cleaned again
    return Calibration(hardware, kinds, table, measured_shapes(own, hardware), blind)


def _fit_key(
    samples: Sequence[Sample], hardware: Hardware
) -> tuple[KindFit | None, tuple[Any, ...], tuple[np.ndarray, np.ndarray] | None]:
    """The fit of one kind, its row of ``HELD_OUT_COLUMNS``, and what ``Calibration.blind`` holds.

    None for fewer than four shapes.
    """
    own = [s for s in samples if s.hardware == hardware.name]
    others: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.hardware != hardware.name:
            others.setdefault(sample.hardware, []).append(sample)
    teach = len(own) <= MOST_EXACT and len({s.op for s in own}) >= _LEAST_SHAPES
    data = data_of(own, hardware, visits(own)) if own else None
    fitted, row, lessons = None, (), None
    if others:
        fitted, row, lessons = _fit_others(others, data, hardware, teach)
    if data is None or len({s.op for s in own}) < _LEAST_SHAPES:
        return fitted, row, None
    folds = folds_of(data.groups)
    refined, seen = fit_kind(data.x, data.seconds, plan_of(folds), fitted, lessons)
    held = folds >= 0
    unseen = [np.where(held, v, np.nan) for v in (seen.centre, refined.quantile * seen.spread)]
    return refined, row_of(data, folds, held, refined, seen), (unseen[0], unseen[1])


_LEAST_SHAPES = 4


def _fit_others(
    others: dict[str, list[Sample]], own: Data | None, hardware: Hardware, teach: bool
) -> tuple[KindFit | None, tuple[Any, ...], Lessons | None]:
    """A fit of other devices, of each the more samples the more it is like ``hardware``.

    Where they are several, each is held out in turn, and foretold from the rest in the same way.
    Cards of the compute capability of ``hardware`` tell alone, where no sample of its own corrects
    them: two Hopper cards foretell each other's products better by a tenth than all others do.
    ``own``: what is known of ``hardware`` itself. ``teach``: whether that will correct the fit, by
    what those tests missed.
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
    twins = [pair for pair in known if _are_twins(pair[0], hardware)]
    # Of one card alone the work and the power that limits it cannot be told apart.
    twins = [] if known and known[0][1][0].implementation == FLASH else twins
    known = twins if own is None and sum(len(some) for _, some in twins) >= _LEAST_SHAPES else known
    if not known or sum(len(some) for _, some in known) < _LEAST_SHAPES:
        return None, (), None
    op = known[0][1][0].op
    dtype = dtype_of(op)
    devices = [device for device, _ in known]
    apart = card_to_card(hardware, devices, dtype)
    lent = [data_of(some, device) for device, some in known]
    if is_limited(op):
        lent = _at_limit(lent, devices, own, hardware)
    if len(known) == 1:
        data = replace(lent[0], x=_lent(lent[0].x, op, hardware))
        folds = folds_of(data.groups)
        fitted, seen = fit_kind(data.x, data.seconds, plan_of(folds))
        lone = replace(fitted, transferred=True, at_least=apart)
        return lone, row_of(data, folds, folds >= 0, lone, seen), None
    counts = [len(some) for _, some in known]
    plan = plan_over_devices(hardware, devices, counts, dtype)
    used, plan = plan.compacted()
    numbers = np.repeat(np.arange(len(known)), counts)[used]
    firsts = np.cumsum([0, *counts])
    parts = [p.rows(used[numbers == d] - firsts[d]) for d, p in enumerate(lent)]
    data = Data(
        _lent(concatenate([p.x for p in parts]), op, hardware),
        np.concatenate([p.seconds for p in parts]),
        np.concatenate([p.groups for p in parts]),
    )
    fitted, seen = fit_kind(data.x, data.seconds, plan)
    asked = plan.parts(len(used)) >= 0
    least = apart if len(known) < LEAST_DEVICES else 0.0
    carried = replace(fitted, transferred=True, at_least=least)
    lessons = None
    if teach:
        lessons = _lessons(data, numbers, plan, seen, fitted, devices, hardware, dtype)
    return carried, row_of(data, numbers, asked, carried, seen), lessons


def _are_twins(one: Hardware, other: Hardware) -> bool:
    same = one.compute_capability == other.compute_capability
    return same and one.compute_capability is not None


def _at_limit(
    lent: Sequence[Data], devices: Sequence[Hardware], own: Data | None, hardware: Hardware
) -> list[Data]:
    """Products of other devices as the power limit of ``hardware`` would slow them."""
    known = [sustained(p.x, p.seconds, device) for p, device in zip(lent, devices, strict=True)]
    target = sustained(own.x, own.seconds, hardware) if own else None
    target = target or foretold(hardware, [s for s in known if s])
    return [
        replace(p, seconds=slowed(p.x, p.seconds, donor, target))
        for p, donor in zip(lent, known, strict=True)
    ]


def _lent(x: Features, op: Operator, hardware: Hardware) -> Features:
    """What ``x`` of other devices tells of ``hardware``."""
    return replace(x, columns=told_apart(x.columns, op, hardware))


def _lessons(
    data: Data,
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


IN_MODEL = {
    "matmul": 0.13,
    "attention": 0.12,
    "softmax": 0.16,
    "norm": 0.24,
    "elementwise": 0.25,
    "copy": 0.21,
    "gather": 1.34,
    "other": 0.69,
}
IN_ANY_MODEL = 0.23
"""On a card, by how much nine tenths of the time of operators that were measured by themselves
differs within a model (log half-width): another clock, another state of the caches. Of DeepSeek-OCR
on an H200 (``python -m benchmarks.recorded --intervals``). On a CPU the repeats of a shape, taken
at three times of a sweep, say it themselves."""


def measured_shapes(
    samples: Sequence[Sample], hardware: Hardware
) -> dict[tuple[str, Operator, str], tuple[float, float, float]]:
    """Expected seconds of each shape and a 90% interval: 5th and 95th percentile of its repeats,
    drift-corrected, and on a card what differs within a model."""
    known_good = (s for s in clean(samples) if s.status == "ok" and len(s.seconds))
    usable = [s for s in known_good if s.expected > 0]
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
        within = 0.0
        if hardware.compute_capability is not None:
            within = IN_MODEL.get(first.op.operator, IN_ANY_MODEL)
        low, high = wider(seconds, low, high, within)
        known[key] = (float(seconds), float(low), float(high))
    return known
