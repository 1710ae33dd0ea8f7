"""A pass on host and device: when each launch is issued, and when its kernel runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.page.figures.style import Spec, figure, kind_scale
from calib.report.units import TIMES, pick, seconds

if TYPE_CHECKING:
    import pandas as pd

AT_FIRST = 60
"""Launches that are in view before a reader moves."""
WORTH_A_TRACK = 0.02
"""Part of a pass that the host must be busy to be drawn."""
MOST = 4000
"""Launches of a pass that is drawn: beyond it the page would grow past two megabytes."""


def timeline(launches: pd.DataFrame | None) -> Spec | None:
    """None where no pass was replayed, or one too long to be drawn."""
    if launches is None or launches.empty or len(launches) > MOST:
        return None
    whole = float(launches["end_s"].max())
    if not whole > 0:
        return None
    factor, unit = pick(whole / 10, TIMES)
    rows = _rows(launches, factor)
    start, end = view(launches)
    x = {
        "type": "quantitative",
        "scale": {"domain": [start / factor, end / factor], "nice": False},
        "axis": {"title": f"since the pass began [{unit}]", "grid": True, "tickCount": COUNT},
    }
    tracks = ["host", "device"] if _has_host(launches) else ["device"]
    y = {
        "type": "nominal",
        "scale": {"domain": tracks, "paddingInner": 0.25, "paddingOuter": 0.1},
        "axis": {"title": None, "grid": False, "ticks": False, "domain": False},
    }
    moved = {"name": "view", "bind": "scales"}
    moved["select"] = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}  # type: ignore[assignment]
    device: dict[str, Any] = {
        "params": [moved],
        "mark": {"type": "rect", "clip": True},
        "encoding": {
            "x": {**x, "field": "s"},
            "x2": {"field": "e"},
            "y": {**y, "datum": "device"},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": kind_scale(launches["kind"]),
                "legend": None,
            },
            "tooltip": TOOLTIP,
        },
    }
    host = {
        "mark": {"type": "rect", "clip": True, "style": "host"},
        "encoding": {
            "x": {**x, "field": "i"},
            "x2": {"field": "d"},
            "y": {**y, "datum": "host"},
            "tooltip": TOOLTIP,
        },
    }
    layers = [device, host] if len(tracks) == 2 else [device]
    return figure(90 if len(tracks) == 2 else 56, data={"values": rows}, layer=layers)


COUNT = {"expr": "ceil(width / 110)"}
TOOLTIP = [
    {"field": "operator"},
    {"field": "path"},
    {"field": "kernel"},
    {"field": "at", "title": "kernel starts"},
]


def view(launches: pd.DataFrame) -> tuple[float, float]:
    """Seconds, of ``AT_FIRST`` launches from the middle of the pass."""
    middle = max(len(launches) // 2 - AT_FIRST // 2, 0)
    part = launches.iloc[middle : middle + AT_FIRST]
    return float(part["start_s"].min()), float(part["end_s"].max())


def _has_host(launches: pd.DataFrame) -> bool:
    """False where the device issues its own work, so that both tracks are the same, and where one
    launch stands for all."""
    busy = float((launches["issued_s"] - launches["issue_s"]).sum())
    idle = busy < WORTH_A_TRACK * float(launches["end_s"].max())
    return not idle and not np.allclose(launches["issue_s"], launches["start_s"])


def _rows(launches: pd.DataFrame, factor: float) -> list[dict[str, Any]]:
    """``s``, ``e`` of the kernel, ``i``, ``d`` of its issue, in units of ``factor`` seconds."""
    names = {"start_s": "s", "end_s": "e", "issue_s": "i", "issued_s": "d"}
    times = {short: (launches[name] / factor).round(5).tolist() for name, short in names.items()}
    kernels = (launches["end_s"] - launches["start_s"]).tolist()
    starts = launches["start_s"].tolist()
    words = zip(launches["kind"], launches["shape"], launches["path"], strict=True)
    return [
        {
            **{short: values[i] for short, values in times.items()},
            "kind": kind,
            "operator": f"{kind} {shape}".strip(),
            "path": path,
            "kernel": seconds(kernels[i]),
            "at": seconds(starts[i]),
        }
        for i, (kind, shape, path) in enumerate(words)
    ]
