"""The table *what if*: cases beside the run itself, each in times, memory and how it is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calib.estimates.alternatives import outcomes
from calib.steps.alternatives.asked import Asked
from calib.steps.alternatives.cases import Row, Run, rows_of
from calib.steps.alternatives.limit import limit_row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class WhatIf:
    """The cases of a run before any is timed, and what their calibration says of all of them."""

    run: Run
    rows: list[Row]
    asked: Asked


def what_if(run: Run) -> WhatIf:
    """The run's own cases, with its estimator asked for all of them at once."""
    asked = Asked(run.estimator, run.request.implementation)
    run = replace(run, estimator=asked)
    rows = list(rows_of(run))
    cases = [row.case for row in rows if row.case is not None and row.case.estimator is asked]
    asked.ask(c.op for case in cases for calls in case.calls.values() for c in calls)
    return WhatIf(run, rows, asked)


def alternatives(found: WhatIf) -> pd.DataFrame:
    """One row a case, the run as it was asked first; the batch within a limit last, where one was
    asked for.

    group (asked, execution, batch, weights, norms, layout, card, limit), name, batch, needed_bytes,
    memory_bytes, fits, and what ``calib.estimates.alternatives.outcomes`` says of it. Times are
    null where it does not fit, or where no time is known: ``why`` says why.
    """
    import pandas as pd

    run, rows = found.run, list(found.rows)
    limit_s = run.request.limit.tpot
    if limit_s is not None:
        rows.append(limit_row(run, limit_s))
    timed = [row for row in rows if row.case is not None and row.fits]
    outcome = outcomes([row.case for row in timed if row.case], run.request.implementation)
    known = dict(zip(map(id, timed), outcome, strict=True))
    columns = ("group", "name", "needed_bytes", "memory_bytes", "fits", "why")
    return pd.DataFrame(
        [
            {name: getattr(row, name) for name in columns}
            | {"batch": row.case.workload.batch if row.case else run.request.workload.batch}
            | known.get(id(row), {})
            for row in rows
        ]
    )
