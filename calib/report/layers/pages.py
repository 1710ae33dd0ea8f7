"""A page a layer class: what it is, what runs in it, its formulas, and this run's numbers.

Layers are built again from the report's model and workload; the formulas come from
:mod:`calib.report.layers.formulas`, the words from docstrings, the numbers from the report.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from calib.report.document.tables import table
from calib.report.layers.analytic_report import AnalyticModelReport, ModuleMetricsSnapshot
from calib.report.layers.build import build_report
from calib.report.layers.formulas import (
    OPERATOR_FIELDS,
    executed,
    latex,
    layer_form,
    layer_totals,
    operator_form,
    operator_formulas,
    sizes_of,
    symbolic_layer,
    word,
)
from calib.report.layers.tree import branches
from calib.report.record import RunRecord, escaped
from calib.report.terminal import Cells
from calib.report.units import flops, nbytes, percent, seconds
from model import ops
from model.architectures import build
from model.layer import Call, Child, Layer
from model.workload import Workload

LONGEST = 700
"""Characters of LaTeX beyond which a total is not written out: it no longer tells anything."""


NAMES = (
    "- in formulas, $`F`$ are FLOPs (`tensor_core_flops`, `cuda_core_flops`, `min_flops`), $`R`$ "
    "and $`W`$ bytes read and written, $`R_{weights}`$ the part of $`R`$ that is parameters."
)


@dataclass(frozen=True)
class Use:
    """A layer as one phase uses it, and the first path where it does."""

    phase: str
    path: str
    layer: Layer


def write_layer_docs(report: AnalyticModelReport | RunRecord, output_dir: Path | str) -> list[Path]:
    """Write ``index.md`` and a page a layer class into ``output_dir``; returns their paths.

    Raises ``ValueError`` for a model or workload that cannot be built, ``OSError`` for a folder
    that cannot be written.
    """
    known = report if isinstance(report, AnalyticModelReport) else _report(report)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    uses = layer_uses(known)
    numbers = numbers_by_class(known)
    pages = {f"{cls.__name__}.md": page(cls, found, numbers) for cls, found in uses.items()}
    pages["index.md"] = index(known, uses, numbers)
    paths = [folder / name for name in pages]
    for path, text in zip(paths, pages.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _report(record: RunRecord) -> AnalyticModelReport:
    return build_report(record, branches(record))


def layer_uses(report: AnalyticModelReport) -> dict[type[Layer], list[Use]]:
    """Every layer class of the model with the distinct layers of it, in order of execution."""
    model = build(report.model.model_variant, **report.model.dimensions)
    asked = {f.name: report.workload.settings[f.name] for f in fields(Workload)}
    asked["tiles"] = tuple(asked["tiles"]) if asked["tiles"] else None
    found: dict[type[Layer], dict[tuple[str, Layer], Use]] = {}
    for phase, passed in model.phases(Workload(**asked)).items():
        for node in passed.layer.nodes():
            of_class = found.setdefault(type(node.layer), {})
            for layer in node.runs:
                of_class.setdefault((phase, layer), Use(phase, node.path, layer))
    return {cls: list(uses.values()) for cls, uses in found.items()}


Numbers = dict[str, dict[str, list[ModuleMetricsSnapshot]]]
"""Metrics of the report's nodes by class and phase."""


def numbers_by_class(report: AnalyticModelReport) -> Numbers:
    found: Numbers = {}
    for node, metrics in zip(report.modules, report.module_metrics, strict=True):
        name = node.qualified_class_name.rsplit(".", 1)[-1]
        phase = node.module_id.split("/")[0]
        found.setdefault(name, {}).setdefault(phase, []).append(metrics)
    return found


def index(report: AnalyticModelReport, uses: dict[type[Layer], list[Use]], numbers: Numbers) -> str:
    rows: list[tuple[str, ...]] = []
    for cls, found in uses.items():
        of_class = [m for metrics in numbers.get(cls.__name__, {}).values() for m in metrics]
        share = summed(m.share_of_model_time for m in of_class)
        phases = ", ".join(dict.fromkeys(use.phase for use in found))
        name, mirrors = f"[{cls.__name__}]({cls.__name__}.md)", f"`{cls.mirrors}`"
        rows.append((name, mirrors, phases, first_paragraph(cls), percent(share)))
    headers = ("layer", "mirrors", "phases", "what it is", "share of time")
    return (
        f"# The layers of {escaped(report.model.model_id)}\n\n"
        f"Generated with the report of `{report.report_id}` ({report.workload.description}). "
        "Formulas are what the code's own properties return for symbols; a share includes the "
        "layer's parts, so shares overlap.\n\n"
        f"{table(Cells(headers, rows, left=4))}\n\n"
        f"## Conventions\n\n{conventions()}\n{NAMES}\n"
    )


