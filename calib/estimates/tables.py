"""Calls and a calibration in, tables out: one row a call, one a module, one a component.

FLOPs, bytes and seconds of a row are totals: times the call's count and the passes of its phase, so
that sums over rows are sums over the workload; ``count`` itself is that of one pass and
``launches`` that of one execution. Low and high are summed too, which is conservative: it takes
all operators to err the same way. A sum's provenance is the weakest that carries over a twentieth
of its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from calib.fit.calibration import ROOFLINE, WEAKEST_FIRST, dtype_of
from calib.hardware.datasheet import Hardware, arithmetic_intensity, bound
from model.layer import Call, Layer, Node
from model.ops import GroupedMatmul, MoeMlp, Operator
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import pandas as pd

WEAK_SHARE = 0.05
SUMMED = ["flops", "bytes", "roofline_s", "estimate_s", "low_s", "high_s", "estimate_unseen_s"]
WALL = ["wall_s", "wall_low_s", "wall_high_s", "wall_unseen_s", "graph_s", "idle_s", "issue_s"]
"""Of a row of operators, all passes: its part of the wall time with both ends of the interval, by a
fit that never saw the model's shapes, as a CUDA graph, the idle time of the device in it, and what
issuing the work would take were every kernel instant.
Until ``calib.estimates.timeline`` replays them they are the kernels' own. A sum over rows is the
wall time of what they belong to, while a sum of ``estimate_s`` is the time of its kernels."""
WALL_OF = {
    "estimate_s": "wall_s",
    "low_s": "wall_low_s",
    "high_s": "wall_high_s",
    "estimate_unseen_s": "wall_unseen_s",
}
"""The column of the kernels' time -> that of the wall time."""
LIMITS = ("host", "compute", "memory")


class Estimator(Protocol):
    """What a table needs of a calibration, be it fitted here, shipped, or in layers."""

    @property
    def hardware(self) -> Hardware: ...

    @property
    def held_out(self) -> pd.DataFrame: ...

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = ...,
        hot: Sequence[bool] | np.ndarray | bool | None = ...,
    ) -> pd.DataFrame: ...


def found_in_cache(op: Operator, hardware: Hardware) -> bool:
    """Whether a model finds the operator's inputs in the last cache.

    Weights come from main memory at every pass; activations were just written and stay while the
    operator's working set fills no more than half of the cache.
    """
    has_weights = op.weight_bytes_read > op.bytes / 10 or isinstance(op, GroupedMatmul | MoeMlp)
    return not has_weights and bool(op.bytes <= hardware.l2_bytes / 2)


def operator_table(
    phases: Mapping[str, Phase],
    calibration: Estimator,
    unseen: Estimator | None,
    implementation: str,
    names: Mapping[str, str],
    rewritten: Mapping[str, Sequence[Call]] | None = None,
) -> pd.DataFrame:
    """One row a call. ``unseen``: a calibration without the model's own shapes, for its error.

    ``names``: constant columns (model, workload).
    ``rewritten``: by phase, the calls that a compiler makes of a pass, in place of its own.
    """
    import pandas as pd

    hardware, made = calibration.hardware, rewritten or {}
    calls = [
        (phase, p.repeat, c)
        for phase, p in phases.items()
        for c in made.get(phase) or p.layer.calls()
    ]
    different = list(dict.fromkeys(c.op for _, _, c in calls))
    hot = [found_in_cache(op, hardware) for op in different]
    row = {op: i for i, op in enumerate(different)}
    index = [row[c.op] for _, _, c in calls]
    seconds = seconds_of(calibration, different, implementation, hot).iloc[index]
    known = [_columns(op, hardware) for op in different]
    table = pd.DataFrame(
        [
            _row(phase, repeat, c, known[i])
            for i, (phase, repeat, c) in zip(index, calls, strict=True)
        ]
    )
    times = table.pop("times").to_numpy()
    for target in ("estimate_s", "low_s", "high_s"):
        table[target] = seconds[target].to_numpy() * times
    table["roofline_s"] = seconds["floor_s"].to_numpy() * times
    table["efficiency"] = table["roofline_s"] / table["estimate_s"].where(table["estimate_s"] > 0)
    table["provenance"] = seconds["provenance"].to_numpy()
    table["estimate_unseen_s"] = float("nan")
    if unseen is not None:
        blind = unseen.estimate(different, implementation, hot).iloc[index]
        table["estimate_unseen_s"] = blind["estimate_s"].to_numpy() * times
    table["triton_s"] = triton_seconds(calibration, different, hot)[index] * times
    for of_kernels, of_wall in WALL_OF.items():
        table[of_wall] = table[of_kernels]
    empty = {"measured_s": float("nan"), "error": float("nan"), "error_unseen": float("nan")}
    empty |= {"graph_s": float("nan"), "idle_s": 0.0, "issue_s": 0.0}
    fixed = {"hardware": hardware.name, "implementation": implementation, **names}
    return table.assign(**empty, **fixed)[OPERATOR_COLUMNS]


