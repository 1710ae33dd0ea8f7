"""Boosted trees in numpy: what comes in steps (tiles, waves, a library's choice of kernel).

A tree asks every row the same ``depth`` questions, "is column f above threshold t?"; the answers
are the bits of the number of its leaf (an oblivious tree; Prokhorenkova et al., CatBoost, NeurIPS
2018). A forest is therefore three small arrays, is stored as such, and a million rows are answered
by a few array operations without a compiled library. Trees are grown one after the other on what
the earlier ones left (gradient boosting of squared error), each on a part of the rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 128
_SHRINK = 3.0
"""Rows' worth of zero that each leaf is averaged with."""
_CELLS = 2**18
"""Answers held at a time: keeps a chunk's work in the second-level cache."""


@dataclass(frozen=True)
class Trees:
    """``columns``, ``thresholds``: [trees, depth]; ``leaves``: [trees, 2 ** depth]; ``offset``."""

    names: tuple[str, ...]
    columns: np.ndarray
    thresholds: np.ndarray
    leaves: np.ndarray
    offset: float

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """[n] sums over the trees, of ``rows`` [len(names), n], one column of a fit a row."""
        rows = np.asarray(rows, dtype=np.float32)
        trees, depth = self.columns.shape
        total = np.full(rows.shape[1], self.offset, dtype=np.float32)
        first = np.arange(trees, dtype=np.int32)[:, None] * self.leaves.shape[1]
        step = max(1, _CELLS // max(trees, 1))
        for start in range(0, rows.shape[1], step):
            chunk = rows[:, start : start + step]
            leaf = np.zeros((trees, chunk.shape[1]), dtype=np.uint8)
            for level in range(depth):
                above = chunk[self.columns[:, level]] > self.thresholds[:, level, None]
                leaf = (leaf << 1) | above
            total[start : start + step] += self.leaves.ravel()[leaf + first].sum(axis=0)
        return total.astype(float)


def mean_of(forests: Sequence[Trees]) -> Trees:
    """The forest that predicts the mean of ``forests``; they share their columns."""
    return Trees(
        forests[0].names,
        np.concatenate([f.columns for f in forests]),
        np.concatenate([f.thresholds for f in forests]),
        np.concatenate([f.leaves for f in forests]) / np.float32(len(forests)),
        float(np.mean([f.offset for f in forests])),
    )


def bin_edges(rows: np.ndarray) -> list[np.ndarray]:
    """Thresholds to choose from: between neighbouring values, quantiles where they are many."""
    edges = []
    for column in np.asarray(rows, dtype=np.float32):
        values = np.unique(column)
        between = (values[1:] + values[:-1]) / 2
        if len(between) >= _BINS:
            shares = np.linspace(0, 1, _BINS + 1)[1:-1]
            between = np.unique(np.quantile(column, shares).astype(np.float32))
        edges.append(between)
    return edges


def fit_trees(
    names: tuple[str, ...],
    rows: np.ndarray,
    target: np.ndarray,
    trees: int,
    *,
    rate: float = 0.1,
    depth: int = 6,
    row_share: float = 0.5,
    column_share: float = 0.3,
    seed: int = 0,
    edges: list[np.ndarray] | None = None,
) -> Trees:
    """Boost ``trees`` trees on ``target`` [n] over ``rows`` [len(names), n].

    A histogram of residuals over (leaf, column, bin) gives the gain of every possible question of a
    level at once; the one with the largest gain over all leaves together is asked.
    """
    rows = np.asarray(rows, dtype=np.float32)
    edges = bin_edges(rows) if edges is None else edges
    binned = zip(edges, rows, strict=True)
    codes = np.stack([np.searchsorted(e, c) for e, c in binned], axis=1)  # [n, columns]
    usable = np.flatnonzero([len(e) > 0 for e in edges])
    rng, n = np.random.default_rng(seed), len(target)
    offset = float(np.mean(target))
    left = target - offset
    taken_rows = min(n, max(8, round(row_share * n)))
    taken_columns = max(1, round(column_share * len(usable)))
    asked_columns = np.zeros((trees, depth), dtype=np.uint8)
    thresholds = np.full((trees, depth), np.inf, dtype=np.float32)
    leaves = np.zeros((trees, 2**depth), dtype=np.float32)
    if not len(usable):
        return Trees(names, asked_columns, thresholds, leaves, offset)
    for tree in range(trees):
        some = rng.permutation(n)[:taken_rows]
        choice = rng.choice(usable, taken_columns, replace=False)
        questions = _grow(codes[np.ix_(some, choice)], left[some], depth)
        leaf = np.zeros(n, dtype=np.int64)
        for level, (column, code) in enumerate(questions):
            asked_columns[tree, level] = choice[column]
            known = edges[choice[column]]
            thresholds[tree, level] = known[code] if code < len(known) else np.inf
            leaf = 2 * leaf + (codes[:, choice[column]] > code)
        sums = np.bincount(leaf[some], left[some], 2**depth)
        counts = np.bincount(leaf[some], minlength=2**depth)
        leaves[tree] = rate * sums / (counts + _SHRINK)
        left = left - leaves[tree][leaf]
    return Trees(names, asked_columns, thresholds, leaves, offset)


def _grow(codes: np.ndarray, target: np.ndarray, depth: int) -> list[tuple[int, int]]:
    """The questions (column, last code that is not above) of one tree.

    Sums and counts come from one weighted histogram: each row weighs its target plus a ``unit``
    that exceeds any sum of targets, so the count is the sum over ``unit``, rounded.
    """
    n, columns = codes.shape
    codes = codes + _BINS * np.arange(columns)
    unit = 2.0 * (n + 1) * (np.abs(target).max() + 1e-12)
    weights = np.repeat(target + unit, columns)
    leaf = np.zeros(n, dtype=np.int64)
    questions = []
    for level in range(depth):
        cells = columns * _BINS * 2**level
        index = codes + (leaf * (columns * _BINS))[:, None]
        histogram = np.bincount(index.ravel(), weights, cells)
        below = histogram.reshape(2**level, columns, _BINS).cumsum(axis=2)
        counts = np.rint(below / unit)
        sums = below - counts * unit
        above, more = sums[..., -1:] - sums, counts[..., -1:] - counts
        gain = (sums**2 / (counts + _SHRINK) + above**2 / (more + _SHRINK)).sum(axis=0)
        column, code = divmod(int(gain.argmax()), _BINS)
        questions.append((column, code))
        leaf = 2 * leaf + (codes[:, column] - _BINS * column > code)
    return questions
