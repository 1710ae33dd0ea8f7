"""The shapes of one kind as arrays, the groups that are held out together, the error on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.fit.kind import KindFit
from calib.fit.physics.blocks import grouped_blocks
from calib.fit.physics.blocks.attention.columns import followed
from calib.fit.physics.features import Features, features_of_list
from calib.fit.plan import HeldOut, conformal
from calib.hardware.datasheet import Hardware
from calib.samples.drift import drift_corrected, typical
from calib.samples.sample import HOT, Sample

_FOLDS = 5


def group_of(sample: Sample) -> str:
    """What is held out together: the sample's own group, else the part of a shape that repeats."""
    if sample.group:
        return sample.group
    shape = sample.op.shape()
    for names in (("n", "k"), ("heads", "kv_heads", "batch"), ("in_channels", "out_channels")):
        if all(name in shape for name in names):
            return "/".join(f"{shape[name]}" for name in names)
    return str(sample.op)


@dataclass(frozen=True)
class Data:
    """Shapes of one kind as arrays [n]: features, drift-corrected seconds, groups."""

    x: Features
    seconds: np.ndarray
    groups: np.ndarray

    def rows(self, keep: np.ndarray) -> Data:
        return Data(self.x.rows(keep), self.seconds[keep], self.groups[keep])


def data_of(
    samples: Sequence[Sample], hardware: Hardware, places: Sequence[list[int]] | None = None
) -> Data:
    """Of samples of one implementation and kind. ``places``: those that are taken together
    (``visits``); None: each by itself."""
    corrected = drift_corrected(samples, hardware)
    places = [[i] for i in range(len(samples))] if places is None else places
    shapes = [samples[rows[0]] for rows in places]
    x = features_of_list([s.op for s in shapes], hardware, [s.cache == HOT for s in shapes])
    groups = np.array([group_of(s) for s in shapes])
    if shapes:
        implementation = shapes[0].implementation
        columns = followed(x.columns, implementation)
        x = replace(x, columns=grouped_blocks.followed(columns, implementation, hardware))
    return Data(x, typical(corrected, places), groups)


def row_of(
    data: Data, folds: np.ndarray, held: np.ndarray, fitted: KindFit, seen: HeldOut
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


def folds_of(groups: np.ndarray) -> np.ndarray:
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
