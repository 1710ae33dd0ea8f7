"""The report as data: a module tree with its costs, in the fields of ``AnalyticModelReport``.

Names and units that a consumer of the original reads stay as they are there: milliseconds, TFLOP,
terabits of traffic (its ``io_tb`` are no terabytes), gigabytes of memory (all decimal). Beside each
stands the same in SI units.

    python -m calib.report.layers.analytic_report > docs/report.schema.json

writes the schema of ``report.json`` and ``report.yaml``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from calib.report.layers.alternative import Alternative
from calib.report.layers.needs import EnergyUse, MemoryNeed, PhaseTimeline
from calib.report.layers.quantities import (
    TERABITS,
    Error,
    Joules,
    Limit,
    Milliseconds,
    Provenance,
    Seconds,
    Share,
)
from calib.report.layers.schema import Doc, json_schema

SCHEMA_VERSION = 4
"""Version of the fields below. History: 1, the first; 2, wall times beside kernels' times, and
times and shares of them may be null (mode=analytic without a card); 3, ``alternatives``; 4,
joules."""


@dataclass(frozen=True)
class ModelSpec:
    """The model. A dimension is null where the architecture has no such thing."""

    model_id: str
    model_variant: Annotated[str, Doc("the architecture that was built")]
    hf_revision: str | None
    config_path: str | None
    hidden_size: Annotated[int | None, Doc("width of the decoder")]
    intermediate_size: Annotated[int | None, Doc("inner width of the decoder's dense MLP")]
    num_layers: Annotated[int | None, Doc("decoder layers")]
    num_attention_heads: Annotated[int | None, Doc("heads of a decoder layer")]
    vision_backbone: Literal["sam_vit_b", "clip_vit_l", "other"]
    uses_moe: bool
    notes: str
    dimensions: Annotated[dict[str, Any], Doc("all dimensions the model was built with")]


@dataclass(frozen=True)
class WorkloadProfile:
    """What was asked of the model."""

    profile_id: str
    description: str
    seq_len: Annotated[int | None, Doc("tokens prefilled for one page, image and prompt")]
    base_size: Annotated[int | None, Doc("side of the page as a whole [pixels]")]
    image_size: Annotated[int | None, Doc("side of a tile [pixels]")]
    crop_mode: Annotated[bool, Doc("whether the page goes in as tiles too")]
    max_new_tokens: Annotated[int | None, Doc("tokens decoded")]
    doc_kind: Literal["text_heavy", "mixed_layout", "image_rich", "synthetic"]
    num_pages: Annotated[int, Doc("pages in the batch", minimum=1)]
    settings: Annotated[dict[str, Any], Doc("all fields of the workload")]


@dataclass(frozen=True)
class AnalyticModuleNode:
    """A module, or identical siblings as one node; the root's parent is null."""

    module_id: Annotated[str, Doc("phase and path, such as prefill/lm_head; unique and stable")]
    name: str
    qualified_class_name: Annotated[str, Doc("the layer class that describes it")]
    stage: Literal["vision", "projector", "prefill", "decode", "other"]
    parent_id: str | None
    children: list[str]
    repetition: Annotated[
        Literal["none", "for", "parfor"],
        Doc("how the siblings run: not repeated, one after another, side by side"),
    ]
    repetition_count: Annotated[int | None, Doc("siblings folded into this node", minimum=2)]
    constructor_params: Annotated[dict[str, Any], Doc("those on which all siblings agree")]
    mirrors: Annotated[str, Doc("the transformers class whose forward it follows")]
    instances: Annotated[int, Doc("modules this node stands for, outer repetitions included")]


@dataclass(frozen=True)
class OperatorCategory:
    """A kind of operator."""

    category_id: str
    display_name: str
    description: str
    match_classes: list[str]


@dataclass(frozen=True)
class OperatorMetrics:
    """What one category adds to a module, everything below the module included."""

    category_id: str
    calls: Annotated[int, Doc("executions in the workload", minimum=0)]
    flops_tflops: Annotated[float, Doc("[TFLOP]", minimum=0)]
    io_tb: Annotated[float, Doc(f"read and written {TERABITS}", minimum=0)]
    share_of_module_flops: Annotated[
        float,
        Doc(
            "of the module's FLOPs; of its bytes where it has no FLOPs", minimum=0, maximum=1.000001
        ),
    ]
    share_of_module_time: Share
    flops: Annotated[float, Doc("[FLOP]", minimum=0)]
    io_bytes: Annotated[float, Doc("read and written [bytes]", minimum=0)]
    predicted_s: Seconds


