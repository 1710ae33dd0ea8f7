"""The table *what if*: cases beside the run itself, each in times, memory and how it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib.estimates.alternatives import outcomes
from calib.steps.alternatives.cases import Run, rows_of
from calib.steps.alternatives.limit import limit_row

if TYPE_CHECKING:
    import pandas as pd


def alternatives(run: Run) -> pd.DataFrame:
    """One row a case, the run as it was asked first; the batch within a limit last, where one was
    asked for.

    group (asked, execution, batch, weights, norms, layout, card, limit), name, batch, needed_bytes,
    memory_bytes, fits, and what ``calib.estimates.alternatives.outcomes`` says of it. Times are
    null where it does not fit, or where no time is known: ``why`` says why.
    """
    import pandas as pd

    rows, limit_s = list(rows_of(run)), run.request.limit.tpot
    if limit_s is not None:
        rows.append(limit_row(run, limit_s))
    timed = [row for row in rows if row.case is not None and row.fits]
    found = outcomes([row.case for row in timed if row.case], run.request.implementation)
    known = dict(zip(map(id, timed), found, strict=True))
    columns = ("group", "name", "needed_bytes", "memory_bytes", "fits", "why")
    return pd.DataFrame(
        [
            {name: getattr(row, name) for name in columns}
            | {"batch": row.case.workload.batch if row.case else run.request.workload.batch}
            | known.get(id(row), {})
            for row in rows
        ]
    )
