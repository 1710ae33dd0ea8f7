"""From a run's tables to its report as data."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from calib.report.layers.alternative import Alternative
from calib.report.layers.analytic_report import (
    SCHEMA_VERSION,
    AnalyticModelReport,
    AnalyticModuleNode,
    CeilingFigure,
    Component,
    EnergyUse,
    Figure,
    Fit,
    MemoryNeed,
    ModelSpec,
    ModuleMetricsSnapshot,
    OperatorCategory,
    OperatorMetrics,
    PhaseTimeline,
    WorkloadProfile,
)
from calib.report.layers.tree import Branch
from calib.report.record import RunRecord, known
from model.architectures import ARCHITECTURES, build
from model.layer import Layer
from model.ops import OPERATORS

TERABIT, TERA, GIGA, MILLI = 1e12 / 8, 1e12, 1e9, 1e-3
OTHER = "other"


def build_report(
    record: RunRecord, tree: list[Branch], layer_docs_dir: Path | None = None
) -> AnalyticModelReport:
    """The report of one run. ``layer_docs_dir``: where its layer documents are, if anywhere."""
    total = {k: plain(v) for k, v in record.total.items()}
    model = build_model(record)
    root, measured = module_metrics(tree[0], record), total["measured_s"]
    return AnalyticModelReport(
        report_id=record.run_id,
        model=model_spec(record, vars(model)),
        workload=workload_profile(record, model),
        modules=module_nodes(tree),
        operator_categories=operator_categories(),
        module_metrics=[root, *(module_metrics(b, record) for b in tree[1:])],
        profile_run_id=record.run_id if measured is not None else None,
        predicted_total_time_ms=milliseconds(total["estimate_s"]),
        measured_total_time_ms=milliseconds(measured),
        predicted_vs_measured_ratio=ratio(total["estimate_s"], measured),
        notes="\n".join(record.notes),
        layer_docs_dir=str(layer_docs_dir.resolve()) if layer_docs_dir else None,
        schema_version=SCHEMA_VERSION,
        created=record.created,
        mode=record.mode,
        implementation=record.implementation,
        execution=record.execution,
        hardware=plain(record.hardware),
        predicted_total_s=total["estimate_s"],
        low_s=total["low_s"],
        high_s=total["high_s"],
        roofline_total_s=total["roofline_s"],
        measured_total_s=measured,
        provenance=total["provenance"],
        named_share=named_share(root),
        components=records(Component, record.components),
        timeline=[] if record.timeline is None else records(PhaseTimeline, record.timeline),
        memory=MemoryNeed(**plain(record.memory)) if record.memory else None,
        energy=energy_use(record),
        figures=records(Figure, record.figures),
        fits=records(Fit, record.fits),
        ceilings=[] if record.ceilings is None else records(CeilingFigure, record.ceilings),
        alternatives=alternatives_of(record),
        measurement=plain(record.measurement),
        environment=plain(record.environment),
    )


def build_model(record: RunRecord) -> Any:
    """The model of the run, as configured. Raises ``ValueError`` for one that does not exist."""
    given = {k: v for k, v in record.model_config.items() if k != "architecture"}
    if record.architecture not in ARCHITECTURES:  # traced: its dimensions are all that is known
        return SimpleNamespace(**given)
    return build(record.architecture, **given)


def model_spec(record: RunRecord, sizes: dict[str, Any]) -> ModelSpec:
    sees = "sam_hidden" in sizes, "clip_hidden" in sizes
    return ModelSpec(
        model_id=record.model,
        model_variant=record.architecture,
        hf_revision=None,
        config_path=None,
        hidden_size=sizes.get("hidden"),
        intermediate_size=sizes.get("intermediate"),
        num_layers=sizes.get("layers"),
        num_attention_heads=sizes.get("heads"),
        vision_backbone="sam_vit_b" if sees[0] else "clip_vit_l" if sees[1] else "other",
        uses_moe=bool(sizes.get("experts")),
        notes="",
        dimensions=plain(sizes),
    )


def tokens_prefilled(model: Any, asked: dict[str, Any]) -> int:
    """Tokens of one page, image and prompt; of the prompt alone for a model that reads text."""
    image = 0
    if asked.get("side") and hasattr(model, "image_tokens"):
        tiles = tuple(asked["tiles"]) if asked.get("tiles") else None
        image = model.image_tokens(asked["side"], tiles, asked["tile_side"])
    return int(image + asked.get("prompt_tokens", 0))


def workload_profile(record: RunRecord, model: Any) -> WorkloadProfile:
    asked = record.workload
    tiles = asked.get("tiles")
    side, tile_side = asked.get("side"), asked.get("tile_side") if tiles else None
    words = [f"a page of {side} x {side} pixels"] if side else []
    words += [f"{tiles[0]} x {tiles[1]} tiles of {tile_side}"] if tiles else []
    words += [f"{asked.get('prompt_tokens', 0)} prompt tokens"]
    words += [f"{asked.get('decode_steps', 0)} tokens decoded", f"batch {asked.get('batch', 1)}"]
    return WorkloadProfile(
        profile_id=str(asked["name"]),
        description=", ".join(words),
        seq_len=tokens_prefilled(model, asked),
        base_size=side,
        image_size=tile_side,
        crop_mode=tiles is not None,
        max_new_tokens=asked.get("decode_steps"),
        doc_kind="synthetic",
        num_pages=int(asked.get("batch", 1)),
        settings=plain(asked),
    )


def module_nodes(tree: list[Branch]) -> list[AnalyticModuleNode]:
    classes = qualified_classes()
    by_id = {branch.id: branch for branch in tree}
    return [module_node(b, by_id.get(b.parent or ""), classes) for b in tree]


def module_node(
    branch: Branch, parent: Branch | None, classes: dict[str, str]
) -> AnalyticModuleNode:
    siblings = branch.count // parent.count if parent else 1
    return AnalyticModuleNode(
        module_id=branch.id,
        name=branch.name,
        qualified_class_name=classes.get(branch.class_name, branch.class_name),
        stage=stage(branch),
        parent_id=branch.parent,
        children=list(branch.children),
        repetition="for" if siblings > 1 else "none",
        repetition_count=siblings if siblings > 1 else None,
        constructor_params=plain(branch.params),
        mirrors=branch.mirrors,
        instances=branch.count,
    )


def qualified_classes() -> dict[str, str]:
    """Module and name of every layer class, by its name, and of every architecture, by its."""
    found, rest = dict(ARCHITECTURES), list(Layer.__subclasses__())
    while rest:
        cls = rest.pop()
        found[cls.__name__] = _qualified(cls)
        rest += cls.__subclasses__()
    return found


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def stage(branch: Branch) -> Literal["vision", "projector", "prefill", "decode", "other"]:
    if "projector" in branch.paths[0]:
        return "projector"
    match branch.phase:
        case "vision" | "prefill" | "decode" as phase:
            return phase
    return "other"


def operator_categories() -> list[OperatorCategory]:
    return [
        OperatorCategory(
            category_id=kind,
            display_name=kind.replace("_", " ").capitalize(),
            description=" ".join((cls.__doc__ or "").split("\n\n")[0].split()),
            match_classes=[_qualified(cls)],
        )
        for kind, cls in OPERATORS.items()
    ]


def module_metrics(branch: Branch, record: RunRecord) -> ModuleMetricsSnapshot:
    costs = {name: plain(value) for name, value in branch.costs.items()}
    predicted, measured = costs["estimate_s"], costs["measured_s"]
    against = ratio(costs["wall_s"], costs["steady_s"])
    return ModuleMetricsSnapshot(
        module_id=branch.id,
        profile_id=str(record.workload["name"]),
        calls=int(costs["calls"]),
        total_time_ms=milliseconds(predicted),
        total_flops_tflops=costs["flops"] / TERA,
        total_io_tb=costs["bytes"] / TERABIT,
        memory_weights_gb=costs["weight_bytes"] / GIGA,
        memory_activations_gb=costs["activation_bytes"] / GIGA,
        memory_kvcache_gb=costs["kv_cache_bytes"] / GIGA,
        share_of_model_time=costs["share"],
        operator_breakdown=breakdown(branch),
        predicted_s=predicted,
        low_s=costs["low_s"],
        high_s=costs["high_s"],
        roofline_s=costs["roofline_s"],
        measured_s=measured,
        error=None if against is None else against - 1,
        provenance=branch.provenance,  # type: ignore[arg-type]  # checked by tree.weakest
        wall_s=costs["wall_s"],
        idle_s=costs["idle_s"],
        graph_s=costs["graph_s"],
        limited_by=branch.limited_by,  # type: ignore[arg-type]  # out of calib.estimates.sums.LIMITS
        flops=costs["flops"],
        io_bytes=costs["bytes"],
        weight_bytes=costs["weight_bytes"],
        activation_bytes=costs["activation_bytes"],
        kv_cache_bytes=costs["kv_cache_bytes"],
        at_least=branch.at_least,
        joules=costs["joules"],
        joules_low=costs["joules_low"],
        joules_high=costs["joules_high"],
    )


def named_share(root: ModuleMetricsSnapshot) -> float:
    """What operators with a formula take of the time, or of the bytes where no time is known."""
    parts = root.operator_breakdown
    moved = shares([o.io_bytes for o in parts])
    of_whole = [
        by_bytes if o.share_of_module_time is None else o.share_of_module_time
        for o, by_bytes in zip(parts, moved, strict=True)
    ]
    return sum(s for s, o in zip(of_whole, parts, strict=True) if o.category_id != OTHER)


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / MILLI


def breakdown(branch: Branch) -> list[OperatorMetrics]:
    """The module's operators by kind, the costliest first; shares of each column sum to 1."""
    tally = branch.operators
    by_flops = shares([v[1] for v in tally.values()]) or shares([v[2] for v in tally.values()])
    by_time: list[Any] = [plain(s) for s in shares([v[4] for v in tally.values()])] or by_flops
    found = [
        OperatorMetrics(
            category_id=kind,
            calls=int(calls),
            flops_tflops=flops / TERA,
            io_tb=moved / TERABIT,
            share_of_module_flops=of_flops,
            share_of_module_time=of_time,
            flops=flops,
            io_bytes=moved,
            predicted_s=plain(seconds),
        )
        for (kind, (calls, flops, moved, _, seconds)), of_flops, of_time in zip(
            tally.items(), by_flops, by_time, strict=True
        )
    ]
    return sorted(found, key=lambda o: (-(o.predicted_s or 0), -o.io_bytes))


def shares(values: list[float]) -> list[float]:
    """Each value's part of their sum; nothing where the sum is 0."""
    whole = sum(values)
    return [v / whole for v in values] if whole else []


def ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if reference and value is not None else None


Record = TypeVar("Record")


def energy_use(record: RunRecord) -> EnergyUse | None:
    """None where nothing was counted on the card."""
    use = record.energy
    if use is None:
        return None
    return EnergyUse(**{f.name: plain(use.get(f.name)) for f in fields(EnergyUse)})


def alternatives_of(record: RunRecord) -> list[Alternative]:
    return [] if record.alternatives is None else records(Alternative, record.alternatives)


def records(cls: type[Record], table: Any) -> list[Record]:
    """Rows of a table as dataclasses; a column that is not there, or a cell not known, is None."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    return [
        cls(**{name: plain(row.get(name)) for name in names}) for row in table.to_dict("records")
    ]


def plain(value: Any) -> Any:
    """The value as JSON has it: numpy scalars and tuples unwrapped, NaN and infinity to None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # a numpy scalar or array
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int | str | bool) or value is None:
        return value
    return str(value) if known(value) else None
