"""Totals over rows of operators: modules, components, and the figures that a user asks for.

Errors of operators hang together, but not wholly, so that the interval of a sum is narrower than
the sum of the intervals. With d the distance of an operator's end from its estimate, in seconds,
times its count, one and the same shape errs as one; over the shapes i of a kind, and the kinds k,

    D_k^2 = (sum sqrt(w_i) d_i)^2 + sum (1 - w_i) d_i^2
    D^2   = (sum sqrt(b_k) D_k)^2 + sum (1 - b_k) D_k^2

which is the sum of the intervals where all w and b are 1. Both are greater of what was carried from
another card or kernel; b of a kind is the mean over its d. Low and high ends go apart, by the same
formula.
A sum's provenance is the weakest that carries over a twentieth of its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.fit.calibration import ROOFLINE, TRANSFERRED, WEAKEST_FIRST
from model.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

    from calib.estimates.replay.first_time import Extra


WEAK_SHARE = 0.05

SUMMED = ["flops", "bytes", "roofline_s", "estimate_s", "low_s", "high_s", "estimate_unseen_s"]

WALL = ["wall_s", "wall_low_s", "wall_high_s", "wall_unseen_s", "graph_s", "idle_s", "issue_s"]
"""Of a row of operators, all passes: its part of the wall time with both ends of the interval, by a
fit that never saw the model's shapes, as a CUDA graph, the idle time of the device in it, and what
issuing the work would take were every kernel instant.
Until ``calib.estimates.timeline`` replays them they are the kernels' own. A sum over rows is the
wall time of what they belong to, while a sum of ``estimate_s`` is the time of its kernels."""

JOULES = ["joules", "joules_low", "joules_high"]
"""Of a row of operators, all passes, the idle card's in its part of the wall time among them; null
where nothing was counted on the card (:mod:`calib.estimates.energy.joules`). Ends add up."""

WALL_OF = {
    "estimate_s": "wall_s",
    "low_s": "wall_low_s",
    "high_s": "wall_high_s",
    "estimate_unseen_s": "wall_unseen_s",
}
"""The column of the kernels' time -> that of the wall time."""

LIMITS = ("host", "compute", "memory", "link")

DENOISE = "denoise"
"""The phase of a diffusion model, a pass a step."""

UNKNOWN = "unknown"
"""The provenance of a time on a device without peaks, and what its operators are bound by."""


SAMPLED, CARRIED = (0.2, 0.05), (0.5, 0.1)
"""w and b: correlation of the errors of two shapes of a kind, and of two kinds, in one model. Where
the card itself was sampled, somewhat more than an H200's recorded phases show when each model is
told by its rows alone (``python -m benchmarks.recorded --intervals --rows``); else as they showed
while what ships knew of torch by another engine's tables."""


def distance_of_sum(
    distances: np.ndarray, shapes: np.ndarray, kinds: np.ndarray, known: Any = SAMPLED
) -> float:
    """D of the formula. ``distances`` [n] d of rows; ``shapes`` [n], ``kinds`` [n]: numbers of what
    each row is; a shape is of one kind. ``known``: w and b, two numbers or [2, n]."""
    if len(distances) < 2:
        return float(distances.sum())
    each = np.bincount(shapes, weights=distances)  # by number of the shape; nothing of others
    of = np.zeros(len(each), dtype=int)
    of[shapes] = kinds
    within, between = np.broadcast_to(
        np.asarray(known, dtype=float).reshape(2, -1), (2, len(shapes))
    )
    w = _mean(within, distances, shapes)
    whole = np.bincount(of, weights=np.sqrt(w) * each)
    squares = np.bincount(of, weights=(1 - w) * each**2)
    of_kinds = np.sqrt(whole**2 + squares)
    b = _mean(between, distances, kinds)
    return float(np.sqrt((np.sqrt(b) * of_kinds).sum() ** 2 + ((1 - b) * of_kinds**2).sum()))