def triton_seconds(
    calibration: Estimator, ops: Sequence[Operator], hot: Sequence[bool]
) -> np.ndarray:
    """[ops] seconds by our Triton kernels; null for kinds that the card has no samples of them."""
    nothing = np.full(len(ops), np.nan)
    if not (calibration.held_out["implementation"] == TRITON).any():
        return nothing
    table = calibration.estimate(ops, TRITON, hot)
    known = (table["provenance"] != ROOFLINE).to_numpy()
    return np.where(known, table["estimate_s"].to_numpy(), nothing)


TRITON = "triton"
UNKNOWN = "unknown"
"""The provenance of a time on a device without peaks, and what its operators are bound by."""


def seconds_of(
    calibration: Estimator, ops: list[Operator], implementation: str, hot: list[bool]
) -> pd.DataFrame:
    """What ``Calibration.estimate`` says, or nulls for a device whose peaks nobody knows."""
    import pandas as pd

    if not calibration.hardware.unprobed:
        return calibration.estimate(ops, implementation, hot)
    names = ("floor_s", "estimate_s", "low_s", "high_s")
    unknown = {**dict.fromkeys(names, float("nan")), "provenance": UNKNOWN}
    return pd.DataFrame(unknown, index=range(len(ops)))


OPERATOR_COLUMNS = [
    *("phase", "path", "kind", "shape", "dtype", "count", "launches", "sync", "flops", "bytes"),
    *("arithmetic_intensity", "bound", "roofline_s", "efficiency", "estimate_s", "low_s"),
    *("high_s", "provenance", "estimate_unseen_s", "triton_s", "measured_s", "error"),
    *("error_unseen", *WALL),
    *("hardware", "implementation", "model", "workload"),
]


def _columns(op: Operator, hardware: Hardware) -> dict[str, Any]:
    """What a row says of its operator alone, of one execution."""
    return {
        "kind": op.operator,
        "shape": describe(op),
        "dtype": dtype_of(op),
        "flops": float(op.flops),
        "bytes": float(op.bytes),
        "arithmetic_intensity": arithmetic_intensity(op),
        "bound": UNKNOWN if hardware.unprobed else bound(op, hardware),
    }


def _row(phase: str, repeat: int, call: Call, columns: dict[str, Any]) -> dict[str, Any]:
    times = call.count * repeat
    return {
        **columns,
        "phase": phase,
        "path": call.path,
        "count": call.count,
        "launches": call.launches,
        "sync": call.sync,
        "flops": columns["flops"] * times,
        "bytes": columns["bytes"] * times,
        "times": times,
    }


def describe(op: Operator) -> str:
    """ "m=73 n=2304 k=768 bias": dimensions other than 1, flags that are set, labels."""
    words = []
    for name, value in vars(op).items():
        if isinstance(value, bool):
            words += [name] if value else []
        elif isinstance(value, str) and name not in ("dtype", "weight_dtype"):
            words.append(value)
        elif isinstance(value, int | float) and value not in (0, 1):
            words.append(f"{name}={value:g}")
    return " ".join(words)


class Sums:
    """Totals over any choice of operator rows, null where a part is, and how the sum is known.

    ``limited_by``: the host (or the nodes of a graph) where issuing alone would take longer than
    the kernels do by themselves, so that faster kernels gain nothing; else what most kernel time
    is bound by, compute or memory.
    """

    def __init__(self, operators: pd.DataFrame):
        self.columns = [*SUMMED, *WALL]
        self.values = operators[self.columns].to_numpy(dtype=float)  # [rows, columns]
        computes = (operators["bound"] == "compute").to_numpy()
        seconds = operators["estimate_s"].to_numpy(dtype=float)
        known = operators["provenance"].to_numpy()
        self.by_provenance = np.stack([(known == name) * seconds for name in WEAKEST_FIRST], axis=1)
        issue = operators["issue_s"].to_numpy(dtype=float)
        self.by_limit = np.stack([issue, seconds * computes, seconds * ~computes], axis=1)

    def over(self, rows: Any) -> dict[str, Any]:
        totals = dict(zip(self.columns, self.values[rows].sum(axis=0).tolist(), strict=True))
        carried = self.by_provenance[rows].sum(axis=0)
        if np.isnan(totals["estimate_s"]):
            return {**totals, "provenance": UNKNOWN, "limited_by": None}
        issue, *kernels = self.by_limit[rows].sum(axis=0)
        limit = 0 if issue > sum(kernels) else 1 + int(np.argmax(kernels))
        weakest = np.flatnonzero(carried > WEAK_SHARE * max(carried.sum(), 1e-30))
        return {
            **totals,
            "provenance": WEAKEST_FIRST[weakest[0]] if len(weakest) else ROOFLINE,
            "limited_by": LIMITS[limit],
        }


