"""``report.md``: the answer, then what it rests on, in the order of the page, and caveats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from calib.report.ceilings import INTRODUCTION, ceiling_cells, ceiling_rows
from calib.report.document.kinds import kind_cells
from calib.report.document.tables import grid_table, module_table, table
from calib.report.layers.tree import Branch
from calib.report.lines import verdict
from calib.report.measurement import fact_cells, how, phase_cells
from calib.report.page import answer, work
from calib.report.page.cells import readable, span
from calib.report.page.certainty import certainty_of, fit_grid, worst_grid
from calib.report.page.sums import distinct
from calib.report.page.what_if import what_if_grid
from calib.report.record import RunRecord, escaped, known, with_literal_names
from calib.report.terminal import caveats, cost_cells, figure_cells
from calib.report.units import UNKNOWN, flops, least, nbytes, percent

if TYPE_CHECKING:
    import pandas as pd

WORST = 3
"""Operators that are listed as known worst."""
FILES = {
    "estimates.parquet": "a row an operator call",
    "modules.parquet": "a row a module and phase",
    "report.json": "this as data, `report.yaml` the same",
    "environment.json": "versions and machine",
}


def report_markdown(
    record: RunRecord,
    tree: list[Branch],
    pictures: list[tuple[str, str]],
    layers: str | None = None,
    operators: pd.DataFrame | None = None,
) -> str:
    """The text of ``report.md``. ``pictures``: (file name, caption); ``layers``: their folder;
    ``operators``: ``distinct`` of the record, if it is known."""
    record = with_literal_names(record)
    images = {name: f"![{alt(name)}]({name})\n\n*{caption}*" for name, caption in pictures}
    times, operators = answer.timed(record), distinct(record) if operators is None else operators
    sections = [
        *first(record, operators),
        f"## {'Where the time goes' if times else 'What it costs'}",
        *where(record, tree, times, images),
        *(["## Roofline", images["roofline.png"]] if "roofline.png" in images else []),
        *(["## How good it is", *how_good(record, operators, images)] if times else []),
        *what_if(record),
        *measurement_section(record),
        *ceiling_section(record),
        "## This run",
        *run_section(record, layers),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def alt(name: str) -> str:
    return name.removesuffix(".png").capitalize()


def first(record: RunRecord, operators: pd.DataFrame) -> list[str]:
    """What the page's card says: what was asked, the figures, a line a question."""
    parts = [f"# {answer.title(record)}", ", ".join(answer.settings(record))]
    if answer.timed(record):
        parts.append(table(figure_cells(record)))
    elif answer.fits(record):
        parts.append(how_much(record))
    facts = [
        f"- **{fact.question}** {escaped(' '.join(filter(None, (fact.answer, fact.more))))}"
        for fact in answer.facts(record, operators)
    ]
    return [*parts, "\n".join(facts)]


def how_much(record: RunRecord) -> str:
    """Of a run without times: its work."""
    total, at_least = record.total, record.total.get("at_least")
    kinds = record.operators.groupby("kind", sort=False)["bytes"].sum()
    kinds = kinds.sort_values(ascending=False).head(3) / (kinds.sum() or 1)
    shares = ", ".join(f"{readable(kind)} {percent(share)}" for kind, share in kinds.items())
    return (
        f"**{least(flops(total['flops']), at_least)}** and "
        f"**{least(nbytes(total['bytes']), at_least)}** moved ({shares}). No time is known: no "
        "card was given."
    )


def where(record: RunRecord, tree: list[Branch], times: bool, images: dict[str, str]) -> list[str]:
    """Parts, modules and kinds of operators."""
    if times:
        parts = [work.phase_words(record), grid_table(work.component_grid(record))]
        parts += [images.get("components.png", "")]
    else:
        parts = [table(cost_cells(record), bold_last=True)]
    return [
        *parts,
        "### Modules",
        f"The dearest, with all below them; siblings that are alike are folded.{clocked(record)}",
        module_table(record, tree, times),
        "### Operators by kind",
        table(kind_cells(record, times)),
        images.get("kinds.png", ""),
    ]


