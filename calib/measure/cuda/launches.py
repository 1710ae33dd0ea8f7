"""What a card executes, in order, as ``torch.profiler`` sees it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_WORK = ("kernel", "gpu_memset", "gpu_memcpy")


@dataclass(frozen=True)
class Launch:
    """One kernel (or copy, or fill) as the profiler saw it: ``grid`` and ``block`` in three
    dimensions, empty where it has none; ``seconds`` that it kept the device busy."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    seconds: float


def profiled(run: Callable[[], Any], device: torch.device) -> list[Launch]:
    """``run`` in one session; what the device executed, in order. Of the host nothing is recorded,
    so its calls are not slowed."""
    from torch.profiler import ProfilerActivity, profile

    from calib.measure.reference.operators import quiet

    quiet()
    # acc_events says that no cycle follows another, which torch would warn of.
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        run()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return launches_of(json.loads(path.read_text("utf-8")))


def launches_of(trace: Mapping[str, Any]) -> list[Launch]:
    """What ran on the device by a trace in Chrome's format, in order."""
    events = [e for e in trace["traceEvents"] if e.get("cat") in _WORK]
    return [
        Launch(
            event["name"],
            tuple(event["args"].get("grid", ())),
            tuple(event["args"].get("block", ())),
            event["dur"] / 1e6,
        )
        for event in sorted(events, key=lambda e: e["ts"])
    ]
