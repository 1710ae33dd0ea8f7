"""A calibration: what is known of a device's operators, asked for seconds of any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from calib.fit.kind import KindFit
from calib.fit.physics.features import Features, features, features_of_list, whole
from calib.hardware.datasheet import Hardware, least_seconds
from model.ops import Conv2d, Convolution, Counted, Operator, Other, is_grid

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"

TRANSFERRED, ROOFLINE = "transferred", "roofline"

WEAKEST_FIRST = (ROOFLINE, TRANSFERRED, EXTRAPOLATED, INTERPOLATED, MEASURED)

Key = tuple[str, str, str]
"""(implementation, kind, dtype)"""


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


@dataclass(frozen=True)
class Calibration:
    """What ``fit`` returns. ``held_out``: one row a fit, its error on groups it never saw.

    ``blind``: of each fit with samples of the device, by shape in order of their first samples,
    log seconds and half-width by fits that never saw the shape's group; NaN of what never was
    held out.
    """

    hardware: Hardware
    kinds: dict[Key, KindFit]
    held_out: pd.DataFrame
    measured: dict[tuple[str, Operator, str], tuple[float, float, float]] = field(
        default_factory=dict
    )
    blind: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> pd.DataFrame:
        """Seconds of each operator of a list, or of each point of a grid, in order.

        ``hot``: whether inputs are found in cache; None means as the samples of the kind were
        (cold, where both were taken). Columns: floor_s, estimate_s, low_s, high_s (a 90% interval;
        null where nothing is known), efficiency (floor over estimate), provenance.

        Raises ``HardwareError`` for a dtype that the device has no peak for.
        """
        if isinstance(ops, Operator) and is_grid(ops):
            return self._alike(ops, implementation, hot)
        ops = [ops] if isinstance(ops, Operator) else list(ops)
        flags: list[Any] = list(np.broadcast_to(np.asarray(hot, dtype=object), len(ops)))
        rows: dict[tuple[str, str, bool], list[int]] = {}
        for i, op in enumerate(ops):
            rows.setdefault((kind_of(op), dtype_of(op), flags[i] is None), []).append(i)
        parts = []
        for (_, _, unset), some in rows.items():
            known = None if unset else np.array([bool(flags[i]) for i in some])
            part = self._alike([ops[i] for i in some], implementation, known)
            parts.append(part.set_index(pd.Index(some)))
        if not parts:
            none = np.zeros(0)
            return table_of(none, none, none, none, none.astype(object))
        return self.with_measured(pd.concat(parts).sort_index(), ops, implementation, flags)

    def _alike(
        self, ops: Sequence[Operator] | Operator, implementation: str, hot: Any
    ) -> pd.DataFrame:
        """Estimates of operators of one kind and dtype."""
        first = ops if isinstance(ops, Operator) else ops[0]
        fitted = self.kinds.get((implementation, kind_of(first), dtype_of(first)))
        if hot is None:
            hot = fitted is not None and fitted.low["hot"] == 1.0
        if isinstance(ops, Operator):
            x = features(ops, self.hardware, hot)
        else:
            x = features_of_list(ops, self.hardware, hot)
        if fitted is None:
            unknown = np.full(len(x), np.nan)
            known_as = np.full(len(x), ROOFLINE, dtype=object)
            return table_of(x.floor_s, x.floor_s, x.floor_s, unknown, known_as)
        sides, least = fitted.log_ends(x), least_of(ops, self.hardware)
        middle, low, high = (np.maximum(np.exp(side), least) for side in sides)
        return table_of(x.floor_s, middle, low, high, _known_as(fitted, x))

    def with_measured(
        self,
        table: pd.DataFrame,
        ops: Sequence[Operator],
        implementation: str,
        flags: Sequence[Any],
    ) -> pd.DataFrame:
        """Put the median of this very shape, where it was sampled, in place of the fit's figure."""
        columns = {name: table[name].to_numpy(copy=True) for name in table.columns}
        for i, op in enumerate(ops):
            caches = ("cold", "hot") if flags[i] is None else ("hot",) if flags[i] else ("cold",)
            found = (self.measured.get((implementation, whole(op), cache)) for cache in caches)
            seen = next((f for f in found if f), None)
            if seen:
                columns["estimate_s"][i], columns["low_s"][i], columns["high_s"][i] = seen
                columns["provenance"][i] = MEASURED
        order = ("floor_s", "estimate_s", "low_s", "high_s", "provenance")
        return table_of(*(columns[name] for name in order))


def _known_as(fitted: KindFit, x: Features) -> np.ndarray:
    """[n] provenance: outside the own range, other devices' samples still tell something."""
    elsewhere = TRANSFERRED if fitted.base else EXTRAPOLATED
    inside = np.where(fitted.inside(x), INTERPOLATED, elsewhere).astype(object)
    return np.full(len(x), TRANSFERRED, dtype=object) if fitted.transferred else inside


def table_of(
    floor_s: np.ndarray,
    estimate_s: np.ndarray,
    low_s: np.ndarray,
    high_s: np.ndarray,
    provenance: np.ndarray,
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "floor_s": floor_s,
            "estimate_s": estimate_s,
            "low_s": low_s,
            "high_s": high_s,
            "efficiency": floor_s / np.where(estimate_s > 0, estimate_s, np.nan),
            "provenance": provenance,
        }
    )


def least_of(ops: Sequence[Operator] | Operator, hardware: Hardware) -> np.ndarray:
    """[n] or [] seconds that main memory takes at least."""
    if isinstance(ops, Operator):
        return np.asarray(least_seconds(ops, hardware))
    return np.array([float(least_seconds(op, hardware)) for op in ops])


def uncalibrated(hardware: Hardware) -> Calibration:
    """A calibration without samples: every estimate is the roofline, and says so."""
    return Calibration(hardware, {}, pd.DataFrame(columns=HELD_OUT_COLUMNS))


def kind_of(op: Operator) -> str:
    """What a fit is for: the operator's kind; each operator without a formula is its own kind."""
    if isinstance(op, Convolution):
        return Conv2d.operator  # one rule, whatever the number of dimensions
    return f"{op.operator}: {op.name}" if isinstance(op, Other | Counted) else op.operator


def dtype_of(op: Operator) -> str:
    return str(vars(op)["dtype"])


HELD_OUT_COLUMNS = [
    "implementation",
    "kind",
    "dtype",
    "samples",
    "groups",
    "median_error",
    "p90_error",
    "roofline_median_error",
    "constant_median_error",
    "coverage",
    "halfwidth",
]
