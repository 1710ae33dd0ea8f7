"""A run made up for the tests of reports: the model's real calls with invented seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from calib.estimates.memory import memory
from calib.estimates.timeline import launch_table, timeline_table, with_wall
from calib.hardware.datasheet import Hardware, arithmetic_intensity, bound, floor
from calib.report.record import RunRecord
from calib.samples.ceilings import Ceiling
from calib.samples.host_costs import host_costs
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call, Layer, Node
from model.workload import Phase, Workload

CARD = Hardware(
    name="rtx5090",
    device_names=("NVIDIA GeForce RTX 5090",),
    compute_capability="12.0",
    sm_count=170,
    clock_hz=2.407e9,
    peak_flops={"bfloat16": 209.5e12, "float16": 209.5e12, "tf32": 104.8e12, "float32": 104.8e12},
    cuda_core_flops=104.8e12,
    bandwidth=1.792e12,
    memory_bytes=34_190_917_632,
    l2_bytes=100_663_296,
)
CPU = Hardware(
    name="cpu",
    device_names=("cpu",),
    compute_capability=None,
    sm_count=2,
    clock_hz=2.6e9,
    peak_flops={"bfloat16": 1.9e12, "float32": 0.17e12},
    cuda_core_flops=0.17e12,
    bandwidth=21e9,
    memory_bytes=25_000_000_000,
    l2_bytes=33_000_000,
    provenance="probed",
)
SLOWDOWN = 1.03
"""How much slower the machine was while the model ran than during the sweep."""
RUNS = ("measured", "predicted")
"""A run that measured, and one of a card that is not there."""
COMPONENTS = {
    "SAM": ("vision", "model.vision_tower.sam_encoder"),
    "CLIP": ("vision", "model.vision_tower.vision_encoder"),
    "prefill": ("prefill", ""),
    "decode": ("decode", ""),
}
SUMMED = (
    *("flops", "bytes", "roofline_s", "estimate_s", "low_s", "high_s", "estimate_unseen_s"),
    *("wall_s", "idle_s", "graph_s"),
)


def synthetic_record(measured: bool = True, workload: Workload | None = None) -> RunRecord:
    """A run on a CPU with everything known, or on a card that is not there."""
    model, asked = DeepseekOCRModel(), workload or Workload("ocr_tiny", 512)
    hardware = CPU if measured else CARD
    phases = model.phases(asked)
    operators = operator_table(phases, hardware, measured)
    modules = module_table(phases, operators, measured)
    components = component_table(operators, measured)
    return RunRecord(
        run_id="2025-06-01T12-00-00_deepseek_ocr_ocr_tiny",
        created="2025-06-01T12:00:00+00:00",
        model="deepseek_ocr",
        architecture="deepseek_ocr",
        model_config=asdict(model),
        workload=asdict(asked),
        hardware=asdict(hardware),
        implementation="torch",
        execution="eager",
        mode="run",
        operators=operators,
        modules=modules,
        components=components,
        figures=figure_table(components, asked),
        fits=fit_table() if measured else fit_table().iloc[:0],
        measurement=measurement() if measured else None,
        notes=[]
        if measured
        else [
            "rtx5090 is not here and has no samples: run `python -m calib.run` on it to calibrate"
        ],
        ceilings=ceiling_table() if measured else None,
        timeline=timeline_table(operators, {n: p.repeat for n, p in phases.items()}),
        launches=launch_table(
            operators,
            {n: p.repeat for n, p in phases.items()},
            None if measured else host_costs([], hardware.name),
            "eager",
        ),
        memory=memory(model, asked, hardware.memory_bytes).as_dict(),
        environment={"python": "3.11.9", "torch": "2.13.0", "platform": "Linux", "cores": 2},
    )


@cache
def run(name: str) -> RunRecord:
    """One of ``RUNS``, made once for all tests: they only read it."""
    return synthetic_record(measured=name == "measured")


def operator_table(phases: dict[str, Phase], hardware: Hardware, measured: bool) -> pd.DataFrame:
    noise = np.random.default_rng(0) if measured else None
    rows = [
        operator_row(name, phase.repeat, call, hardware, noise)
        for name, phase in phases.items()
        for call in phase.layer.calls()
    ]
    passes = {name: phase.repeat for name, phase in phases.items()}
    costs = None if measured else host_costs([], hardware.name)
    return with_wall(pd.DataFrame(rows), passes, costs, "eager")


def operator_row(
    phase: str, repeat: int, call: Call, hardware: Hardware, noise: np.random.Generator | None
) -> dict[str, Any]:
    op, times = call.op, call.count * repeat
    least = float(floor(op, hardware)) * times
    efficiency = noise.uniform(0.3, 0.9) if noise else 1.0
    seconds = least / efficiency + (2e-6 * times if noise else 0)
    clock = seconds * noise.lognormal(0, 0.06) if noise else None
    unseen = seconds * noise.lognormal(0, 0.05) if noise else None
    return {
        "phase": phase,
        "path": call.path,
        "kind": op.operator,
        "shape": " ".join(f"{k}={v}" for k, v in op.shape().items()),
        "dtype": vars(op)["dtype"],
        "count": call.count,
        "launches": call.launches,
        "sync": call.sync,
        "flops": op.flops * times,
        "bytes": op.bytes * times,
        "arithmetic_intensity": arithmetic_intensity(op),
        "bound": bound(op, hardware),
        "unknown": False,
        "roofline_s": least,
        "efficiency": least / seconds if seconds else None,
        "estimate_s": seconds,
        "low_s": seconds * (0.85 if noise else 1),
        "high_s": seconds * (1.2 if noise else 1),
        "provenance": str(noise.choice(["measured", "interpolated"])) if noise else "roofline",
        "estimate_unseen_s": unseen,
        "triton_s": float("nan"),
        "measured_s": clock,
        "error": seconds / clock - 1 if clock else None,
        "error_unseen": unseen / clock - 1 if clock and unseen is not None else None,
        "hardware": hardware.name,
        "implementation": "torch",
        "model": "deepseek_ocr",
        "workload": "ocr_tiny",
    }


def params(layer: Layer) -> str:
    scalars = {f.name: getattr(layer, f.name) for f in fields(layer)}  # type: ignore[arg-type]
    plain = {k: v for k, v in scalars.items() if isinstance(v, int | float | str | bool)}
    return json.dumps(plain)


def module_table(phases: dict[str, Phase], operators: pd.DataFrame, measured: bool) -> pd.DataFrame:
    total = operators["estimate_s"].sum()
    rows = []
    for name, phase in phases.items():
        sums = inclusive_sums(operators[operators["phase"] == name])
        for node in phase.layer.nodes():
            rows.append(module_row(name, phase.repeat, node, sums.get(node.path, {}), measured))
            rows[-1]["share"] = rows[-1]["estimate_s"] / total
    return pd.DataFrame(rows)


def inclusive_sums(operators: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Sums of every path over the operators at it and below it."""
    sums: dict[str, dict[str, float]] = {}
    columns = [*SUMMED, "measured_s"]
    for path, *values in operators[["path", *columns]].itertuples(index=False):
        parts = path.split(".") if path else []
        for end in range(len(parts) + 1):
            into = sums.setdefault(".".join(parts[:end]), dict.fromkeys(columns, 0.0))
            for column, value in zip(columns, values, strict=True):
                into[column] += value or 0.0
    return sums