def conventions() -> str:
    """What ``model.ops`` says of all operators."""
    text = inspect.cleandoc(ops.__doc__ or "")
    return markdown_of(text[text.index("- ") :])


def first_paragraph(cls: type) -> str:
    return " ".join(markdown_of(inspect.getdoc(cls) or "").split("\n\n")[0].split())


def markdown_of(text: str) -> str:
    """A docstring's reStructuredText as Markdown: roles and double backquotes become code."""
    return re.sub(r"(?::\w+:)?`+([^`]+)`+", r"`\1`", text)


def page(cls: type[Layer], uses: list[Use], numbers: Numbers) -> str:
    forms = distinct_forms(uses)
    sections = [
        f"# {cls.__name__}",
        markdown_of(inspect.getdoc(cls) or ""),
        f"Mirrors `{cls.mirrors}`; in the code `{cls.__module__}.{cls.__name__}`. "
        "[All layers](index.md)",
        "## Dimensions",
        dimensions(cls, uses),
    ]
    for number, use in enumerate(forms, 1):
        title = "## What runs" + (f", form {number} of {len(forms)}" if len(forms) > 1 else "")
        sections += [title, *what_runs(use, alone=len(forms) == 1)]
    sections += [*formula_sections(forms), "## In this run", in_this_run(cls, numbers)]
    return "\n\n".join(sections) + "\n"


def distinct_forms(uses: list[Use]) -> list[Use]:
    """One use of each sequence of operators that the class runs."""
    found: dict[Any, Use] = {}
    for use in uses:
        found.setdefault(layer_form(use.layer), use)
    return list(found.values())


def dimensions(cls: type[Layer], uses: list[Use]) -> str:
    """Each field with the values it has in every phase."""
    phases = list(dict.fromkeys(use.phase for use in uses))
    rows: list[tuple[str, ...]] = []
    for field in fields(cls):  # type: ignore[arg-type]  # every layer is a dataclass
        values = [[getattr(u.layer, field.name) for u in uses if u.phase == p] for p in phases]
        if not any(isinstance(v, Layer | tuple) for column in values for v in column):
            rows.append((f"`{field.name}`", *(listed(column) for column in values)))
    if not rows:
        return "None of its own: it is made of its parts."
    return table(Cells(("field", *phases), rows))


def listed(values: Iterable[Any], most: int = 5) -> str:
    distinct = list(dict.fromkeys("-" if v is None else str(v) for v in values))
    return ", ".join(distinct[:most]) + (", ..." if len(distinct) > most else "")


def what_runs(use: Use, alone: bool) -> list[str]:
    """The diagram and the table of one form, and its totals as formulas."""
    symbolic, names = symbolic_layer(use.layer)
    where = "" if alone and names else f"As in {use.phase}, `{use.path or 'the root'}`."
    fixed = [f"`{n}` = {vars(use.layer)[n]}" for n in sizes_of(use.layer) if n not in names]
    if fixed:
        where += f" What runs depends on {', '.join(fixed)}, which stays a number below."
    sections = (where.strip(), mermaid(use.layer), steps(symbolic))
    return [s for s in (*sections, totals(use.layer, symbolic, names)) if s]


def mermaid(layer: Layer) -> str:
    """A flow chart of operators and parts in order; what repeats is one box."""
    boxes = run_lengths(box(step) for step in executed(layer))
    lines = []
    for number, ((label, is_part), count) in enumerate(boxes):
        text = label + (f" x {count}" if count > 1 else "")
        lines.append(f's{number}[["{text}"]]' if is_part else f's{number}("{text}")')
    if len(boxes) > 1:
        lines.append(" --> ".join(f"s{number}" for number in range(len(boxes))))
    return "```mermaid\nflowchart TD\n    " + "\n    ".join(lines) + "\n```"


def box(step: Call | Child) -> tuple[str, bool]:
    """A label, and whether it is a part; layers.0 and layers.1 have the same label."""
    if isinstance(step, Child):
        return f"{part_name(step)}: {type(step.layer).__name__}", True
    return operator_name(step), False


def part_name(step: Child) -> str:
    return re.sub(r"\.\d+$", ".*", step.name)


def operator_name(step: Call) -> str:
    return str(vars(step.op).get("name") or step.op.operator.replace("_", " "))


def run_lengths(items: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(item, len(list(same))) for item, same in groupby(items)]


