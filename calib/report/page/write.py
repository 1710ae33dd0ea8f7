"""From a run's record to ``report.html``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.layers.tree import Branch
from calib.report.page import answer, certainty, work
from calib.report.page.cells import span
from calib.report.page.figures.clock import against_the_clock
from calib.report.page.figures.roofline import LAST_CACHE, rooflines
from calib.report.page.figures.style import kind_scale
from calib.report.page.figures.timeline import timeline
from calib.report.page.library import compiled_templates, vega_script
from calib.report.page.sums import distinct
from calib.report.page.what_if import what_if_grid
from calib.report.record import RunRecord
from calib.report.terminal import caveats
from calib.report.units import seconds

if TYPE_CHECKING:
    import pandas as pd

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"


def write_page(
    record: RunRecord, tree: list[Branch], folder: Path, operators: pd.DataFrame | None = None
) -> None:
    """Write ``report.html`` into ``folder``. ``operators``: ``distinct`` of the record, if it is
    known."""
    (folder / PAGE).write_text(page(record, tree, operators), encoding="utf-8")


def page(record: RunRecord, tree: list[Branch], operators: pd.DataFrame | None = None) -> str:
    """The whole page. What comes from files and names is escaped by the template."""
    summed = distinct(record) if operators is None else operators
    return rendered("run.html", **contents(record, tree, summed))


def rendered(template: str, draws: bool = False, **named: Any) -> str:
    """``draws``: the page draws a figure of its own, beside those in ``figures``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(TEMPLATES)
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    options["bytecode_cache"] = compiled_templates()
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
    own = {n: Markup((TEMPLATES / n).read_text("utf-8")) for n in ("style.css", "page.js")}
    named["library"] = Markup(vega_script()) if draws or named["figures"] else ""
    more = (TEMPLATES / "explorer.js").read_text("utf-8") if draws else ""
    named["explorer_code"] = Markup(more)
    return made.get_template(template).render(style=own["style.css"], code=own["page.js"], **named)


def contents(record: RunRecord, tree: list[Branch], operators: pd.DataFrame) -> dict[str, Any]:
    """All that the template shows, in the order of the page."""
    times = answer.timed(record)
    roofs = rooflines(record, operators) if times else {}
    pass_of = timeline(record.last_pass) if times else None
    clock = against_the_clock(operators) if times else None
    figures = {f"roofline-{phase}": spec for phase, spec in roofs.items()}
    figures |= {n: s for n, s in (("timeline", pass_of), ("clock", clock)) if s}
    return {
        "title": answer.title(record),
        "settings": answer.settings(record),
        "tiles": answer.tiles(record),
        "facts": answer.facts(record, operators),
        "times": times,
        "unfit": not answer.fits(record),
        "used": memory_share(record),
        **where(record, tree, operators, times),
        "roofs": list(roofs),
        "kinds": key(operators["kind"]),
        "pass_kinds": key([] if record.last_pass is None else record.last_pass["kind"]),
        "cached": record.ceilings is not None and LAST_CACHE in set(record.ceilings["name"]),
        "last_pass": last_pass(record),
        "alternatives": what_if_grid(record),
        **how_good(record, operators, times),
        "notes": caveats(record),
        "about": about(record),
        "figures": figures,
    }


def where(
    record: RunRecord, tree: list[Branch], operators: pd.DataFrame, times: bool
) -> dict[str, Any]:
    """Tables of where the time goes, or the bytes where no time is shown."""
    return {
        "components": work.component_grid(record) if times else None,
        "waits": bool((record.components["estimate_s"] > record.components["kernel_s"]).any()),
        "passes": work.phase_words(record) if times else "",
        "modules": work.module_grid(record, tree, times),
        "by_kind": work.kind_grid(operators) if times else None,
        "dearest": work.operator_grid(operators) if times else None,
    }


def key(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """(kind, its colour) of each."""
    scale = kind_scale(kinds)
    return list(zip(scale["domain"], scale["range"], strict=True))


def last_pass(record: RunRecord) -> str:
    """What the timeline shows: the last phase, of which there may be many passes."""
    phase = str(record.operators["phase"].iloc[-1])
    return f"{phase} step" if phase == answer.DECODE else f"pass of {phase}"


def how_good(record: RunRecord, operators: pd.DataFrame, times: bool) -> dict[str, Any]:
    parts = certainty.certainty_of(record) if times else None
    total = record.total
    return {
        "fits": certainty.fit_grid(record),
        "worst": certainty.worst_grid(operators) if times else None,
        "beside": certainty.clock_grid(operators) if times else None,
        "parts": parts,
        "span": span(total["low_s"], total["high_s"]) if times else "",
        "widths": {k: seconds(getattr(parts, f"{k}_s")) for k in ("width", "kernels", "host")}
        if parts
        else {},
    }


def memory_share(record: RunRecord) -> float | None:
    """Of the device's memory, what is needed, at most 1."""
    memory = record.memory
    return min(memory["needed_bytes"] / memory["memory_bytes"], 1.0) if memory else None


def about(record: RunRecord) -> list[tuple[str, str]]:
    """The run and its environment, a line each."""
    hardware = record.hardware
    peaks = ", ".join(f"{d} {rate / 1e12:.4g}" for d, rate in hardware["peak_flops"].items())
    rows = [
        ("run", record.run_id),
        ("made", record.created),
        ("workload", ", ".join(f"{k} {v}" for k, v in record.workload.items() if v is not None)),
        ("device", ", ".join(hardware["device_names"])),
        ("peaks [TFLOP/s]", f"{peaks} ({hardware['provenance']})"),
        ("bandwidth", f"{hardware['bandwidth'] / 1e9:.4g} GB/s"),
        *((k, str(v)) for k, v in record.environment.items() if v and isinstance(v, str)),
    ]
    return [(name, value) for name, value in rows if value]
