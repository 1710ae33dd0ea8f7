"""What changed between two runs: ``python -m calib.compare RUN RUN``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.compare.runs import (
    ESTIMATE,
    FASTER,
    GONE,
    MEASURED,
    NEW,
    SLOWER,
    UNKNOWN,
    WITHIN,
    Comparison,
    compare_runs,
    read_run,
)
from calib.errors import CalibError
from calib.report.record import known
from calib.report.terminal import Cells, print_cells
from calib.report.units import counted, figure, interval, percent, seconds

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12
"""Operators in the terminal; the Parquet file has all."""
SAID = {
    SLOWER: "slower",
    FASTER: "faster",
    WITHIN: "within",
    UNKNOWN: "no interval",
    GONE: "gone",
    NEW: "new",
}
FAIL = {"slower": (SLOWER,), "changed": (SLOWER, FASTER, NEW, GONE)}


def main(words: Sequence[str] | None = None) -> int:
    given = parser().parse_args(words)
    try:
        found = compare_runs(read_run(given.before), read_run(given.after), given.by)
        print_comparison(found)
        folder = given.out or Path("outputs", "compare", f"{datetime.now():%Y-%m-%d/%H-%M-%S}")
        written = write(found, folder, (str(given.before), str(given.after)), given.picture)
    except CalibError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("comparison: " + ", ".join(map(str, written)))
    return int(given.fail_if is not None and found.changed(FAIL[given.fail_if]))


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="python -m calib.compare",
        description="What changed between two runs, by component and operator, beyond the "
        "intervals or not: two versions of torch, two cards, two days.",
        epilog="Exit status: 0; 1 where --fail-if applies; 2 where a run cannot be read.",
    )
    words.add_argument("before", type=Path, help="the folder of a run")
    words.add_argument("after", type=Path, help="the folder of the run to lay beside it")
    words.add_argument(
        "--by",
        choices=(ESTIMATE, MEASURED),
        help="which times; by default the clock's where both runs have it, else estimates",
    )
    words.add_argument(
        "--fail-if",
        choices=tuple(FAIL),
        help="exit status 1 where a component or the total is so, beyond the intervals; single "
        "operators and joules are shown and not asked",
    )
    words.add_argument("--out", type=Path, help="where table and picture go")
    words.add_argument(
        "--no-picture", dest="picture", action="store_false", help="write the table alone"
    )
    return words


def print_comparison(found: Comparison) -> None:
    for name, before, after in found.differences:
        print(f"{name}: {before} -> {after}")
    print_cells(component_cells(found.components, found.basis), last_is_total=True)
    if len(found.joules):
        print_cells(joule_cells(found.joules), last_is_total=True)
    table = found.operators[found.operators["change"] != WITHIN]
    if table.empty:
        print("No operator changed beyond its interval.")
        return
    print_cells(operator_cells(table.head(SHOWN)))
    if len(table) > SHOWN:
        more = counted(len(table) - SHOWN, "more operator")
        print(f"{more} changed beyond the intervals, or has none.")


HEADS = ("before", "after", "change", "interval before", "interval after", "beyond")


def component_cells(table: pd.DataFrame, basis: str) -> Cells:
    rows = [(str(r["name"]), *times(r)) for r in table.to_dict("records")]
    return Cells((f"component ({basis})", *HEADS), rows)


def joule_cells(table: pd.DataFrame) -> Cells:
    """More and less in place of slower and faster."""
    rows = []
    for row in table.to_dict("records"):
        ends = [
            interval(row[f"{side}_joules_low"], row[f"{side}_joules_high"], "J") for side in SIDES
        ]
        drawn = [figure(row[f"{side}_joules"], "J") for side in SIDES]
        ratio = percent(row["ratio"] - 1 if known(row["ratio"]) else None, signed=True)
        how = DRAWN.get(row["change"], SAID[row["change"]])
        rows.append((str(row["name"]), *drawn, ratio, *ends, how))
    return Cells(("component (joules)", *HEADS), rows)


SIDES = ("before", "after")
DRAWN = {SLOWER: "more", FASTER: "less"}


def operator_cells(table: pd.DataFrame) -> Cells:
    """The largest change first; a shape that changed with it is in the Parquet file."""
    rows = [
        (
            str(r["phase"]),
            ".".join(str(r["module"]).split(".")[-2:]) or "-",
            str(r["kind"]),
            *(times(r)[i] for i in (0, 1, 2, 5)),
        )
        for r in table.to_dict("records")
    ]
    return Cells(("phase", "module", "kind", *(HEADS[i] for i in (0, 1, 2, 5))), rows, left=3)


def times(row: dict[Any, Any]) -> tuple[str, ...]:
    ratio = row["ratio"]
    return (
        seconds(row["before_s"]),
        seconds(row["after_s"]),
        percent(ratio - 1 if known(ratio) else None, signed=True),
        interval(row["before_low_s"], row["before_high_s"]),
        interval(row["after_low_s"], row["after_high_s"]),
        SAID[row["change"]],
    )


def write(
    found: Comparison, folder: Path, names: tuple[str, str], picture: bool = True
) -> list[Path]:
    """``compare.parquet``, a row a component or operator by its ``level``, and ``compare.png``.

    Raises ``ReportError`` for a folder that cannot be written.
    """
    import pandas as pd

    from calib.report.write import renamed_at_the_end

    joules = found.joules.replace({"change": DRAWN})
    parts = [
        ("component", found.components, found.basis),
        ("operator", found.operators, found.basis),
        *([("component", joules, "joules")] if len(joules) else []),
    ]
    table = pd.concat([t.assign(level=level, basis=basis) for level, t, basis in parts])
    with renamed_at_the_end(folder) as (staging, written):
        table.to_parquet(staging / "compare.parquet", index=False)
        if picture:
            from calib.compare.picture import comparison_picture

            comparison_picture(found, names).savefig(staging / "compare.png", dpi=120)
    return written


if __name__ == "__main__":
    sys.exit(main())