def module_table(phases: Mapping[str, Phase], operators: pd.DataFrame) -> pd.DataFrame:
    """One row a module and phase, in order of execution: inclusive sums over the module's calls.

    ``calls``: how often the module runs in the workload; memory is that of one run, the largest.
    """
    import pandas as pd

    total, sums, rows = operators["estimate_s"].sum(skipna=False), Sums(operators), []
    known: dict[tuple[Layer, ...], dict[str, float]] = {}  # equal layers hold the same
    for phase, passes in phases.items():
        own = np.flatnonzero(operators["phase"] == phase)
        under = _rows_under(operators["path"].iloc[own].tolist())
        for node in passes.layer.nodes():
            some = own[under.get(node.path, [])]
            if node.runs not in known:
                known[node.runs] = _memory(node.runs)
            memory = known[node.runs]
            if not len(some) and not memory["weight_bytes"]:
                continue
            calls = len(node.runs) * passes.repeat
            own_columns = {**_module(node), **memory, "calls": calls}
            rows.append({"phase": phase, **own_columns, **sums.over(some)})
    table = pd.DataFrame(rows)
    unknown = ("measured_s", "measured_q1_s", "measured_q3_s", "steady_s", "error", "error_unseen")
    table = table.assign(**dict.fromkeys(unknown, float("nan")))
    return table.assign(share=table["estimate_s"] / total if total else 0.0)


def _module(node: Node) -> dict[str, Any]:
    layer = node.layer
    return {
        "path": node.path,
        "parent": node.parent,
        "class_name": layer.class_name,
        "mirrors": layer.mirrors,
        "depth": node.path.count(".") + 1 if node.path else 0,
        "params_json": json.dumps(_parameters(node.runs)),
    }


def _memory(runs: tuple[Layer, ...]) -> dict[str, float]:
    layer = runs[0]
    return {
        "weight_bytes": float(layer.weight_bytes()),
        "activation_bytes": float(max(run.activation_bytes() for run in runs)),
        "kv_cache_bytes": float(layer.kv_cache_bytes()),
    }


def _rows_under(paths: list[str]) -> dict[str, list[int]]:
    """Module path -> positions of the rows at or below it; the root is the empty path."""
    under: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            under.setdefault(".".join(parts[:depth]), []).append(i)
    return under


def _parameters(runs: tuple[Layer, ...]) -> dict[str, Any]:
    """Dimensions on which all runs agree."""
    plain = (int, float, str, bool, type(None))
    first, *others = map(vars, runs)
    agreed = {n: v for n, v in first.items() if all(o.get(n) == v for o in others)}
    return {n: v for n, v in agreed.items() if isinstance(v, plain)}


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


def component_table(operators: pd.DataFrame) -> pd.DataFrame:
    """One row a component in order of execution, then the total.

    Estimate and interval are wall times; ``kernel_s`` is the time of the kernels alone.
    """
    import pandas as pd

    sums, names = Sums(operators), component_names(operators).to_numpy()
    rows = [{"component": n, **sums.over(names == n)} for n in dict.fromkeys(names)]
    rows.append({"component": "total", **sums.over(slice(None))})
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
        shares = [f"{name} {part / seconds[kind]:.0%}" for name, part in parts.items() if part > 0]
        how = str(parts.index[0]) if len(shares) < 2 else ", ".join(shares)
        kinds.setdefault(how, []).append(str(kind))
    if len(kinds) == 1:
        return f"all {next(iter(kinds))}"
    return "; ".join(f"{', '.join(names)} {how}" for how, names in kinds.items())


def figure_table(components: pd.DataFrame, workload: Workload, sees: bool = True) -> pd.DataFrame:
    """What a user asks: time to first token and per output token, or of a pass; and the rate.

    ``sees``: whether the model looks at the workload's image.
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
        times = [{"name": "time of a pass", "unit": "s", **sums(total)}]
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
        what = "pages" if sees else "requests"
    return pd.DataFrame([*times, {"name": f"{what} per second", "unit": "1/s", **rates}])


def plain(value: Any) -> dict[str, Any]:
    """A frozen record as a dict for the report."""
    return asdict(value)