def module_row(
    phase: str, repeat: int, node: Node, sums: dict[str, float], measured: bool
) -> dict[str, Any]:
    layer = node.layer
    summed = {column: sums.get(column, 0.0) for column in SUMMED}
    clock = sums.get("measured_s") or None if measured else None
    return {
        "phase": phase,
        "path": node.path,
        "parent": node.parent,
        "class_name": type(layer).__name__,
        "mirrors": layer.mirrors,
        "depth": node.path.count(".") + 1 if node.path else 0,
        "params_json": params(layer),
        "calls": repeat * len(node.runs),
        "weight_bytes": layer.weight_bytes(),
        "activation_bytes": layer.activation_bytes(),
        "kv_cache_bytes": layer.kv_cache_bytes(),
        **summed,
        "provenance": "interpolated" if measured else "roofline",
        "limited_by": "memory" if measured else "host",
        "measured_s": clock,
        "measured_q1_s": clock * 0.98 if clock else None,
        "measured_q3_s": clock * 1.03 if clock else None,
        "steady_s": clock / SLOWDOWN if clock else None,
        "error": summed["wall_s"] / clock * SLOWDOWN - 1 if clock else None,
        "error_unseen": summed["estimate_unseen_s"] / clock * SLOWDOWN - 1 if clock else None,
    }


def component_table(operators: pd.DataFrame, measured: bool) -> pd.DataFrame:
    rows, rest = [], pd.Series(True, index=operators.index)
    for name, (phase, path) in COMPONENTS.items():
        mine = (operators["phase"] == phase) & operators["path"].str.startswith(path)
        rows.append(component_row(name, operators[mine], measured))
        rest &= ~mine
    rows.insert(2, component_row("projector", operators[rest], measured))
    rows.append(component_row("total", operators, measured))
    return pd.DataFrame(rows)


