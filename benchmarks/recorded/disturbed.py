"""Kernels that the profiler's first session of a process disturbed, told by their equals.

In the first session the driver sets up what it records into while the pass runs: single kernels of
3 microseconds are recorded as 100. A pass of many equal layers shows them: the same call of the
same layer elsewhere. Where one takes several times the median of its equals and by far more than
they differ otherwise, every call of that pass is taken at the median of its equals. Since then
``calib.measure.reference.operators.profile_pass`` throws a card's first session away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

EQUALS = 8
"""Calls that are equal; of fewer nothing is told."""
TIMES, BEYOND_S = 3.0, 50e-6
"""A mixture's first layers take up to 2.7 times the median: random weights ask for more experts."""


def undisturbed(operators: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """``operators`` (path, aten, shapes, seconds), and whether any of them was disturbed."""
    layers = operators["path"].str.replace(r"\.\d+(?=\.|$)", ".N", regex=True)
    equal = layers + operators["aten"] + operators["shapes"].astype(str)
    place = operators.groupby([operators["path"], equal]).cumcount()
    seconds = operators.groupby([equal, place])["seconds"]
    median, known = seconds.transform("median"), seconds.transform("count") >= EQUALS
    own = operators["seconds"]
    far = known & (own > TIMES * median) & (own > median + BEYOND_S)
    if not far.any():
        return operators, False
    return operators.assign(seconds=own.where(~known, median)), True
