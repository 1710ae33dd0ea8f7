"""A healthy trace of a small model on a card, made from our own table of operators, so that every
figure that a reader should find in it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from calib.estimates.modules import module_table
from calib.estimates.sums import component_table
from calib.estimates.tables import operator_table
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import Hardware, load_hardware
from model.architectures import build
from model.workload import Workload

Event = dict[str, Any]
CARD = "h100"
VIT = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 128}
LLAMA = {
    **{"hidden": 64, "layers": 2, "dense_layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16},
    **{"intermediate": 128, "vocabulary": 512},
}
TYPES = {"bfloat16": "c10::BFloat16", "float32": "float", "int64": "long int"}
OPERATOR_US, GAP_US = 6.0, 2.0
LEAST_KERNEL_US = 9.0
"""A kernel outlasts its operator on the host, so that the stream is never idle within a pass."""


@dataclass(frozen=True)
class Subject:
    """A model that a trace may be of. ``repeat``: passes of each phase."""

    hardware: Hardware
    operators: pd.DataFrame
    modules: pd.DataFrame
    components: pd.DataFrame
    repeat: dict[str, int]
    workload: dict[str, Any]


@cache
def subject(architecture: str, batch: int = 1, hidden: int = 64) -> Subject:
    """``vit`` has one phase, ``llama`` two."""
    sizes = VIT if architecture == "vit" else LLAMA
    work = Workload("w", side=32, prompt_tokens=0, batch=batch)
    if architecture == "llama":
        work = Workload("w", prompt_tokens=24, batch=batch, decode_steps=2)
    own = {"side": 32, "patch": 8, "classes": 10} if architecture == "vit" else {}
    model = build(architecture, **{**sizes, **own, "hidden": hidden})
    phases, hardware = model.phases(work), load_hardware(CARD)
    names = {"model": architecture, "workload": "w"}
    operators = operator_table(phases, uncalibrated(hardware), None, "torch", names)
    return Subject(
        hardware,
        operators,
        module_table(phases, operators),
        component_table(operators),
        {phase: p.repeat for phase, p in phases.items()},
        {"name": "w"},
    )


@dataclass(frozen=True)
class Made:
    """A trace and its truth. ``kernels``: phase -> kind -> seconds of the whole phase on the
    device; ``walls``: phase -> seconds of the whole phase."""

    trace: Event
    kernels: dict[str, dict[str, float]]
    walls: dict[str, float]


class _Writer:
    """Host and device tracks, in microseconds."""

    def __init__(self) -> None:
        self.now, self.free, self.id = 1e6, 1e6, 100
        self.events: list[Event] = []

    def add(self, cat: str, name: str, ts: float, dur: float, args: Event, tid: int = 1) -> Event:
        pid = 0 if cat == "kernel" else 1
        event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid}
        self.events.append({**event, "ts": round(ts, 3), "dur": round(dur, 3), "args": args})
        return self.events[-1]

    def operator(self, name: str, dims: list[Any], dtype: str, kernel_us: float) -> None:
        self.id += 1
        ids = {"External id": self.id}
        types = [TYPES.get(dtype, "float")] * len(dims)
        about = {**ids, "Input Dims": dims, "Input type": types}
        self.add("cpu_op", name, self.now, OPERATOR_US, about)
        call = {**ids, "correlation": self.id + 7000}
        self.add("cuda_runtime", "cudaLaunchKernel", self.now + 2.0, 3.0, call)
        begin = max(self.free, self.now + 7.0)
        ran = {**call, "device": 0, "stream": 7}
        self.add("kernel", f"kernel_of_{name}", begin, kernel_us, ran, tid=7)
        self.now, self.free = self.now + OPERATOR_US + GAP_US, begin + kernel_us


def make(of: Subject, modules: bool = True, passes: int = 1) -> Made:
    """``modules``: named by ranges; ``passes``: ranges of each phase."""
    out = _Writer()
    out.add("cpu_op", "aten::empty", out.now - 20, 1.0, {"External id": 1})
    kernels: dict[str, dict[str, float]] = {}
    walls = {}
    for phase, repeat in of.repeat.items():
        rows = of.operators[of.operators["phase"] == phase].to_dict("records")
        for _ in range(passes):
            out.now = out.free = max(out.now, out.free) + 50.0
            span = out.add("user_annotation", phase, out.now, 0.0, {})
            out.now += 1.0
            by_kind: dict[str, float] = {}
            for number, row in enumerate(rows):
                _row(out, row, number, modules, by_kind)
            span["dur"] = round(out.now + 1.0 - span["ts"], 3)
        kernels[phase] = {kind: us * repeat / 1e6 for kind, us in by_kind.items()}
        walls[phase] = (max(out.free, out.now + 1.0) - span["ts"]) * repeat / 1e6
    sizes = {"computeMajor": 9, "computeMinor": 0, "numSms": 132, "totalGlobalMem": 85_000_000_000}
    card = {"id": 0, "name": of.hardware.device_names[0], **sizes}
    return Made({"deviceProperties": [card], "traceEvents": out.events}, kernels, walls)


def _row(
    out: _Writer, row: dict[Any, Any], number: int, modules: bool, by_kind: dict[str, float]
) -> None:
    names, dims = as_torch(str(row["kind"]), str(row["shape"]))
    inside = out.add("user_annotation", row["path"], out.now, 0.0, {}) if modules else None
    for _ in range(int(row["count"] * row["launches"])):
        took = LEAST_KERNEL_US + number % 7
        by_kind[str(row["kind"])] = by_kind.get(str(row["kind"]), 0.0) + took
        out.operator(names, dims, str(row["dtype"]), took)
    if inside:
        inside["dur"] = round(out.now - inside["ts"], 3)
        out.now += 1.0


def as_torch(kind: str, shape: str) -> tuple[str, list[Any]]:
    """What torch calls a row, and the sizes of its inputs."""
    size = {k: int(float(v)) for k, v in re.findall(r"(\w+)=(\d[\d.e+]*)", shape)}

    def of(*names: str) -> list[int]:
        return [size.get(name, 1) for name in names]

    if kind == "matmul":
        batch = of("batch")
        return ("aten::bmm", [[*batch, *of("m", "k")], [*batch, *of("k", "n")]])
    if kind == "conv2d":
        image = of("batch", "in_channels", "height", "width")
        return ("aten::convolution", [image, of("out_channels", "in_channels", "kernel", "kernel")])
    if kind == "attention":
        query = of("batch", "heads", "q_len", "head_dim")
        return ("aten::_scaled_dot_product_flash_attention", [query, query, query])
    plain = {
        **{"norm": "aten::native_layer_norm", "softmax": "aten::_softmax", "copy": "aten::clone"},
        **{"gather": "aten::embedding", "elementwise": "aten::add"},
    }
    return (plain.get(kind, "aten::topk"), [[size.get("rows", 1), size.get("cols", 1)]])