def clocked(record: RunRecord) -> str:
    """What *measured* and *error* are of, where there is a clock."""
    if record.clock_of_modules == "kernels":
        return " *Measured* is the time of the kernels that a module launched."
    return " Errors have the machine's drift taken out." if record.clock_of_modules else ""


def how_good(record: RunRecord, operators: pd.DataFrame, images: dict[str, str]) -> list[str]:
    parts = [verdict(record)]
    certain, total = certainty_of(record), record.total
    if certain:
        between = span(total["low_s"], total["high_s"])
        parts[0] += f" The 90% interval of the whole is {between}"
        if certain.host_s:
            parts[0] += f"; the host accounts for {percent(certain.host_share)} of its width"
        parts[0] += "."
    parts.append(images.get("accuracy.png", ""))
    worst = worst_grid(operators, WORST)
    if worst.rows and not record.measured:
        parts += ["Known worst:", grid_table(worst, without=("phase", "ends"))]
    return [*parts, *fit_section(record)]


def fit_section(record: RunRecord) -> list[str]:
    """Held-out errors; of a card that is being calibrated how fast they came down, too."""
    fits = fit_grid(record)
    if fits is None:
        return ["No fit was used: there are no samples that this estimate could rest on."]
    one = record.fits["implementation"].nunique() == 1
    parts = [
        "Held-out errors, on groups of shapes that the fit did not see:",
        grid_table(fits, without=("groups", "timed with") if one else ("groups",)),
    ]
    if "known_after_s" in record.fits:
        known_after_s = [
            f"{readable(row['kind'])}, {row['dtype']} {known_after(row['known_after_s'])}"
            for row in record.fits.to_dict("records")
        ]
        parts.append(f"Within 5% after: {'; '.join(known_after_s)}.")
    return parts


def known_after(value: float) -> str:
    """Seconds of the card's time; a kind that is not yet known so well has none."""
    return "not yet" if math.isinf(value) else UNKNOWN if math.isnan(value) else f"{value:.0f} s"


def what_if(record: RunRecord) -> list[str]:
    grid = what_if_grid(record)
    if grid is None:
        return []
    return ["## What if", "One thing changed, the rest as asked:", grid_table(grid)]


def ceiling_section(record: RunRecord) -> list[str]:
    """Heading and table; nothing where no ceiling was measured."""
    rows = ceiling_rows(record)
    if not rows:
        return []
    return ["## What the device reaches", INTRODUCTION, table(ceiling_cells(rows))]


def measurement_section(record: RunRecord) -> list[str]:
    found = record.measurement
    if found is None:
        return []
    facts = fact_cells(found)
    parts = ["## How it was measured", how(found)]
    parts += [table(phase_cells(found))] if found.get("repeats") else []
    return [*parts, table(facts)] if facts.rows else parts


def run_section(record: RunRecord, layers: str | None) -> list[str]:
    """Caveats, the device, the versions, the files."""
    hardware = record.hardware
    peaks = ", ".join(f"{d} {rate / 1e12:.4g}" for d, rate in hardware["peak_flops"].items())
    speed = f"{hardware['bandwidth'] / 1e9:.4g} GB/s" if known(hardware["bandwidth"]) else UNKNOWN
    told = [f"{k} {v}" for k, v in record.environment.items() if v and isinstance(v, str)]
    files = dict(FILES)
    if record.launches is not None:
        files["trace.json"] = "every phase on host and device, for Perfetto"
    if layers:
        files[f"{layers}/index.md"] = "each layer's formulas"
    return [
        "\n".join(f"- {escaped(remark)}" for remark in caveats(record)),
        f"`{record.run_id}`, {record.created}, workload {record.workload['name']}. "
        f"{', '.join(hardware['device_names'])}, {hardware['provenance']} peaks [TFLOP/s]: "
        f"{peaks or UNKNOWN}; {speed}. Versions: {', '.join(told)}.",
        "\n".join(f"- [`{name}`]({name}): {what}" for name, what in files.items()),
    ]
