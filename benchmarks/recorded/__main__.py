"""Estimates against what a card recorded: ``python -m benchmarks.recorded``.

    python -m benchmarks.recorded --worst 20 --out outputs/h200 --write docs/h200.md
    python -m benchmarks.recorded --data FOLDER   # another record of the same layout
    python -m benchmarks.recorded --curve --write docs/h200.md   # n own samples over what ships

Offline. Every recorded phase of a whole model beside its estimate: kernels by the profiler, a
replayed graph, the eager wall. Of decode steps the wall is compared like with like: over lengths
that the process met first, with what torch then plans, and over the same again without. By the
roofline, by what shipped before (``before.json`` of the record: an earlier run's last line), by
what ships, by the record's samples alone, by those over what ships, and by the latter without the
models' own shapes. The pool of samples by folds of groups. The last line is one JSON object (phases
by what ships; operators by folds), in seconds of one pass: ``wall_s`` and ``again_s`` are those two
walls, ``<of>_own_host_estimate_s`` what the record's samples say of them, host costs among them;
null where those are another machine's.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.recorded import curve, intervals, text
from benchmarks.recorded.estimates import PAIR, Compared, compared
from benchmarks.recorded.picture import draw
from benchmarks.recorded.record import Record, read_record
from benchmarks.recorded.ways import OVER, OWN, ROOFLINE, SHIPS, UNSEEN, by_folds, kinds, ways
from benchmarks.recorded.workloads import phases_of
from calib.checkout import ROOT
from calib.hardware.datasheet import load_hardware
from calib.samples.faults import Cleaned, cleaned

DATA = ROOT / "benchmarks" / "data" / "h200"
OF_HOST = ("wall", "again")
"""Eager: over lengths as they were recorded, and over those that the process had seen."""
ALL_CLOCKS = ("kernel", "graph", *OF_HOST)
BEGIN, END = "<!-- python -m benchmarks.recorded -->", "<!-- end of recorded -->"
CURVE = ("<!-- python -m benchmarks.recorded --curve -->", "<!-- end of curve -->")


def main() -> None:
    asked = arguments()
    record = read_record(asked.data)
    hardware = load_hardware(record.hardware)
    samples = cleaned([*record.pool, *record.sweep])
    if asked.curve:
        parts = [cleaned(some).samples for some in (record.pool, record.sweep)]
        shown = curve.described(curve.curve(*parts, hardware, asked.curve))
        print(shown)
        if asked.write:
            write(asked.write, f"\n```text\n{shown}\n```\n", CURVE)
        return
    phases = phases_of(record, asked.uniform, asked.rows)
    own = frozenset(
        call.op for passes in phases.values() for p in passes.values() for call in p.layer.calls()
    )
    found = compared(record, phases, ways(samples, hardware, own, record.sweep))
    pool = by_folds(cleaned(record.pool).samples, hardware)
    before = earlier(asked.before or asked.data / "before.json")
    tables = described(record, samples, found, pool, before)
    print(tables)
    if asked.intervals:
        print()
        for way in (SHIPS, UNSEEN):
            print(intervals.described(found.operators, found.phases, way))
        print(intervals.in_model(found.operators, OVER))
    if asked.worst:
        print(f"\n{text.where_table(found.operators, asked.by)}")
        print(f"\n{text.worst_table(found.operators, asked.by, asked.worst)}")
    if asked.out:
        draw(asked.out / "recorded.png", found.phases, pool, before.get("kernel", {}))
    if asked.write:
        write(asked.write, f"\n```text\n{tables}\n```\n")
    print(json.dumps(summary(found, pool)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorded", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the record's folder")
    parser.add_argument("--before", type=Path, help="JSON of an earlier run: its last line")
    parser.add_argument("--out", type=Path, help="a folder for the picture, recorded.png")
    parser.add_argument("--write", type=Path, help="a page to put the tables into")
    parser.add_argument("--worst", type=int, default=0, help="show so many operators, and kinds")
    parser.add_argument(
        "--intervals", action="store_true", help="fit how far errors of operators hang together"
    )
    parser.add_argument(
        "--curve",
        type=int,
        nargs="?",
        const=curve.SEEDS,
        metavar="SEEDS",
        help="the learning curve of the pool instead of the phases",
    )
    every = (ROOFLINE, SHIPS, OWN, OVER, UNSEEN)
    parser.add_argument("--by", choices=every, default=SHIPS, help="whose errors --worst shows")
    parser.add_argument(
        "--uniform",
        action="store_true",
        help="experts touched as expected of uniform routing, not as they were recorded",
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="every model by its recorded rows alone, as one is that is not described here",
    )
    return parser.parse_args()


def earlier(path: Path) -> dict[str, dict[Any, float]]:
    """By clock and phase the estimates of an earlier run; nothing where there is no such file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text("utf-8").strip().splitlines()[-1])["phases"]
    return {
        clock: {
            tuple(row[n] for n in PAIR): row[f"{clock}_estimate_s"]
            for row in rows
            if row.get(f"{clock}_estimate_s") is not None
        }
        for clock in ALL_CLOCKS
    }


def described(
    record: Record,
    samples: Cleaned,
    found: Compared,
    pool: pd.DataFrame,
    before: dict[str, dict[Any, float]],
) -> str:
    parts = [
        f"{record.hardware}: {len(record.pool)} samples of a pool, {len(record.sweep)} of a sweep; "
        f"known faults:\n{samples.corrected} corrected, {samples.left_out} left out",
    ]
    disturbed = [one.name for one in record.phases if one.disturbed]
    if disturbed:
        parts[0] += f"; by the profiler's first session: {', '.join(disturbed)}"
    if len(found.phases):
        parts += [
            text.kernel_table(found.phases, before.get("kernel", {})),
            text.interval_table(found.phases),
            text.graph_table(found.phases, before.get("graph", {})),
            text.wall_table(found.phases, before.get("wall", {})),
            text.wall_interval_table(found.phases),
            text.new_length_table(found.phases),
        ]
    return "\n\n".join([*parts, text.operator_table(list(kinds(pool)))])


def summary(found: Compared, pool: pd.DataFrame) -> dict[str, Any]:
    """The JSON object of the last line; an estimate is null where nothing was recorded for it."""
    phases = found.phases[found.phases["way"] == SHIPS] if len(found.phases) else found.phases
    columns = [*PAIR, *(f"{c}_{what}" for c in ALL_CLOCKS for what in ("s", "estimate_s"))]
    rows = [{n: plain(row[n]) for n in columns} for row in phases.to_dict("records")]
    own = own_hosts(found.phases)
    for row in rows:
        own_s = own.get(tuple(row[n] for n in PAIR), {})
        row |= {f"{c}_own_host_estimate_s": own_s.get(c) for c in OF_HOST}
        for clock in ALL_CLOCKS:
            if row[f"{clock}_s"] is None:
                row[f"{clock}_estimate_s"] = None
            if clock in OF_HOST and row[f"{clock}_s"] is None:
                row[f"{clock}_own_host_estimate_s"] = None
    shown = ("kind", "n", "median", "p90", "coverage")
    return {"phases": rows, "operators": [{n: one[n] for n in shown} for one in kinds(pool)]}


def own_hosts(phases: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, float]]:
    """By phase the estimates with its own host's costs, where the record holds those."""
    if not len(phases):
        return {}
    rows = phases[(phases["way"] == OVER) & phases["known_host"].astype(bool)].to_dict("records")
    return {
        tuple(row[n] for n in PAIR): {c: plain(row[f"{c}_estimate_s"]) for c in OF_HOST}
        for row in rows
    }


def plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(page: Path, tables: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put ``tables`` between the page's ``marks``; a page without them gets them at its end."""
    begin, end = marks
    old = page.read_text("utf-8") if page.exists() else ""
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}{tables}{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
