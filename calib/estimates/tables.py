"""Calls and a calibration in, a row a call out.

FLOPs, bytes and seconds of a row are totals: times the call's count and the passes of its phase, so
that sums over rows are sums over the workload; ``count`` itself is that of one pass and
``launches`` that of one execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.errors import CalibError
from calib.estimates.sums import JOULES, UNKNOWN, WALL, WALL_OF
from calib.fit.calibration import ROOFLINE, Estimates, Estimator, dtype_of
from calib.hardware.datasheet import Hardware, arithmetic_intensity, bound
from model.layer import Call
from model.ops import GroupedMatmul, MoeMlp, Operator, Other
from model.workload import Phase

if TYPE_CHECKING:
    import pandas as pd


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
    if not calls:
        raise CalibError(
            "the model runs no operator that takes a device's time: expected one that does, on "
            "inputs that are not empty"
        )
    different = list(dict.fromkeys(c.op for _, _, c in calls))
    hot = [found_in_cache(op, hardware) for op in different]
    row = {op: i for i, op in enumerate(different)}
    index = [row[c.op] for _, _, c in calls]
    seconds = seconds_of(calibration, different, implementation, hot)
    known = [_columns(op, hardware) for op in different]
    table = pd.DataFrame(
        [
            _row(phase, repeat, c, known[i])
            for i, (phase, repeat, c) in zip(index, calls, strict=True)
        ]
    )
    times = table.pop("times").to_numpy()
    table["estimate_s"] = seconds.seconds[index] * times
    table["low_s"], table["high_s"] = seconds.low[index] * times, seconds.high[index] * times
    table["roofline_s"] = seconds.floor[index] * times
    table["efficiency"] = seconds.efficiency[index]
    table["provenance"] = seconds.known_as[index]
    table["estimate_unseen_s"] = float("nan")
    if unseen is not None:
        blind = unseen.estimates(different, implementation, hot)
        table["estimate_unseen_s"] = blind.seconds[index] * times
    table["triton_s"] = triton_seconds(calibration, different, hot)[index] * times
    for of_kernels, of_wall in WALL_OF.items():
        table[of_wall] = table[of_kernels]
    empty = {"measured_s": float("nan"), "error": float("nan"), "error_unseen": float("nan")}
    empty |= {"graph_s": float("nan"), "idle_s": 0.0, "issue_s": 0.0}
    empty |= dict.fromkeys(JOULES, float("nan"))
    fixed = {"hardware": hardware.name, "implementation": implementation, **names}
    return table.assign(**empty, **fixed)[OPERATOR_COLUMNS]


def triton_seconds(
    calibration: Estimator, ops: Sequence[Operator], hot: Sequence[bool]
) -> np.ndarray:
    """[ops] seconds by our Triton kernels; null for kinds that the card has no samples of them."""
    nothing = np.full(len(ops), np.nan)
    if not (calibration.held_out["implementation"] == TRITON).any():
        return nothing
    found = calibration.estimates(ops, TRITON, hot)
    return np.where(found.known_as != ROOFLINE, found.seconds, nothing)


TRITON = "triton"


def seconds_of(
    calibration: Estimator, ops: list[Operator], implementation: str, hot: list[bool]
) -> Estimates:
    """What ``Calibration.estimates`` says, or nulls for a device whose peaks nobody knows."""
    if not calibration.hardware.unprobed:
        return calibration.estimates(ops, implementation, hot)
    nothing = Estimates.nothing_of(len(ops))
    nothing.known_as[:] = UNKNOWN
    return nothing


OPERATOR_COLUMNS = [
    *("phase", "path", "kind", "shape", "dtype", "count", "launches", "sync", "flops", "bytes"),
    *("arithmetic_intensity", "bound", "roofline_s", "efficiency", "estimate_s", "low_s"),
    *("high_s", "provenance", "unknown", "estimate_unseen_s", "triton_s", "measured_s", "error"),
    *("error_unseen", *WALL, *JOULES),
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
        "unknown": isinstance(op, Other) and op.unknown,
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
            words.append(f"{name}={value:g}" if value < 1e6 else f"{name}={value:.0f}")
    return " ".join(words)
