"""The longest common subsequence, against the definition."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calib.compare.clock.align import MOST_CELLS, align

WORDS = st.lists(st.sampled_from("abc"), max_size=9)


def longest(a: list[str], b: list[str]) -> int:
    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return max(of(i + 1, j), of(i, j + 1), of(i + 1, j + 1) + 1 if a[i] == b[j] else 0)

    return of(0, 0)


@given(a=WORDS, b=WORDS)
def test_pairs_ascend_fit_and_are_as_many_as_can_be(a: list[str], b: list[str]) -> None:
    fits = np.array([[x == y for y in b] for x in a], dtype=bool).reshape(len(a), len(b))
    pairs = align(fits)
    assert len(pairs) == longest(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))


def test_what_is_far_too_long_is_left_alone() -> None:
    side = int(MOST_CELLS**0.5) + 1
    assert align(np.broadcast_to(np.bool_(True), (side, side))) == []