def component_row(name: str, operators: pd.DataFrame, measured: bool) -> dict[str, Any]:
    sums = {c: float(operators[c].sum()) for c in (*SUMMED, "measured_s")}
    kernel_s, sums["estimate_s"] = sums["estimate_s"], sums.pop("wall_s")
    clock = sums.pop("measured_s") if measured else None
    if not measured:
        sums["estimate_unseen_s"] = float("nan")
    return {
        "component": name,
        **sums,
        "kernel_s": kernel_s,
        "limited_by": "memory" if measured else "host",
        "provenance": "interpolated" if measured else "roofline",
        "measured_s": clock,
        "error": sums["estimate_s"] / clock * SLOWDOWN - 1 if clock else None,
        "error_unseen": sums["estimate_unseen_s"] / clock * SLOWDOWN - 1 if clock else None,
        "roofline_error": sums["roofline_s"] / clock * SLOWDOWN - 1 if clock else None,
    }


def figure_table(components: pd.DataFrame, workload: Workload) -> pd.DataFrame:
    names = ("roofline_s", "estimate_s", "low_s", "high_s", "measured_s")
    by_name = components.set_index("component").loc[:, list(names)].astype(float)
    step = by_name.loc["decode"] / workload.decode_steps
    first = by_name.loc["total"] - by_name.loc["decode"] + step
    pages = workload.batch / by_name.loc["total"]
    pages[["low_s", "high_s"]] = pages[["high_s", "low_s"]].to_numpy()
    rows = [
        ("time to first token", "s", *first),
        ("time per output token", "s", *step),
        ("pages per second", "pages/s", *pages),
    ]
    columns = ["name", "unit", *(n.removesuffix("_s") for n in names)]
    return pd.DataFrame(rows, columns=columns)


def fit_table() -> pd.DataFrame:
    rows = [
        ("torch", "matmul", "bfloat16", 412, 61, 0.061, 0.19, 0.58, 0.31, 0.91, 0.16),
        ("torch", "attention", "bfloat16", 158, 24, 0.083, 0.24, 0.71, 0.44, 0.89, 0.21),
        ("torch", "conv2d", "bfloat16", 64, 12, 0.094, 0.27, 0.63, 0.29, 0.92, 0.25),
        ("torch", "norm", "bfloat16", 80, 16, 0.112, 0.3, 0.82, 0.5, 0.9, 0.3),
    ]
    columns = [
        *("implementation", "kind", "dtype", "samples", "groups", "median_error", "p90_error"),
        *("roofline_median_error", "constant_median_error", "coverage", "halfwidth"),
    ]
    return pd.DataFrame(rows, columns=columns)


def ceiling_table() -> pd.DataFrame:
    found = [
        Ceiling("product of bfloat16", "FLOP/s", 1.9e12, 2e12, 0.95),
        Ceiling("bandwidth", "bytes/s", 21e9, 20e9, 1.05, 1.5e9, 0.8),
        Ceiling("launch", "s", 2.5e-6),
    ]
    return pd.DataFrame([vars(c) for c in found])


def measurement() -> dict[str, Any]:
    """As ``calib.compare.clock.compare.compare`` says it, of two phases."""
    probes = {"timed 0 vision": (1.88e12, 20.8e9), "timed 0 decode": (1.84e12, 21.1e9)}
    joined = {"operators": 806, "matched": 805, "share": 0.991, "rows": 806}
    return {
        "repeats": {"vision": [1.376, 1.082, 1.064], "decode": [0.544, 0.562, 0.618]},
        "slowdown": {"vision": [1.121, 0.9964], "decode": [0.978, 1.013]},
        "drift": 0.043,
        "spread": 0.08,
        "unstable": False,
        "raw_total_error": -0.032,
        "experts_touched": {"prefill": [41, 38, 44.0], "decode": [6.0, 6.0]},
        "decoder_layers": 12,
        "parameters": 3_335_504_128,
        "memory_bytes": 7.1e9,
        "threads": 2,
        "overheads": {
            "hook_s": 2.24e-6,
            "event_s": 3.59e-7,
            "warm_up": [3.431, 3.204],
            "profiled": {"vision": {"seconds": [1.17], "events": 7869, "operators": 806}},
        },
        "coverage": {
            "share": 0.9974,
            "phases": {"vision": joined, "decode": joined},
            "unmatched": [
                {"phase": "decode", "path": "", "aten": "argmax", "count": 16, "seconds": 7.87e-3}
            ],
        },
        "gaps": [{"phase": "vision", "gap_per_operator_s": 41.1e-6}],
        "probes": {name: {"flops": f, "bandwidth": b} for name, (f, b) in probes.items()},
    }
