"""What others do, on the same rows as ours.

Each baseline learns from ``train`` and returns seconds for ``test``; both are :class:`Rows`, of one
implementation, and ``train`` may hold other cards' rows.

- ``roofline``: max(flops / peak, bytes / bandwidth) on datasheet peaks; learns nothing;
- ``constant efficiency``: the roofline over one median efficiency of the kind;
- ``nearest neighbours``: efficiency interpolated between the four nearest shapes, in log shape;
- ``boosted trees``: gradient-boosted trees for efficiency, from log shape, both floors in seconds,
  arithmetic intensity, the fill of 128 x 128 tiles and of waves, and the card's figures;
- ``boosted trees, clock cycles``: the same with floors in clock cycles, the working set over the L2
  and no absolute figure of the card.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.scoring.rows import Rows

_TILE = 128
_NEAREST = 4


def roofline(train: Rows, test: Rows) -> np.ndarray:
    return test.floor_s


def constant_efficiency(train: Rows, test: Rows) -> np.ndarray:
    return test.floor_s / np.median(train.floor_s / train.seconds)


def nearest_neighbours(train: Rows, test: Rows) -> np.ndarray:
    from sklearn.neighbors import KNeighborsRegressor

    known, asked = log_shape(train), log_shape(test)
    scale = np.maximum(known.std(axis=0), 1e-9)
    model = KNeighborsRegressor(min(_NEAREST, len(train)), weights="distance")
    model.fit(known / scale, _log_slowdown(train))
    return test.floor_s * np.exp(model.predict(asked / scale))


def boosted_trees(train: Rows, test: Rows) -> np.ndarray:
    return _boosted(train, test, absolute_features)


def boosted_trees_in_cycles(train: Rows, test: Rows) -> np.ndarray:
    return _boosted(train, test, dimensionless_features)


BASELINES: dict[str, Callable[[Rows, Rows], np.ndarray]] = {
    "roofline": roofline,
    "constant efficiency": constant_efficiency,
    "nearest neighbours": nearest_neighbours,
    "boosted trees": boosted_trees,
    "boosted trees, clock cycles": boosted_trees_in_cycles,
}


def _log_slowdown(rows: Rows) -> np.ndarray:
    """[n] log of measured seconds over the roofline: minus the log of efficiency."""
    return np.log(rows.seconds / rows.floor_s)


def _boosted(train: Rows, test: Rows, features: Callable[[Rows], np.ndarray]) -> np.ndarray:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=500, learning_rate=0.08, min_samples_leaf=5, early_stopping=False, random_state=0
    )
    model.fit(features(train), _log_slowdown(train))
    return test.floor_s * np.exp(model.predict(features(test)))


_SHAPE = {
    "gemm": ("m", "n", "k"),
    "context_attention": ("batch", "q_len", "heads", "kv_heads", "head_dim", "window"),
    "generation_attention": ("batch", "kv_len", "heads", "kv_heads", "head_dim", "window"),
    "moe": ("tokens", "experts", "top_k", "hidden", "intermediate"),
}


def log_shape(rows: Rows) -> np.ndarray:
    """[n, d] logarithms of the shape; the routing of a MoE as its exponent."""
    columns = [np.log(np.maximum(rows.column(name), 0.5)) for name in _SHAPE[rows.table]]
    if rows.table == "moe":
        names = rows.frame["distribution"]
        columns.append(np.asarray(names.str.extract(r"([\d.]+)$")[0].fillna("0"), dtype=float))
    return np.stack(columns, axis=1)


def _tiles(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """[n] tiles of the output, and [n] the share of them that is used."""

    def count(size: np.ndarray) -> np.ndarray:
        return np.ceil(size / _TILE)

    if rows.table == "gemm":
        m, n = rows.column("m"), rows.column("n")
        tiles = count(m) * count(n)
        return tiles, m * n / (tiles * _TILE**2)
    if rows.table == "moe":
        each = rows.column("tokens") * rows.column("top_k") / rows.column("experts")
        columns = 2 * rows.column("intermediate")
        tiles = count(each) * count(columns)
        touched = np.minimum(rows.column("experts"), rows.column("tokens") * rows.column("top_k"))
        return tiles * touched, each * columns / (tiles * _TILE**2)
    queries = rows.column("q_len")
    tiles = count(queries)
    return tiles * rows.column("batch") * rows.column("heads"), queries / (tiles * _TILE)


def _shared(rows: Rows) -> list[np.ndarray]:
    """Features that no card's size enters but through the waves of its SMs."""
    tiles, used = _tiles(rows)
    waves = tiles / rows.card("sm_count")
    intensity = np.log(rows.column("flops") / rows.column("bytes"))
    return [intensity, used, np.log(waves), waves / np.ceil(waves)]


def absolute_features(rows: Rows) -> np.ndarray:
    """[n, d] with floors in seconds and the card's figures."""
    figures = ("bfloat16", "bandwidth", "sm_count", "clock_hz", "l2_bytes")
    columns = [np.log(rows.card(name)) for name in figures]
    columns += [np.log(rows.compute_s), np.log(rows.memory_s), *_shared(rows)]
    return np.column_stack([log_shape(rows), *columns])


def dimensionless_features(rows: Rows) -> np.ndarray:
    """[n, d] with floors in clock cycles."""
    clock = rows.card("clock_hz")
    columns = [np.log(rows.compute_s * clock), np.log(rows.memory_s * clock)]
    columns += [np.log(rows.compute_s / rows.memory_s)]
    columns += [np.log(rows.column("bytes") / rows.card("l2_bytes")), *_shared(rows)]
    return np.column_stack([log_shape(rows), *columns])
