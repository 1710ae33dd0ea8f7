"""Two sequences of one execution, brought together: the operators of a path or a phase that were
measured, and the launches that were estimated; modules of a trace, and ours.

What does not run in step is aligned: the longest common subsequence, by a matrix of what fits what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 40_000_000
"""Beyond it nothing is aligned: what is so unlike in length is of something else."""


@dataclass(frozen=True)
class Slot:
    """A place for one measured operator: a launch of a row of estimates. ``kind`` None: any."""

    row: Any
    kind: str | None


@dataclass(frozen=True)
class Match:
    """Position of a measured operator within its path, and the row it went to."""

    position: int
    row: Any
    kind_differs: bool


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


def slots_of(rows: pd.DataFrame) -> list[Slot]:
    return [slot for slots in row_slots(rows) for slot in slots]


def row_slots(rows: pd.DataFrame) -> list[list[Slot]]:
    """By row, a slot for each launch of one pass; of a call of several launches they are of any
    kind."""
    columns = (rows.index, rows["kind"], rows["count"], rows["launches"])
    return [
        [Slot(row, kind if launches == 1 else None)] * int(count * launches)
        for row, kind, count, launches in zip(*columns, strict=True)
    ]


def match(slots: Sequence[Slot], kinds: Sequence[str]) -> list[Match]:
    """Operators matched to slots, only those of rows whose slots are all filled."""
    by_order = [(i, i) for i in range(len(kinds))]
    pairs = by_order if len(slots) == len(kinds) else align_kinds(slots, kinds)
    return of_whole_rows(slots, kinds, pairs)


def of_whole_rows(
    slots: Sequence[Slot], kinds: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> list[Match]:
    wanted = Counter(slot.row for slot in slots)
    filled = Counter(slots[i].row for i, _ in pairs)
    return [
        Match(position, slots[i].row, slots[i].kind not in (None, kinds[position]))
        for i, position in pairs
        if filled[slots[i].row] == wanted[slots[i].row]
    ]


def align_kinds(slots: Sequence[Slot], kinds: Sequence[str]) -> list[tuple[int, int]]:
    """The longest common subsequence of slots and operators by kind, as pairs of indices."""
    number = {kind: i for i, kind in enumerate(sorted(set(kinds)))}
    theirs = np.array([number[kind] for kind in kinds], dtype=int)
    ours = np.array([number.get(slot.kind or "", -1) for slot in slots], dtype=int)
    of_any = np.array([slot.kind is None for slot in slots], dtype=bool)
    return align((ours[:, None] == theirs) | of_any[:, None])
