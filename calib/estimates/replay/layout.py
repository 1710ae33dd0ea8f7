"""The launches of a phase's rows, in order, with what the kernels of each row take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.estimates.fusion import POINTWISE
from calib.estimates.replay.schedule import Classes, Rates, issue, replay_passes
from calib.estimates.sums import WEAK_SHARE, Ends
from calib.samples.host_costs import host_class

if TYPE_CHECKING:
    import pandas as pd

    Columns = Mapping[str, Any] | pd.DataFrame
    """Rows of operators by column, arrays [rows] or a data frame."""


def narrowed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a phase with ends that add up to the ends of their sum (``Ends``).

    What a phase's kernels take together is known better than what each takes; one share for all
    rows, so that a part of a phase is taken to be known about as well as the whole.
    """
    return rows.assign(**narrowed_ends(rows))


def narrowed_ends(rows: Columns) -> dict[str, np.ndarray]:
    """The columns of ``narrowed`` that differ."""
    low, high = Ends(rows).shares()
    seconds, below, above = (
        np.asarray(rows[name], dtype=float) for name in ("estimate_s", "low_s", "high_s")
    )
    return {
        "low_s": seconds - low * (seconds - below),
        "high_s": seconds + high * (above - seconds),
    }


def filled(rows: Columns, column: str) -> np.ndarray:
    """[rows] of a phase, seconds; what is not known is taken at its estimate where it is little."""
    seconds = np.asarray(rows[column], dtype=float)
    estimates = np.asarray(rows["estimate_s"], dtype=float)
    missing = np.isnan(seconds)
    if estimates[missing].sum() <= WEAK_SHARE * estimates.sum():
        seconds = np.where(missing, estimates, seconds)
    return seconds


class Layout:
    """The launches of a phase's rows, in order."""

    def __init__(self, rows: Columns, repeat: int):
        self.rows, self.repeat = rows, repeat
        counts = np.asarray(rows["count"], dtype=int)
        # A wait for something that launches nothing still has its place in the sequence.
        self.each = np.maximum(np.asarray(rows["launches"], dtype=int), 1)
        self.row = np.repeat(np.arange(len(counts)), counts * self.each)
        last = _last_of_each(counts, self.each)
        self.sync = np.asarray(rows["sync"], dtype=bool)[self.row] & last
        kinds = list(zip(rows["kind"], self.each.tolist(), strict=True))
        number = {one: i for i, one in enumerate(dict.fromkeys(kinds))}
        of_row = np.array([number[one] for one in kinds], dtype=int)[self.row]
        self.generated = np.array([kind in POINTWISE for kind, _ in number], dtype=bool)[of_row]
        self.classes = Classes(tuple(host_class(*one) for one in number), of_row)
        self.times = counts * self.each * repeat

    def kernel_s(self, column: str) -> np.ndarray:
        """[launches] seconds of one kernel; NaN where too much of the phase is not known."""
        return np.asarray((filled(self.rows, column) / np.maximum(self.times, 1))[self.row])

    def wall(self, column: str, execution: str, cost: Rates) -> np.ndarray:
        """[rows] wall time of all passes."""
        return self.shares(self.kernel_s(column), execution, cost)

    def shares(self, kernel_s: np.ndarray, execution: str, cost: Rates) -> np.ndarray:
        """[rows] the same for kernels [launches] of given times."""
        launches = issue(kernel_s, self.sync, self.generated, execution, cost, self.classes)
        shares = replay_passes(launches, self.repeat)
        return np.bincount(self.row, weights=shares, minlength=len(self.times))


def _last_of_each(counts: np.ndarray, launches: np.ndarray) -> np.ndarray:
    """[sum of counts * launches] whether a launch is the last of its execution."""
    n = counts * launches
    each, begins = np.repeat(launches, n), np.repeat(np.cumsum(n) - n, n)
    return np.asarray((np.arange(n.sum()) - begins) % each == each - 1)