def steps(layer: Layer) -> str:
    """What each step works on, in the symbols of the layer."""
    rows: list[tuple[str, ...]] = []
    for (name, of, sizes, launches, times), run in run_lengths(map(step_cells, executed(layer))):
        rows.append((name, of, sizes, launches, in_latex(run * times)))
    headers = ("step", "of", "sizes other than 0 and 1", "launches each", "times")
    return table(Cells(headers, rows, left=3))


def step_cells(step: Call | Child) -> tuple[str, str, str, str, Any]:
    if isinstance(step, Child):
        name = type(step.layer).__name__
        sizes = {word(n): vars(step.layer)[n] for n in symbols_in(step.layer)}
        return f"`{part_name(step)}`", f"[{name}]({name}.md)", equations(sizes), "", 1
    sizes = {OPERATOR_FIELDS[n][0]: v for n, v in step.op.shape().items()}
    of = f"`{type(step.op).__name__}`"
    return operator_name(step), of, equations(sizes), str(step.launches), step.count


def symbols_in(layer: Layer) -> list[str]:
    """Fields that are sizes, be it as numbers or as formulas."""
    return [
        name
        for name, value in vars(layer).items()
        if not isinstance(value, bool | str | Layer | tuple) and value is not None
    ]


def equations(sizes: dict[str, Any]) -> str:
    """Sizes by letter; one of 0 or 1 says nothing."""
    shown = {n: v for n, v in sizes.items() if not (isinstance(v, int) and v in (0, 1))}
    return ", ".join(f"$`{letter} = {latex(value)}`$" for letter, value in shown.items())


def in_latex(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"$`{latex(value)}`$"


def totals(layer: Layer, symbolic: Layer, names: dict[str, str]) -> str:
    """The layer's own totals, its parts included, where they can be written in its sizes."""
    written = layer_totals(layer, symbolic, names)
    lines = [rf"{name} &= {text}" for name, text in written.items() if len(text) <= LONGEST]
    if not lines:
        return ""
    return "In all, parts included ($`P`$: parameters):\n\n" + aligned(lines)


def aligned(equations: Iterable[str]) -> str:
    body = " \\\\\n".join(equations)
    return f"```math\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n```"


def formula_sections(forms: list[Use]) -> list[str]:
    """The formulas of every operator that the layer itself calls, with their assumptions."""
    found: dict[type, dict[Any, ops.Operator]] = {}
    for use in forms:
        for step in executed(use.layer):
            if isinstance(step, Call):
                found.setdefault(type(step.op), {}).setdefault(operator_form(step.op), step.op)
    if not found:
        return ["## Formulas", "Its own pass calls no operator that has a formula: see its parts."]
    sections = ["## Formulas and assumptions"]
    for cls, of_class in found.items():
        sections += [f"### {cls.__name__}", markdown_of(inspect.getdoc(cls) or "")]
        sections += [operator_section(op) for op in of_class.values()]
    return sections


def operator_section(op: ops.Operator) -> str:
    """Formulas with their symbols, and what the code remarks on each."""
    found = operator_formulas(op)
    symbols = "; ".join(f"$`{letter}`$ {meaning}" for letter, meaning in found.symbols)
    remarks = [f"- $`{f.name}`$: {markdown_of(f.remark)}" for f in found.formulas if f.remark]
    parts = [
        f"**{found.title}**: {symbols}.",
        aligned(f"{f.name} &= {f.latex}" for f in found.formulas),
        "\n".join(remarks),
    ]
    return "\n\n".join(part for part in parts if part)


def in_this_run(cls: type[Layer], numbers: Numbers) -> str:
    """Sums over all layers of the class, phase by phase."""
    rows: list[tuple[str, ...]] = []
    for phase, metrics in numbers.get(cls.__name__, {}).items():
        rows.append(
            (
                phase,
                f"{sum(m.calls for m in metrics):,}",
                flops(sum(m.flops for m in metrics)),
                nbytes(sum(m.io_bytes for m in metrics)),
                nbytes(sum(m.weight_bytes for m in metrics)),
                nbytes(max(m.activation_bytes for m in metrics)),
                nbytes(sum(m.kv_cache_bytes for m in metrics)),
                seconds(summed(m.roofline_s for m in metrics)),
                seconds(summed(m.predicted_s for m in metrics)),
                seconds(summed(m.measured_s for m in metrics)),
            )
        )
    headers = ("phase", "passes", "FLOPs", "bytes", "weights", "activations", "KV cache")
    return table(Cells((*headers, "roofline", "calibrated", "measured"), rows))


def summed(values: Iterable[float | None]) -> float | None:
    """Null where one of the values is."""
    found = list(values)
    return None if None in found else sum(v for v in found if v is not None)
