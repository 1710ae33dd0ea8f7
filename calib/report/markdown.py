"""``report.md``: the answer in a paragraph, then the tables and pictures it rests on."""

from __future__ import annotations

import math
from typing import Any

from calib.report.ceilings import INTRODUCTION, ceiling_cells, ceiling_rows
from calib.report.layers.tree import Branch
from calib.report.lines import verdict
from calib.report.measurement import fact_cells, how, phase_cells
from calib.report.record import TOTAL, RunRecord, as_code, escaped, known, with_literal_names
from calib.report.terminal import ERROR_HEADERS, Cells, component_cells, figure_cells, remarks
from calib.report.units import UNKNOWN, flops, interval, least, nbytes, percent, seconds

LEAST_SHARE = 0.01
"""Part of the time below which a module is left to ``modules.parquet``."""
FILES = {
    "estimates.parquet": "one row an operator call",
    "modules.parquet": "one row a module and phase, sums over everything below it",
    "report.json": "this report as data, `report.yaml` the same",
    "environment.json": "versions and machine",
}


def report_markdown(
    record: RunRecord,
    tree: list[Branch],
    pictures: list[tuple[str, str]],
    layers: str | None = None,
) -> str:
    """The text of ``report.md``. ``pictures``: (file name, caption); ``layers``: their folder."""
    record = with_literal_names(record)
    images = {name: f"![{alt(name)}]({name})\n\n*{caption}*" for name, caption in pictures}
    sections = [
        f"# {record.model}, {record.workload['name']} on {record.place}",
        answer(record),
        *remark_list(record),
        "## For the user",
        table(figure_cells(record)),
        "## Where the time goes",
        table(component_cells(record, tuple(ERROR_HEADERS)), bold_last=True),
        COMPONENT_NOTE + (UNSEEN_NOTE if record.measured else ""),
        images.get("components.png", ""),
        "## Operators by kind",
        table(kind_cells(record)),
        images.get("roofline.png", ""),
        "## How good the estimate is",
        fit_section(record),
        images.get("accuracy.png", ""),
        "## Modules",
        module_section(record, tree),
        "## How it was measured",
        measurement_section(record),
        *ceiling_section(record),
        "## This run",
        run_section(record, layers),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def alt(name: str) -> str:
    return name.removesuffix(".png").capitalize()


COMPONENT_NOTE = (
    "*Roofline*: the least time that the operators' FLOPs and bytes allow at the hardware's peaks. "
    "*Calibrated*: the estimate; in its interval errors hang together within a kind of operator."
)
UNSEEN_NOTE = " *Unseen*: the error of a fit that never saw this model's own shapes."


def answer(record: RunRecord) -> str:
    """How long, where it goes, how sure; without times, how much."""
    total = record.total
    if not record.timed:
        return how_much(record)
    span = interval(total["low_s"], total["high_s"])
    between = "" if span == UNKNOWN else f" (between {span.replace('-', ' and ')})"
    parts = record.components[record.components["component"] != TOTAL]
    where = largest(parts["component"], parts["estimate_s"])
    kinds = record.operators.groupby("kind", sort=False)["estimate_s"].sum()
    return (
        f"**{seconds(total['estimate_s'])}**{between} is the time predicted for "
        f"`{record.model}` on `{record.place}` with the workload "
        f"`{record.workload['name']}`, run by {record.implementation} ({record.execution}). "
        f"Of it, {where}; of the {seconds(kinds.sum())} of kernels, "
        f"{largest(kinds.index, kinds)}. "
        f"{verdict(record)} {grounds(record)}"
    )


def how_much(record: RunRecord) -> str:
    total, kinds = record.total, record.operators.groupby("kind", sort=False)["bytes"].sum()
    at_least = total.get("at_least")
    return (
        f"**{least(flops(total['flops']), at_least)}** and "
        f"**{least(nbytes(total['bytes']), at_least)}** moved is what "
        f"`{record.model}` costs with the workload `{record.workload['name']}`. Of the bytes, "
        f"{largest(kinds.index, kinds)}. No time is known: no card was given."
    )


def largest(names: Any, values: Any, count: int = 3) -> str:
    """The largest parts of a whole in words: "decode takes 63%, prefill 20%, SAM 14%"."""
    whole = sum(values) or 1
    ordered = sorted(zip(values, names, strict=True), key=lambda pair: -pair[0])[:count]
    first, *rest = [f"{_name(name)} {percent(value / whole)}" for value, name in ordered]
    name, share = first.rsplit(" ", 1)
    return ", ".join([f"{name} takes {share}", *rest])


def _name(name: Any) -> str:
    return str(name).replace("_", " ")


def grounds(record: RunRecord) -> str:
    """How the estimates are known, by their part of the time."""
    by = record.operators.groupby("provenance", sort=False)["estimate_s"].sum()
    shares = (by / by.sum()).sort_values(ascending=False)
    if list(shares.index) == ["roofline"]:
        return (
            "It is a bound rather than a forecast: no samples of this device or of any like it are "
            "known, so every kernel is taken to run at the peaks of the data sheet."
        )
    listed = ", ".join(f"{percent(share)} {name}" for name, share in shares.items())
    return f"How the estimate is known, by time: {listed}."


def remark_list(record: RunRecord) -> list[str]:
    found = [escaped(remark) for remark in remarks(record)]
    return ["\n".join(f"> - {remark}" for remark in found)] if found else []


def table(cells: Cells, bold_last: bool = False) -> str:
    """A table of GitHub's Markdown; pipes inside cells are escaped."""
    align = ["---" if i < cells.left else "---:" for i in range(len(cells.headers))]
    rows = [list(row) for row in cells.rows]
    if bold_last and rows:
        rows[-1] = [f"**{cell}**" for cell in rows[-1]]
    lines = [list(cells.headers), align, *rows]
    escaped = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def kind_cells(record: RunRecord) -> Cells:
    """Sums by kind, the costliest first; efficiency: roofline / calibrated."""
    operators = record.operators
    times = record.executions
    operators = operators.assign(
        calls=times,
        launches=times * operators["launches"],
        memory_s=operators["estimate_s"].where(operators["bound"] == "memory", 0.0),
    )
    columns = ["calls", "launches", "flops", "bytes", "memory_s", "roofline_s", "estimate_s"]
    sums = operators.groupby("kind", sort=False)[columns].sum(min_count=1)
    whole = sums["estimate_s"].sum(skipna=False) or 1
    ordered = sums.sort_values(["estimate_s", "bytes"], ascending=False).to_dict("index")
    at_least = kinds_not_known(record)
    clock, ours = measured_by_kind(record), triton_by_kind(record)
    headers = ["kind", "calls", "launches", "FLOPs", "bytes", "memory-bound", "roofline"]
    headers += ["calibrated", "share", "efficiency"]
    rows = []
    for kind, row in ordered.items():
        estimate = row["estimate_s"]
        cells = [_name(kind), f"{row['calls']:,.0f}", f"{row['launches']:,.0f}"]
        cells += [
            least(text, kind in at_least) for text in (flops(row["flops"]), nbytes(row["bytes"]))
        ]
        cells += [percent(row["memory_s"] / estimate) if estimate else UNKNOWN]
        cells += [seconds(row["roofline_s"]), seconds(estimate), percent(estimate / whole)]
        cells += [percent(row["roofline_s"] / estimate) if estimate else UNKNOWN]
        rows.append(tuple(cells + ours.get(str(kind), []) + clock.get(str(kind), [])))
    headers += [*(["by Triton"] if ours else []), *(["measured", "error"] if clock else [])]
    return Cells(tuple(headers), rows)


def kinds_not_known(record: RunRecord) -> set[str]:
    """Kinds that hold an operator which no rule knows."""
    operators = record.operators
    some = operators[operators["unknown"]] if "unknown" in operators else operators[:0]
    return set(some["kind"])


def triton_by_kind(record: RunRecord) -> dict[str, list[str]]:
    """Time of the same operators by our Triton kernels; of a kind that they do not all have, none.

    Empty where the card has no samples of them.
    """
    operators = record.operators
    if operators["triton_s"].isna().all():
        return {}
    sums = operators.groupby("kind")["triton_s"].apply(lambda s: s.sum(skipna=False))
    return {str(kind): [seconds(value)] for kind, value in sums.items()}


def measured_by_kind(record: RunRecord) -> dict[str, list[str]]:
    """Time and error of the operators that have a measured time; empty where none has. Errors are
    against steady times, as everywhere."""
    operators = record.operators[record.operators["measured_s"].notna()]
    if operators.empty:
        return {}
    # estimate / (1 + error) is the steady time, and all of a phase were slowed down alike.
    slower = operators["measured_s"] * (1 + operators["error"].astype(float))
    slower = (slower / operators["estimate_s"]).groupby(operators["phase"]).transform("median")
    operators = operators.assign(steady_s=operators["measured_s"] / slower.fillna(1.0))
    sums = operators.groupby("kind")[["estimate_s", "measured_s", "steady_s"]].sum()
    kinds = {str(k): [UNKNOWN, UNKNOWN] for k in record.operators["kind"].unique()}
    for kind, row in sums.to_dict("index").items():
        error = row["estimate_s"] / row["steady_s"] - 1 if row["steady_s"] else None
        kinds[str(kind)] = [seconds(row["measured_s"]), percent(error, signed=True)]
    return kinds


def fit_section(record: RunRecord) -> str:
    if record.fits.empty:
        return "No fit was used: there are no samples that this estimate could rest on."
    headers = ["fit", "samples", "groups", "median error", "90th percentile"]
    headers += ["roofline's median", "constant efficiency's", "inside interval", "half-width"]
    errors = ["median_error", "p90_error", "roofline_median_error", "constant_median_error"]
    paced = "known_after_s" in record.fits
    headers += ["within 5% after"] if paced else []
    rows = [
        (
            f"{row['implementation']} {_name(row['kind'])} {row['dtype']}",
            f"{row['samples']:,}",
            f"{row['groups']:,}",
            *(percent(row[column]) for column in (*errors, "coverage", "halfwidth")),
            *([known_after(row["known_after_s"])] if paced else []),
        )
        for row in record.fits.to_dict("records")
    ]
    return (
        "Errors on operators that the fit did not see: samples are held out in groups of like "
        "shapes. Beside them, on the same samples, the plain roofline and one constant efficiency "
        "fitted to the rest.\n\n" + table(Cells(tuple(headers), rows))
    )


def known_after(value: float) -> str:
    """Seconds of the card's time; a kind that is not yet known so well has none."""
    return "not yet" if math.isinf(value) else UNKNOWN if math.isnan(value) else f"{value:.0f} s"


def ceiling_section(record: RunRecord) -> list[str]:
    """Heading and table; nothing where no ceiling was measured."""
    rows = ceiling_rows(record)
    if not rows:
        return []
    return ["## What the device reaches", INTRODUCTION, table(ceiling_cells(rows))]


def module_section(record: RunRecord, tree: list[Branch]) -> str:
    cost, of_what = ("estimate_s", "time") if record.timed else ("bytes", "bytes")
    least = LEAST_SHARE * (tree[0].costs[cost] or 0)
    shown = [b for b in tree if (b.costs[cost] or 0) >= least]
    headers = ["module", "class", "instances", "FLOPs", "bytes", "weights", "roofline"]
    clock = record.clock_of_modules
    headers += ["calibrated", "share"] + (["measured", "error"] if clock else [])
    rows = [module_row(branch, clock, tree[0]) for branch in shown]
    return (
        f"Sums over all instances and everything below them; identical siblings are folded. "
        f"Modules below {percent(LEAST_SHARE)} of the {of_what} are in `modules.parquet` only."
        f"{kernels_only(record)}\n\n" + table(Cells(tuple(headers), rows, left=2))
    )


def kernels_only(record: RunRecord) -> str:
    """That modules sum kernels, where the whole takes longer than its kernels do; and of measured
    times, that errors are against steady ones."""
    if record.clock_of_modules == "kernels":
        return " *Measured* is the time of the kernels that a module launched, as is *calibrated*."
    if record.clock_of_modules:
        return (
            " *Measured* is what the clock showed; errors have the machine's drift taken out, as "
            "in the table above."
        )
    kernels, whole = record.total["kernel_s"], record.total["estimate_s"]
    if not known(whole) or kernels >= whole:
        return ""
    return (
        f" Times are those of kernels, {seconds(kernels)} in all; of the {seconds(whole)} above, "
        "the rest is what the device waits for the host."
    )


def module_row(branch: Branch, clock: str | None, whole: Branch) -> tuple[str, ...]:
    """Beside a clock of the wall that time, else that of the kernels; the share is of what is
    shown."""
    costs, column = branch.costs, "wall_s" if clock == "wall" else "estimate_s"
    shown, of = costs[column], whole.costs[column]
    cells = [
        "&nbsp;" * 3 * branch.depth + as_code(branch.name),
        escaped(branch.class_name),
        str(branch.count),
        least(flops(costs["flops"]), branch.at_least),
        least(nbytes(costs["bytes"]), branch.at_least),
        nbytes(costs["weight_bytes"]),
        seconds(costs["roofline_s"]),
        seconds(shown),
        percent(shown / of if of and shown is not None else None),
    ]
    if clock:
        steady = costs["steady_s"]
        error = shown / steady - 1 if steady and shown is not None else None
        cells += [seconds(costs["measured_s"]), percent(error, signed=True)]
    return tuple(cells)


def measurement_section(record: RunRecord) -> str:
    found = record.measurement
    if found is None:
        return "It was not: nothing ran on this hardware."
    facts = fact_cells(found)
    parts = [how(found)]
    parts += [table(phase_cells(found))] if found.get("repeats") else []
    parts += [table(facts)] if facts.rows else []
    return "\n\n".join(parts)


def run_section(record: RunRecord, layers: str | None) -> str:
    hardware = record.hardware
    peaks = ", ".join(f"{d} {rate / 1e12:.4g}" for d, rate in hardware["peak_flops"].items())
    bandwidth = f"{hardware['bandwidth'] / 1e9:.4g} GB/s" if known(hardware["bandwidth"]) else ""
    rows: list[tuple[str, ...]] = [
        ("run", f"`{record.run_id}`, {record.created}"),
        ("workload", ", ".join(f"{k} {v}" for k, v in record.workload.items() if v is not None)),
        ("hardware", f"{', '.join(hardware['device_names'])} ({hardware['provenance']} peaks)"),
        ("peaks [TFLOP/s]", peaks or UNKNOWN),
        ("bandwidth", bandwidth or UNKNOWN),
        *((k, str(v)) for k, v in record.environment.items() if v and isinstance(v, str)),
    ]
    files = dict(FILES)
    if record.launches is not None:
        files["trace.json"] = "one pass of the last phase on host and device, for Perfetto"
    if layers:
        files[f"{layers}/index.md"] = "what each layer computes, with its formulas"
    listed = "\n".join(f"- [`{name}`]({name}): {what}" for name, what in files.items())
    return table(Cells(("what", "value"), rows, left=2)) + "\n\n" + listed
