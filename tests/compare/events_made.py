"""Events of a trace by hand, in microseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def event(cat: str, name: str, ts: float, dur: float, tid: Any = 1, **args: Any) -> Event:
    """Arguments are the event's ``args``; underscores stand for spaces."""
    about = {key.replace("_", " "): value for key, value in args.items()}
    about = {("External id" if k == "external" else k): v for k, v in about.items()}
    return {
        **{"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid},
        "args": about,
    }


def write(folder: Path, events: Any, **about: Any) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": events, **about}), "utf-8")
    return path


def pair(
    number: int, ts: float, kernel_ts: float, kernel_us: float, name: str = "aten::mm"
) -> list[Event]:
    """An operator with its call, both numbered alike, and its kernel."""
    ids = {"external": number, "correlation": 1000 + number}
    return [
        event("cpu_op", name, ts, 5.0, external=number),
        event("cuda_runtime", "cudaLaunchKernel", ts + 1, 2.0, **ids),
        event("kernel", "gemm", kernel_ts, kernel_us, tid=7, device=0, stream=7, **ids),
    ]
