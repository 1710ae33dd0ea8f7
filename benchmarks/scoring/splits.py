"""Which groups are held out: whole groups, by a hash that no one chooses.

A group is what would leak if it were split: an (n, k) pair of a GEMM, the (heads, kv_heads, batch)
of an attention, the (hidden, intermediate, experts, top_k) of a MoE. The hash of its name says
whether it is a final group (two in five) or a development group, for every card and kind alike.

- development: a quarter of the development groups is held out; final groups are not touched at all;
- final, seed s: so many of the final groups are held out that they make a quarter of all groups;
  all other groups are there to learn from.
"""

from __future__ import annotations

import hashlib

import numpy as np

FINAL_SHARE = 0.4
HELD_OUT_SHARE = 0.25
FINAL_SEEDS = (0, 1, 2, 3, 4)
DEVELOPMENT_SEEDS = (0,)


def is_final(group: str) -> bool:
    """Whether ``group`` is scored at the end only."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < FINAL_SHARE


def final_rows(groups: np.ndarray) -> np.ndarray:
    """[n] bool: whether the group of each row is a final one."""
    names, index = np.unique(groups.astype(str), return_inverse=True)
    return np.array([is_final(name) for name in names])[index]


def split(groups: np.ndarray, seed: int, final: bool) -> tuple[np.ndarray, np.ndarray]:
    """(rows to learn from, rows held out), as indices into ``groups`` [n].

    The held-out groups of one seed are drawn without replacement from the final groups, or from the
    development groups, whose final counterparts then belong to neither part.
    """
    names, index = np.unique(groups.astype(str), return_inverse=True)
    eligible = np.array([is_final(name) == final for name in names])
    base = len(names) if final else int(eligible.sum())
    count = min(max(1, round(HELD_OUT_SHARE * base)), int(eligible.sum()))
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(eligible))[:count]
    held_out = np.isin(np.arange(len(names)), drawn)
    known = ~held_out if final else eligible & ~held_out
    return np.flatnonzero(known[index]), np.flatnonzero(held_out[index])