def _mean(values: np.ndarray, distances: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The mean of ``values`` at each place, by how far its ends lie."""
    far = np.abs(distances)
    sums = np.bincount(places, weights=far)
    return np.bincount(places, weights=values * far) / np.where(sums > 0, sums, 1.0)


class Ends:
    """The ends of sums over any choice of operator rows."""

    def __init__(self, operators: Mapping[str, Any] | pd.DataFrame):
        estimate = np.asarray(operators["estimate_s"], dtype=float)
        self.low = estimate - np.asarray(operators["low_s"], dtype=float)
        self.high = np.asarray(operators["high_s"], dtype=float) - estimate
        self.kinds = _numbers(operators["kind"])
        dtypes, shapes = _numbers(operators["dtype"]), _numbers(operators["shape"])
        # One number for each (kind, dtype, shape): positions in a box of all that could be.
        box = (self.kinds.max(initial=0) + 1, dtypes.max(initial=0) + 1, shapes.max(initial=0) + 1)
        place = np.ravel_multi_index((self.kinds, dtypes, shapes), box)
        self.shapes = np.unique(place, return_inverse=True)[1]
        carried = np.isin(np.asarray(operators["provenance"]), (ROOFLINE, TRANSFERRED))
        self.known = np.where(carried, np.array([CARRIED]).T, np.array([SAMPLED]).T)

    def distances(self, rows: Any, known: tuple[float, float] | None = None) -> tuple[float, float]:
        """How far below and above the sum of the estimates its ends lie; NaN where one is.
        ``known``: w and b of all rows, in place of those of how each is known."""
        what = (self.shapes[rows], self.kinds[rows], known or self.known[:, rows])
        return (distance_of_sum(self.low[rows], *what), distance_of_sum(self.high[rows], *what))

    def shares(self) -> tuple[float, float]:
        """Of all rows, D of either end over the plain sum of d; what is not known left out."""
        what = (self.shapes, self.kinds, self.known)
        found = []
        for side in (self.low, self.high):
            known = np.nan_to_num(side)
            whole = float(known.sum())
            found.append(distance_of_sum(known, *what) / whole if whole > 0 else 1.0)
        return found[0], found[1]


def _numbers(names: pd.Series | np.ndarray) -> np.ndarray:
    """Names by numbers; what is numbered already stays."""
    return names if isinstance(names, np.ndarray) else names.factorize()[0]


class Sums:
    """Totals over any choice of operator rows, null where a part is, and how the sum is known.

    ``limited_by``: the host (or the nodes of a graph) where issuing alone would take longer than
    the kernels do by themselves, so that faster kernels gain nothing; else what most kernel time
    is bound by, compute, memory or the link to other cards. ``at_least``: a part is of an
    operator that no rule knows.
    """

    def __init__(self, operators: pd.DataFrame):
        self.columns = [*SUMMED, *WALL, *JOULES]
        older = dict.fromkeys((n for n in JOULES if n not in operators), float("nan"))
        self.values = operators.assign(**older)[self.columns].to_numpy(
            dtype=float
        )  # [rows, columns]
        self.ends = Ends(operators)
        self.unknown = operators["unknown"].to_numpy(dtype=bool)
        computes = (operators["bound"] == "compute").to_numpy()
        seconds = operators["estimate_s"].to_numpy(dtype=float)
        known = operators["provenance"].to_numpy()
        self.by_provenance = np.stack([(known == name) * seconds for name in WEAKEST_FIRST], axis=1)
        issue = operators["issue_s"].to_numpy(dtype=float)
        told = (operators["bound"] == "link").to_numpy()
        parts = (seconds * computes, seconds * ~(computes | told), seconds * told)
        self.by_limit = np.stack([issue, *parts], axis=1)

    def over(self, rows: Any) -> dict[str, Any]:
        totals: dict[str, Any] = dict(
            zip(self.columns, self.values[rows].sum(axis=0).tolist(), strict=True)
        )
        totals["at_least"] = bool(self.unknown[rows].any())
        carried = self.by_provenance[rows].sum(axis=0)
        if np.isnan(totals["estimate_s"]):
            return {**totals, "provenance": UNKNOWN, "limited_by": None}
        low, high = self.ends.distances(rows)
        totals["low_s"] = totals["estimate_s"] - low
        totals["high_s"] = totals["estimate_s"] + high
        issue, *kernels = self.by_limit[rows].sum(axis=0)
        limit = 0 if issue > sum(kernels) else 1 + int(np.argmax(kernels))
        weakest = np.flatnonzero(carried > WEAK_SHARE * max(carried.sum(), 1e-30))
        return {
            **totals,
            "provenance": WEAKEST_FIRST[weakest[0]] if len(weakest) else ROOFLINE,
            "limited_by": LIMITS[limit],
        }


COMPONENTS = {
    "SAM": ("vision", "model.vision_tower.sam_encoder"),
    "CLIP": ("vision", "model.vision_tower.vision_encoder"),
}
"""Parts of a phase that the summary shows by name; what is left of a phase goes by the phase's."""


def component_names(operators: pd.DataFrame) -> pd.Series:
    """[rows] the component of each operator row."""
    names = operators["phase"]
    for name, (phase, path) in COMPONENTS.items():
        inside = (operators["path"] == path) | operators["path"].str.startswith(path + ".")
        names = names.mask((operators["phase"] == phase) & inside, name)
    divided = operators["phase"][names != operators["phase"]].unique()
    return names.mask(names.isin(divided), names + " (rest)")


def most_bound(parts: list[dict[str, Any]]) -> str | None:
    """What bounds the parts that take most of the wall time: a sum is bound by nothing else."""
    seconds: dict[str, float] = {}
    for part in parts:
        if part["limited_by"] is not None:
            before = seconds.get(part["limited_by"], 0.0)
            seconds[part["limited_by"]] = before + part["wall_s"]
    return max(seconds, key=lambda limit: seconds[limit], default=None)


def component_table(operators: pd.DataFrame) -> pd.DataFrame:
    """One row a component in order of execution, then the total.

    Estimate and interval are wall times; ``kernel_s`` is the time of the kernels alone.
    """
    import pandas as pd

    sums, names = Sums(operators), component_names(operators).to_numpy()
    rows = [{"component": n, **sums.over(names == n)} for n in dict.fromkeys(names)]
    rows.append({"component": "total", **sums.over(slice(None)), "limited_by": most_bound(rows)})
    unknown = dict.fromkeys(("measured_s", "error", "error_unseen", "roofline_error"), float("nan"))
    table = pd.DataFrame(rows).assign(**unknown)
    table["kernel_s"] = table["estimate_s"]
    for of_kernels, of_wall in WALL_OF.items():
        table[of_kernels] = table.pop(of_wall)
    return table


def known_by(operators: pd.DataFrame) -> str:
    """ "norm, copy transferred; matmul interpolated 97%, transferred 3%": by share of the time."""
    seconds = operators["estimate_s"].groupby(operators["kind"]).sum()
    kinds: dict[str, list[str]] = {}
    for kind in seconds.sort_values(ascending=False).index:
        rows = operators[operators["kind"] == kind]
        parts = rows["estimate_s"].groupby(rows["provenance"]).sum().sort_values(ascending=False)
        shares = [
            f"{name} {part / seconds[kind]:.0%}"
            for name, part in parts.items()
            if part >= 0.005 * seconds[kind] > 0
        ]
        how = str(parts.index[0]) if len(shares) < 2 else ", ".join(shares)
        kinds.setdefault(how, []).append(str(kind))
    if len(kinds) == 1:
        return f"all {next(iter(kinds))}"
    return "; ".join(f"{', '.join(names)} {how}" for how, names in kinds.items())


def figure_table(
    components: pd.DataFrame,
    workload: Workload,
    sees: bool = True,
    cards: int = 1,
    extra: Extra | None = None,
) -> pd.DataFrame:
    """What a user asks: time to first token and per output token, or of a pass; and the rate.

    ``sees``: whether the model looks at the workload's image. ``cards``: that share the model; of
    several, tokens a second are said of each. ``extra``: what a token takes longer where its length
    is new to the process; a figure of its own, where it is anything.
    """
    import pandas as pd

    first = components[~components["component"].isin(["decode", "total"])]
    decode = components[components["component"] == "decode"]
    total = components[components["component"] == "total"]
    columns = {"roofline": "roofline_s", "estimate": "estimate_s"}
    columns |= {"low": "low_s", "high": "high_s", "measured": "measured_s"}

    def sums(rows: pd.DataFrame, scale: float = 1.0) -> dict[str, float]:
        return {n: float(rows[c].sum(skipna=False)) * scale for n, c in columns.items()}

    rates = {n: workload.batch / s for n, s in sums(total).items()}
    rates["low"], rates["high"] = rates["high"], rates["low"]
    if decode.empty:
        stepped = (components["component"] == DENOISE).any() and workload.decode_steps > 1
        name = "time of all steps" if stepped else "time of a pass"
        times = [{"name": name, "unit": "s", **sums(total)}]
        what = "images" if sees else "requests"
    else:
        times = [
            {"name": "time to first token", "unit": "s", **sums(first)},
            {
                "name": "time per output token",
                "unit": "s",
                **sums(decode, 1 / workload.decode_steps),
            },
        ]
        times += of_new_length(times[-1], extra)
        what = "pages" if sees else "requests"
    each = []
    if cards > 1 and not decode.empty:
        steps = sums(decode, 1 / workload.decode_steps)
        tokens = {n: workload.batch / s / cards for n, s in steps.items()}
        tokens["low"], tokens["high"] = tokens["high"], tokens["low"]
        each = [{"name": "tokens per second per card", "unit": "1/s", **tokens}]
    return pd.DataFrame([*times, *each, {"name": f"{what} per second", "unit": "1/s", **rates}])


def of_new_length(token: dict[str, Any], extra: Extra | None) -> list[dict[str, Any]]:
    """The figure of a ``token`` of a length that was seen, for one of a length that is new."""
    if extra is None or not extra.estimate_s:
        return []
    ends = {"estimate": extra.estimate_s, "low": extra.low_s, "high": extra.high_s}
    longer = {name: token[name] + seconds for name, seconds in ends.items()}
    name = "time per token of a new length"
    return [{**token, "name": name, "measured": float("nan"), **longer}]
