"""What the hooks and the profiler saw, as tables of modules and operators."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.reference.operators import Profile


MODULE_COLUMNS = ("phase", "path", "class_name", "calls", "seconds")

OPERATOR_COLUMNS = (
    *("phase", "path", "index", "order", "aten", "kind"),
    *("shapes", "dtypes", "seconds", "nested", "raw"),
)


def module_table(model: Any, timers: Sequence[Any], repeat: Mapping[str, int]) -> pd.DataFrame:
    """One row a phase and path, in the order in which modules first return."""
    import pandas as pd

    classes = {path: type(module).__name__ for path, module in model.named_modules()}
    rows = []
    for phase, path in timers[0].seconds if timers else ():
        passes = repeat[phase]
        seconds = [timer.seconds[phase, path] / passes for timer in timers]
        calls = timers[0].calls[phase, path] // passes
        rows.append((phase, path, classes[path], calls, seconds))
    return pd.DataFrame(rows, columns=list(MODULE_COLUMNS))


def operator_table(
    profiled: Mapping[str, Sequence[Profile]], event_s: float
) -> tuple[pd.DataFrame, list[str]]:
    """One row an operator of a pass, in order; passes whose sequence differs are left out, noted.

    What the profiler adds for events inside an operator is deducted: ``nested * event_s``, but
    never more than half the operator's time, since the smallest times are mostly recording.
    """
    import pandas as pd

    rows, notes = [], []
    for phase, found in profiled.items():
        alike = [p for p in found if _sequence(p) == _sequence(found[0])]
        if len(alike) < len(found):
            notes.append(
                f"{phase}: {len(found) - len(alike)} of {len(found)} profiled passes ran another "
                "sequence of operators and are left out"
            )
        index: dict[str, int] = {}
        for order, events in enumerate(zip(*(p.operators for p in alike), strict=True)):
            event, raw = events[0], [e.seconds for e in events]
            here = index[event.path] = index.get(event.path, -1) + 1
            nested = statistics.median(e.nested for e in events)
            measured = statistics.median(raw)
            seconds = max(measured - nested * event_s, measured / 2)
            middle = events[len(events) // 2]
            where = (phase, event.path, here, order)
            what = (event.aten, event.kind, middle.shapes, middle.dtypes)
            rows.append((*where, *what, seconds, nested, raw))
    return pd.DataFrame(rows, columns=list(OPERATOR_COLUMNS)), notes


def _sequence(profile: Profile) -> list[tuple[str, str]]:
    return [(e.path, e.aten) for e in profile.operators]