@dataclass(frozen=True)
class ModuleMetricsSnapshot:
    """Costs of a node: sums over the modules it stands for and all below them."""

    module_id: str
    profile_id: str
    calls: Annotated[int, Doc("forward passes in the workload", minimum=0)]
    total_time_ms: Milliseconds
    total_flops_tflops: Annotated[float, Doc("[TFLOP]", minimum=0)]
    total_io_tb: Annotated[float, Doc(f"read and written, weights included {TERABITS}", 0)]
    memory_weights_gb: Annotated[float, Doc("[GB]", minimum=0)]
    memory_activations_gb: Annotated[float, Doc("largest working set of one member [GB]", 0)]
    memory_kvcache_gb: Annotated[float, Doc("[GB]", minimum=0)]
    share_of_model_time: Share
    operator_breakdown: list[OperatorMetrics]
    predicted_s: Seconds
    low_s: Seconds
    high_s: Seconds
    roofline_s: Seconds
    measured_s: Seconds
    error: Error
    provenance: Provenance
    wall_s: Annotated[
        float | None,
        Doc("predicted, with the device's idle time; predicted_s is of kernels alone [s]", 0),
    ]
    idle_s: Annotated[float | None, Doc("device waiting for the host, in wall_s [s]", minimum=0)]
    graph_s: Annotated[float | None, Doc("wall_s if it were a CUDA graph [s]", minimum=0)]
    limited_by: Limit
    flops: Annotated[float, Doc("[FLOP]", minimum=0)]
    io_bytes: Annotated[float, Doc("read and written [bytes]", minimum=0)]
    weight_bytes: Annotated[float, Doc("[bytes]", minimum=0)]
    activation_bytes: Annotated[float, Doc("[bytes]", minimum=0)]
    kv_cache_bytes: Annotated[float, Doc("[bytes]", minimum=0)]
    at_least: Annotated[bool, Doc("whether sums hold an operator that no rule knows")]
    joules: Joules
    joules_low: Joules
    joules_high: Joules


@dataclass(frozen=True)
class Component:
    """A part of the model that a user has a name for; the last one is the total."""

    component: str
    flops: Annotated[float, Doc("[FLOP]", minimum=0)]
    bytes: Annotated[float, Doc("read and written [bytes]", minimum=0)]
    roofline_s: Seconds
    estimate_s: Seconds
    low_s: Seconds
    high_s: Seconds
    provenance: Provenance
    estimate_unseen_s: Annotated[
        float | None, Doc("by a fit that never saw this model's own shapes [s]", minimum=0)
    ]
    measured_s: Seconds
    error: Error
    error_unseen: Error
    roofline_error: Annotated[float | None, Doc("roofline / measured - 1")]
    kernel_s: Annotated[
        float | None, Doc("of the kernels alone; estimate_s is wall time [s]", minimum=0)
    ]
    idle_s: Annotated[float | None, Doc("device waiting for the host [s]", minimum=0)]
    graph_s: Annotated[float | None, Doc("estimate_s if it were a CUDA graph [s]", minimum=0)]
    limited_by: Limit
    at_least: Annotated[bool | None, Doc("whether sums hold an operator that no rule knows")]
    joules: Joules
    joules_low: Joules
    joules_high: Joules


@dataclass(frozen=True)
class Figure:
    """What a user asks for: how long until the first token, and so on."""

    name: str
    unit: str
    roofline: float | None
    estimate: float | None
    low: float | None
    high: float | None
    measured: float | None


@dataclass(frozen=True)
class CeilingFigure:
    """What the device reaches at best, measured on random data, or what its host costs."""

    name: str
    unit: Literal["FLOP/s", "bytes/s", "s"]
    measured: float
    datasheet: Annotated[float | None, Doc("of the same unit; of a CPU: its probes")]
    share: Annotated[float | None, Doc("measured over datasheet")]
    clock_hz: Annotated[float | None, Doc("SM clock while it was measured [Hz]")]
    clock_share: Annotated[float | None, Doc("measured over the matrix units' peak at that clock")]


@dataclass(frozen=True)
class Fit:
    """One fit and its relative errors on samples held out by group."""

    implementation: str
    kind: str
    dtype: str
    samples: int
    groups: int
    median_error: float | None
    p90_error: float | None
    roofline_median_error: Annotated[float | None, Doc("of the plain roofline, same samples")]
    constant_median_error: Annotated[float | None, Doc("of one constant efficiency, same samples")]
    coverage: Annotated[float | None, Doc("share of held-out samples inside their interval")]
    halfwidth: Annotated[float | None, Doc("of the interval, relative")]


@dataclass(frozen=True)
class AnalyticModelReport:
    """What a run predicted for a model, and what was measured, module by module."""

    report_id: str
    model: ModelSpec
    workload: WorkloadProfile
    modules: list[AnalyticModuleNode]
    operator_categories: list[OperatorCategory]
    module_metrics: list[ModuleMetricsSnapshot]
    profile_run_id: Annotated[str | None, Doc("the run that measured; null where none did")]
    predicted_total_time_ms: Milliseconds
    measured_total_time_ms: Milliseconds
    predicted_vs_measured_ratio: Annotated[float | None, Doc("predicted / measured", minimum=0)]
    notes: str
    layer_docs_dir: Annotated[str | None, Doc("absolute path; null where none were written")]
    schema_version: int
    created: Annotated[str, Doc("ISO 8601, UTC")]
    mode: str
    implementation: str
    execution: str
    hardware: dict[str, Any]
    predicted_total_s: Seconds
    low_s: Seconds
    high_s: Seconds
    roofline_total_s: Seconds
    measured_total_s: Seconds
    provenance: Provenance
    named_share: Annotated[
        float,
        Doc(
            "what named operators take of the kernels' time, without times of the bytes",
            minimum=0,
            maximum=1.000001,
        ),
    ]
    components: list[Component]
    timeline: list[PhaseTimeline]
    memory: MemoryNeed | None
    energy: EnergyUse | None
    figures: list[Figure]
    fits: list[Fit]
    ceilings: list[CeilingFigure]
    alternatives: list[Alternative]
    measurement: dict[str, Any] | None
    environment: dict[str, Any]


def report_schema() -> str:
    """The text of ``docs/report.schema.json``."""
    return json.dumps(json_schema(AnalyticModelReport), indent=2) + "\n"


if __name__ == "__main__":
    print(report_schema(), end="")
