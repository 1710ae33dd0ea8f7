"""What a checklist leaves behind: a page, and few small files beside it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.card.checklist import DONE, Outcome, Step

MOST_FILES, MOST_BYTES = 8, 16 * 2**20
RESULTS = ("model/modules.parquet", "model/estimates.parquet", "pool.parquet")
"""Files of the steps that are kept, beside the samples, the outcomes and the page."""
PACKED = (
    *("models/models.json", "models/*.parquet", "graph.json", "agree.json"),
    *("energy.parquet", "energy.jsonl", "energy.json"),
    *(
        "kernels/kernels.parquet",
        "tuned/kernels.parquet",
        "tuned/sm_*.json",
        "tables.parquet",
        "repeat.parquet",
    ),
    *("model/report.md", "model/report.json", "samples/*/pace.json"),
)
"""Those that ``steps.zip`` holds, as they lie in the folder of work."""
PACK = "steps.zip"


def data_card(samples: Sequence[Any]) -> dict[str, str]:
    """What the samples are of: device, versions, clocks, how they were timed, what is discarded."""
    if not samples:
        return {}
    first = samples[0]
    clocks = sorted(s.sm_clock_hz / 1e6 for s in samples if s.sm_clock_hz)
    discarded = [s for s in samples if s.discarded]
    started = sorted(s.started for s in samples if s.started)
    card = {
        "device": f"{first.device} ({first.hardware})",
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(samples[-1].versions.items())),
        "measured": f"{started[0]} to {started[-1]}" if started else "",
        "samples": _counts(s.implementation for s in samples),
        "status": _counts(s.status for s in samples),
        "timed by": _counts(s.method or "-" for s in samples),
        "faults": _counts(s.fault for s in samples if s.fault) or "none known",
        "attention": _counts(s.backend for s in samples if s.backend) or "-",
        "throttled by": _counts(s.throttle for s in samples if s.throttle) or "nothing",
        "discarded": f"{sum(s.discarded for s in discarded)} repeats of {len(discarded)} samples",
    }
    if clocks:
        card["SM clock [MHz]"] = f"{clocks[0]:.0f} to {clocks[-1]:.0f}, median " + (
            f"{clocks[len(clocks) // 2]:.0f}"
        )
    return card


def _counts(values: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(values).most_common())


def ceiling_section(samples: Sequence[Any], hardware: Any) -> list[str]:
    """Measured ceilings beside the datasheet, and beside what the clock would allow."""
    from calib.report.ceilings import INTRODUCTION, ceiling_cells
    from calib.samples.ceilings import ceilings

    cells = ceiling_cells([asdict(c) for c in ceilings(samples, hardware)])
    return ["## Ceilings", INTRODUCTION, table(cells.headers, cells.rows)]


def step_rows(plan: Sequence[Step], outcomes: Mapping[str, Outcome]) -> list[tuple[str, ...]]:
    return [
        (s.name, s.title, outcomes[s.name].status, f"{outcomes[s.name].seconds:.0f} s")
        for s in plan
    ]


def page(
    plan: Sequence[Step],
    outcomes: Mapping[str, Outcome],
    work: Path,
    samples: Sequence[Any],
    hardware: Any,
    notes: Sequence[str] = (),
) -> str:
    """The summary as Markdown: steps, data card, ceilings, figures of the steps, failures."""
    parts = [
        "# What ran on this card",
        table(("step", "what", "outcome", "took"), step_rows(plan, outcomes)),
    ]
    parts += [f"- {note}" for note in notes]
    if samples:
        parts += ["## Samples", table(("what", "value"), list(data_card(samples).items()))]
        parts += ceiling_section(samples, hardware)
    for name, title in (
        ("agree", "Cold by events, by graph and by the profiler (graph over events)"),
        ("tables", "Beside public tables (ours over theirs)"),
        ("repeat", "The same shapes twice (difference)"),
        ("energy", "Energy, off the card's counter"),
    ):
        path = work / f"{name}.json"
        if outcomes[name].status == DONE and path.exists():
            found = json.loads(path.read_text("utf-8"))
            rows = [(k, _short(v)) for k, v in found.items() if not isinstance(v, list)]
            parts += [f"## {title}", table(("what", "value"), rows)]
    parts += model_section(work)
    if outcomes["graph"].status == DONE:
        parts += decode_section(work)
    for path in (work / "kernels" / "kernels.md", work / "model" / "report.md"):
        if path.exists():
            parts.append(path.read_text("utf-8").replace("\n# ", "\n## ").strip())
    for name, outcome in outcomes.items():
        if outcome.detail:
            parts += [f"## Why {name} {outcome.status}", f"```\n{outcome.detail}\n```"]
    return "\n\n".join(parts) + "\n"


def decode_section(work: Path) -> list[str]:
    """One decode step, eager and as a graph: measured, and estimated by the model's own run, whose
    decode phase stands at the same context to within a token."""
    measured = json.loads((work / "graph.json").read_text("utf-8"))
    report = work / "model" / "report.json"
    phases = json.loads(report.read_text("utf-8"))["timeline"] if report.exists() else []
    decode = next((p for p in phases if p["phase"] == "decode"), {})
    rows = []
    clocks = (("kernels", "kernel_s"), ("graph", "graph_s"), ("eager", "wall_s"))
    for name, column in clocks:
        seconds, estimate = measured.get(f"{name}_median_s"), decode.get(column)
        if seconds is None:
            continue
        off = "-" if estimate is None else f"{estimate / seconds - 1:+.1%}"
        rows.append((name, _ms(seconds), _ms(estimate), off))
    return [
        f"## A decode step at a context of {measured['context']} tokens",
        "The kernels' busy time by the profiler, a graph of them, and eager execution: three sums "
        "of one table, each beside its own clock.",
        table(("what", "measured", "estimate", "error"), rows),
        f"The graph is {measured['speedup']:.2f} times as fast as eager execution.",
    ]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3f} ms"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def collect(work: Path, out: Path) -> list[str]:
    """Copy the results into ``out``; what was too large, in words."""
    out.mkdir(parents=True, exist_ok=True)
    notes = []
    for name in RESULTS:
        source = work / name
        if not source.exists():
            continue
        if source.stat().st_size > MOST_BYTES:
            notes.append(f"{name} has {source.stat().st_size / 2**20:.0f} MiB and stays in {work}")
            continue
        shutil.copyfile(source, out / source.name)
    return notes + pack(work, out)


def pack(work: Path, out: Path) -> list[str]:
    """``PACKED`` into one file, as much as it may hold; what stays behind, in words."""
    notes, size, part = [], 0, out / f"{PACK}.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (p for pattern in PACKED for p in sorted(work.glob(pattern))):
            name = str(path.relative_to(work))
            if size + path.stat().st_size > MOST_BYTES:
                notes.append(f"{name} finds no room in {PACK} and stays in {work}")
                continue
            size += path.stat().st_size
            archive.write(path, name)
    os.replace(part, out / PACK)
    return notes


def model_section(work: Path) -> list[str]:
    """Every phase of the other models: clock, host, graph and kernels."""
    path = work / "models" / "models.json"
    if not path.exists():
        return []
    rows = []
    for one in json.loads(path.read_text("utf-8")):
        again = one["seconds_again"] or one["seconds"]
        rows.append(
            (
                f"{one['model']}, {one['workload']}, {one['phase']}",
                *(_ms(median(one[name])) for name in ("seconds", "host")),
                _ms(median(again)),
                _ms(one["kernel_s"]),
                _ms(one["graph_s"]),
                str(one["operators"]),
            )
        )
    headers = ("phase", "clock", "host", "at lengths seen before", "kernels", "graph", "operators")
    return ["## Models at full size", table(headers, rows)]
