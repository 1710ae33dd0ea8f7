"""The longest common subsequence of two sequences, by a matrix of what fits what."""

from __future__ import annotations

import numpy as np

MOST_CELLS = 40_000_000
"""Beyond it nothing is aligned: what is so unlike in length is of something else."""


def align(fits: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of indices, ascending in both. ``fits`` [n, m]: whether i and j may be a pair.

    longest[i, j] = max(longest[i + 1, j + 1] + 1 where they fit, longest[i + 1, j],
                        longest[i, j + 1])
    and of a row the last term is the running maximum from its end.
    """
    n, m = fits.shape
    if n * m > MOST_CELLS:
        return []
    longest = np.zeros((n + 1, m + 1), dtype=np.int32)
    for i in range(n - 1, -1, -1):
        here = np.maximum(longest[i + 1, :m], np.where(fits[i], longest[i + 1, 1:] + 1, 0))
        longest[i, :m] = np.maximum.accumulate(here[::-1])[::-1]
    pairs, i, j = [], 0, 0
    while i < n and j < m:
        if fits[i, j] and longest[i, j] == longest[i + 1, j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1, j] >= longest[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs
