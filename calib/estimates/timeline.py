"""Wall time of rows of operators, of a phase, and of each launch: what the replay says of them
(:mod:`calib.estimates.replay`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calib.estimates.replay.first_time import DECODE, Extra
from calib.estimates.replay.layout import Layout, filled, narrowed
from calib.estimates.replay.schedule import issue, rates, replay
from calib.estimates.sums import JOULES, WALL, WALL_OF, Sums
from calib.samples.host_costs import GRAPH, HostCosts

if TYPE_CHECKING:
    import pandas as pd


_ENDS = {"estimate_s": "estimate_s", "low_s": "low_s", "high_s": "high_s"}
"""Column of the kernels' time -> the end of the host costs that is replayed with it."""


def with_wall(
    operators: pd.DataFrame,
    repeats: Mapping[str, int],
    costs: HostCosts | None,
    execution: str,
    module_code_s: float = 0.0,
) -> pd.DataFrame:
    """``operators`` with the columns ``calib.estimates.sums.WALL``. ``repeats``: passes of each
    phase.

    ``costs`` None: a CPU, which computes itself what it issues. Wall time is the operators' time,
    and ``module_code_s`` [s] beside each launch for the Python around it.
    An end of the interval is null where kernels without one are over a twentieth of the time;
    below that they are taken at their estimate.
    """
    table = operators.copy()
    if costs is None:
        passes = table["phase"].map(dict(repeats))
        code_s = module_code_s * table["launches"] * table["count"] * passes
        for _, rows in table.groupby("phase", sort=False):
            for kernels, column in WALL_OF.items():
                seconds = filled(narrowed(rows), kernels)
                table.loc[rows.index, column] = seconds + code_s[rows.index]
        return table.assign(graph_s=float("nan"), idle_s=code_s, issue_s=code_s)
    parts = [
        _phase_columns(rows, int(repeats[str(phase)]), costs, execution)
        for phase, rows in operators.groupby("phase", sort=False)
    ]
    for column in WALL:
        table[column] = np.concatenate([part[column] for part in parts])
    return table


def _phase_columns(
    rows: pd.DataFrame, repeat: int, costs: HostCosts, execution: str
) -> dict[str, np.ndarray]:
    """[rows] each of ``WALL``."""
    rows = narrowed(rows)
    lay = Layout(rows, repeat)
    found = {
        column: lay.wall(kernels, execution, rates(costs, _ENDS.get(kernels, "estimate_s")))
        for kernels, column in WALL_OF.items()
    }
    graph = found["wall_s"]
    if execution != GRAPH:
        graph = lay.wall("estimate_s", GRAPH, rates(costs))
    idle = np.maximum(found["wall_s"] - rows["estimate_s"].to_numpy(dtype=float), 0.0)
    issue_s = lay.shares(np.zeros(len(lay.row)), execution, rates(costs))
    return {**found, "graph_s": graph, "idle_s": idle, "issue_s": issue_s}


def timeline_table(
    operators: pd.DataFrame, repeats: Mapping[str, int], extra: Extra | None = None
) -> pd.DataFrame:
    """One row a phase, seconds of one pass: what bounds it and what a graph would take.

    phase, passes, launches (of a pass), wall_s, low_s, high_s, kernel_s, idle_s, graph_s,
    joules with both ends, limited_by; and new_length_s with both ends, the wall time of a decode
    step over a length that its process meets for the first time, ``extra`` in it: null where that
    takes nothing more.
    """
    import pandas as pd

    sums, rows = Sums(operators), []
    for phase in operators["phase"].unique():
        own = (operators["phase"] == phase).to_numpy()
        found, passes = sums.over(own), int(repeats[phase])
        seconds = {
            "wall_s": found["wall_s"],
            "low_s": found["wall_low_s"],
            "high_s": found["wall_high_s"],
            "kernel_s": found["estimate_s"],
            "idle_s": found["idle_s"],
            "graph_s": found["graph_s"],
            **{name: found[name] for name in JOULES},
        }
        rows.append(
            {
                "phase": phase,
                "passes": passes,
                "launches": int((operators["launches"] * operators["count"])[own].sum()),
                **{name: value / passes for name, value in seconds.items()},
                **over_new_length(seconds, passes, extra if phase == DECODE else None),
                "limited_by": found["limited_by"],
            }
        )
    return pd.DataFrame(rows)


def over_new_length(
    seconds: Mapping[str, float], passes: int, extra: Extra | None
) -> dict[str, float]:
    """``seconds``: wall time of all passes, with both ends."""
    ends = {"wall_s": "estimate_s", "low_s": "low_s", "high_s": "high_s"}
    names = ("new_length_s", "new_length_low_s", "new_length_high_s")
    if extra is None or not extra.estimate_s:
        return dict.fromkeys(names, float("nan"))
    found = (seconds[wall] / passes + getattr(extra, end) for wall, end in ends.items())
    return dict(zip(names, found, strict=True))


def launch_table(
    operators: pd.DataFrame, repeats: Mapping[str, int], costs: HostCosts | None, execution: str
) -> pd.DataFrame:
    """One row a launch of one pass of each phase, which begins idle; seconds since it began.

    phase, path, kind, shape, bound, issue_s and issued_s (host), wait_s (until when the host then
    waits), start_s and end_s (device). Without ``costs`` the host computes: both stand for the same
    time. ``repeats``: passes of each phase.
    """
    import pandas as pd

    parts = [
        _launches(rows, repeats[str(phase)], costs, execution)
        for phase, rows in operators.groupby("phase", sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def _launches(
    rows: pd.DataFrame, repeat: int, costs: HostCosts | None, execution: str
) -> pd.DataFrame:
    """Of one phase."""
    lay = Layout(rows, repeat)
    names = ["phase", "path", "kind", "shape", "bound"]
    what = rows[names].iloc[lay.row].reset_index(drop=True)
    if costs is None:
        end = np.cumsum((rows["wall_s"].to_numpy(dtype=float) / lay.times)[lay.row])
        start = np.concatenate([[0.0], end[:-1]])
        times = {"issue_s": start, "issued_s": end, "wait_s": end, "start_s": start, "end_s": end}
        return what.assign(**times)
    kernel_s, cost = lay.kernel_s("estimate_s"), rates(costs)
    launches = issue(kernel_s, lay.sync, lay.generated, execution, cost, lay.classes)
    done = replay(launches)
    waited = np.maximum(done.enqueued, done.end) + launches.sync_s
    return what.assign(
        issue_s=done.enqueued - launches.host_s,
        issued_s=done.enqueued,
        wait_s=np.where(launches.sync_s > 0, waited, done.enqueued),
        start_s=done.start,
        end_s=done.end,
    )
