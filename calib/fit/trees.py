"""Boosted trees in numpy: what comes in steps (tiles, waves, a library's choice of kernel).

A tree asks every row the same ``depth`` questions, "is column f above threshold t?"; the answers
are the bits of the number of its leaf (an oblivious tree; Prokhorenkova et al., CatBoost, NeurIPS
2018). A forest is therefore a few small arrays of bytes, is stored as such, and a million rows are
answered by a few array operations without a compiled library. Trees are grown one after the other
on what the earlier ones left (gradient boosting of squared error), each on a part of the rows and
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 128
_SHRINK = 1.0
"""Rows' worth of zero that each leaf is averaged with."""
_CELLS = 2**19
"""Answers held at a time: a cache has room for them, and threads seldom wait for Python."""


@dataclass(frozen=True)
class Trees:
    """``edges`` [columns, bins - 1]: the thresholds of each column, padded with infinity.

    ``columns``, ``codes``: uint8 [trees, depth], tree t asks at a level whether its column lies
    above edge number ``code``; ``leaves``: int8 [trees, 2 ** depth], in units of ``scale`` [trees].
    """

    names: tuple[str, ...]
    edges: np.ndarray
    columns: np.ndarray
    codes: np.ndarray
    leaves: np.ndarray
    scale: np.ndarray
    offset: float

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """[n] sums over the trees, of ``rows`` [len(names), n], one column of a fit a row."""
        return self.of_bins(bins_of(rows, self.edges))

    def of_bins(self, binned: np.ndarray) -> np.ndarray:
        """[n] sums over the trees, of ``binned`` [len(names), n], as :func:`bins_of` tells them.

        Buffers are kept from one chunk to the next: fresh ones would cost more than the answers.
        """
        trees, depth = self.columns.shape
        total = np.full(binned.shape[1], self.offset, dtype=np.float32)
        step = max(1, min(_CELLS // max(trees, 1), len(total)))
        asked, leaf = np.empty((2, trees, step), dtype=np.uint8)
        above, answers = np.empty((trees, step), dtype=bool), np.empty((trees, step), dtype=np.int8)
        index, weighed = np.empty((trees, step), np.intp), np.empty((trees, step), np.float32)
        values, scale = self.leaves.ravel(), self.scale.astype(np.float32)[:, None]
        first = np.arange(trees)[:, None] * self.leaves.shape[1]
        for start in range(0, len(total), step):
            chunk = binned[:, start : start + step]
            some = slice(chunk.shape[1])
            leaf[:] = 0
            for level in range(depth):
                np.take(chunk, self.columns[:, level], axis=0, out=asked[:, some], mode="clip")
                np.greater(asked, self.codes[:, level, None], out=above)
                np.add(leaf, leaf, out=leaf)  # a shift of bytes is thirty times slower
                np.bitwise_or(leaf, above.view(np.uint8), out=leaf)
            np.add(first, leaf, out=index)
            np.take(values, index, out=answers, mode="clip")
            np.multiply(answers, scale, out=weighed)  # a product's threads would wait for ours
            total[start : start + step] += weighed.sum(axis=0)[some]
        return total.astype(float)


def answers(
    rows_of: Callable[[tuple[str, ...]], np.ndarray], forests: Sequence[Trees]
) -> list[np.ndarray]:
    """[n] of each forest, of ``rows_of`` its names [len(names), n]; forests that share their
    thresholds look a row up once."""
    found: list[np.ndarray] = []
    before, binned = None, np.zeros(0)
    for forest in forests:
        if before is None or not _share_edges(before, forest):
            before, binned = forest, bins_of(rows_of(forest.names), forest.edges)
        found.append(forest.of_bins(binned))
    return found


def _share_edges(a: Trees, b: Trees) -> bool:
    return a.names == b.names and (a.edges is b.edges or np.array_equal(a.edges, b.edges))


def mean_of(forests: Sequence[Trees]) -> Trees:
    """The forest that predicts the mean of ``forests``; they share names and edges."""
    return sum_of(forests, np.full(len(forests), 1 / len(forests)))


def sum_of(forests: Sequence[Trees], weights: np.ndarray | Sequence[float]) -> Trees:
    """The forest that predicts the weighted sum of ``forests``; they share names and edges."""
    pairs = list(zip(forests, weights, strict=True))
    return Trees(
        forests[0].names,
        forests[0].edges,
        np.concatenate([f.columns for f in forests]),
        np.concatenate([f.codes for f in forests]),
        np.concatenate([f.leaves for f in forests]),
        np.concatenate([f.scale * np.float32(w) for f, w in pairs]),
        float(sum(f.offset * w for f, w in pairs)),
    )


def bin_edges(rows: np.ndarray) -> np.ndarray:
    """Thresholds to choose from: between neighbouring values, quantiles where they are many."""
    edges = np.full((len(rows), _BINS - 1), np.inf, dtype=np.float32)
    for i, column in enumerate(np.asarray(rows, dtype=np.float32)):
        values = np.unique(column)
        between = (values[1:] + values[:-1]) / 2
        if len(between) >= _BINS:
            shares = np.linspace(0, 1, _BINS + 1)[1:-1]
            between = np.unique(np.quantile(column, shares).astype(np.float32))
        edges[i, : len(between)] = between
    return edges


def bins_of(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """uint8 [columns, n]: how many of its column's edges lie below each value.

    A search by halves, a half a step for all values at once: numpy's own waits for the outcome of
    every comparison.
    """
    rows = np.asarray(rows, dtype=np.float32)
    binned, halves = np.empty(rows.shape, dtype=np.uint8), np.ascontiguousarray(edges[:, _HALVES])
    first = np.arange(len(rows))[:, None] * _BINS
    step = max(1, min(_CELLS // (8 * max(len(rows), 1)), rows.shape[1]))
    node, index = np.empty((2, len(rows), step), dtype=np.intp)
    edge, above = np.empty((len(rows), step), np.float32), np.empty((len(rows), step), dtype=bool)
    for start in range(0, rows.shape[1], step):
        values = rows[:, start : start + step]
        some = slice(values.shape[1])
        node[:] = 1
        for _ in range(_BINS.bit_length() - 1):
            np.add(first, node, out=index)
            np.take(halves, index, out=edge, mode="clip")
            np.greater(values, edge[:, some], out=above[:, some])
            np.add(node, node, out=node)
            np.bitwise_or(node, above, out=node)
        binned[:, start : start + step] = node[:, some] - _BINS
    return binned


def _in_halves() -> np.ndarray:
    """[bins] number of the edge asked at each node of a search; the children of i: 2i, 2i + 1."""
    order = np.zeros(_BINS, dtype=np.intp)
    for node in range(1, _BINS):
        level = node.bit_length() - 1
        width = _BINS >> level
        order[node] = (node - (1 << level)) * width + width // 2 - 1
    return order


_HALVES = _in_halves()


@dataclass(frozen=True)
class Growth:
    """How a forest is grown. ``rate``: share of a tree's answer that is added."""

    trees: int
    rate: float
    depth: int
    row_share: float = 0.5
    column_share: float = 0.3


def fit_trees(
    names: tuple[str, ...],
    binned: np.ndarray,
    edges: np.ndarray,
    target: np.ndarray,
    growth: Growth,
    seed: int = 0,
) -> Trees:
    """Boost trees on ``target`` [n] over ``binned`` [len(names), n], the bins of the columns."""
    rng, n, depth = np.random.default_rng(seed), len(target), growth.depth
    usable = np.flatnonzero(np.isfinite(edges[:, 0]))
    offset = float(np.mean(target))
    left = target - offset
    taken_rows = min(n, max(8, round(growth.row_share * n)))
    taken_columns = max(1, round(growth.column_share * len(usable)))
    trees = growth.trees if len(usable) else 0
    columns = np.zeros((trees, depth), dtype=np.uint8)
    codes = np.zeros((trees, depth), dtype=np.uint8)
    leaves = np.zeros((trees, 2**depth), dtype=np.int8)
    scale = np.zeros(trees, dtype=np.float32)
    for tree in range(trees):
        some = np.sort(rng.choice(n, taken_rows, replace=False))
        choice = rng.choice(usable, taken_columns, replace=False)
        questions = _grow(binned[choice][:, some], left[some], depth)
        leaf = np.zeros(n, dtype=np.intp)
        for level, (column, code) in enumerate(questions):
            columns[tree, level], codes[tree, level] = choice[column], code
            leaf = 2 * leaf + (binned[choice[column]] > code)
        taken = leaf[some]
        sums = np.bincount(taken, left[some], 2**depth)
        values = growth.rate * sums / (np.bincount(taken, minlength=2**depth) + _SHRINK)
        scale[tree] = max(float(np.abs(values).max()) / 127, 1e-12)
        leaves[tree] = np.rint(values / scale[tree])  # what rounding takes, later trees give back
        left = left - (leaves[tree] * scale[tree])[leaf]
    return Trees(names, edges, columns, codes, leaves, scale, offset)


def _grow(binned: np.ndarray, target: np.ndarray, depth: int) -> list[tuple[int, int]]:
    """The questions (column, code) of one tree.

    A histogram of the target over (leaf, column, bin) gives the gain of every possible question of
    a level; the one with the largest gain over all leaves together is asked. Sums and counts come
    from one weighted histogram: each row weighs its target plus a ``unit`` that exceeds any sum of
    targets, so the count is the sum over ``unit``, rounded. Of the rows on the two sides of a
    question the fewer are counted; the others are what the leaves held besides.
    """
    columns, n = binned.shape
    first = np.arange(columns, dtype=np.intp)[:, None] * _BINS
    unit = 2.0 * (n + 1) * (np.abs(target).max() + 1e-12)
    weights = target + unit

    def histogram(rows: np.ndarray | slice, leaf: np.ndarray, leaves: int) -> np.ndarray:
        index = binned[:, rows] + (first + leaf[rows] * (columns * _BINS))
        weighed = np.tile(weights[rows], columns)
        counted = np.bincount(index.ravel(), weighed, columns * _BINS * leaves)
        return counted.reshape(leaves, columns, _BINS)

    leaf = np.zeros(n, dtype=np.intp)
    held, questions = histogram(slice(None), leaf, 1), []
    for level in range(depth):
        column, code = divmod(int(_gains(held, unit).argmax()), _BINS)
        questions.append((column, code))
        if level + 1 < depth:
            upper = binned[column] > code
            counted = int(2 * upper.sum() <= n)  # the half of all rows that is the smaller
            halves = np.empty((2**level, 2, columns, _BINS))
            halves[:, counted] = histogram(np.flatnonzero(upper == counted), leaf, 2**level)
            np.subtract(held, halves[:, counted], out=halves[:, 1 - counted])
            held, leaf = halves.reshape(-1, columns, _BINS), 2 * leaf + upper
    return questions


def _gains(held: np.ndarray, unit: float) -> np.ndarray:
    """[columns, bins] what each question gains over all leaves together, of their histograms."""
    sums = held.cumsum(axis=2)
    counts = np.rint(sums * (1 / unit))
    sums -= counts * unit
    above, more = sums[..., -1:] - sums, counts[..., -1:] + _SHRINK - counts
    counts += _SHRINK
    sums *= sums
    sums /= counts
    above *= above
    above /= more
    sums += above
    return np.asarray(sums.sum(axis=0))
