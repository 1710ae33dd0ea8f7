"""What bad input, kills and crowds do to calib: ``python -m benchmarks.hardening``.

    python -m benchmarks.hardening --minutes 10 --seed 1 --write docs/reliability.md

Each part makes random trials for its share of the time and counts how they end. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.hardening.outcome import Outcome

PARTS = (
    "stores.run",
    "sample_mutants.run",
    "traces.run",
    "settings.run",
    "configurations.run",
)
"""Functions of modules beside this one: ``run(seconds, seed) -> list[Outcome]``."""
HEADERS = ("kind", "tried", "clear", "right", "traceback", "silently wrong", "hang")
BEGIN, END = "<!-- python -m benchmarks.hardening -->", "<!-- end of hardening -->"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = read(arguments)
    each = 60 * asked.minutes / len(asked.part)
    found: list[Outcome] = []
    started = time.monotonic()
    for part in asked.part:
        module, _, function = part.partition(".")
        run = getattr(import_module(f"benchmarks.hardening.{module}"), function)
        found += run(each, asked.seed)
    minutes = (time.monotonic() - started) / 60
    print(table(found))
    for outcome in found:
        for example in outcome.examples:
            print(f"  {outcome.kind}: {on_one_line(example)}")
    if asked.write:
        write(asked.write, found, minutes, asked.seed)
    summary = {"minutes": round(minutes, 2), "seed": asked.seed}
    print(json.dumps({**summary, "outcomes": [asdict(o) for o in found]}))
    return 1 if any(o.traceback or o.silently_wrong or o.hang for o in found) else 0


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hardening", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of all parts together")
    parser.add_argument("--seed", type=int, default=0, help="of the random trials")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="these alone")
    asked = parser.parse_args(arguments)
    if not 0 < asked.minutes <= 24 * 60:
        parser.error(f"--minutes {asked.minutes}: expected more than 0, at most a day")
    return asked


def table(found: Sequence[Outcome]) -> str:
    """GitHub's Markdown."""
    lines = [HEADERS, ("---", *("---:" for _ in HEADERS[1:])), *map(cells, found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(one: Outcome) -> tuple[str, ...]:
    counts = (one.tried, one.clear, one.right, one.traceback, one.silently_wrong, one.hang)
    return (one.kind, *(f"{count:,}" for count in counts))


def on_one_line(text: str, longest: int = 400) -> str:
    flat = text.encode("unicode_escape").decode("ascii")
    return flat if len(flat) <= longest else f"{flat[:longest]}..."


INTRODUCTION = """# Reliability

What happens with bad input, kills and crowds. Random trials, each of which ends in one way:
*clear*, refused by one sentence that names the key or the file, the value and what is accepted;
*right*, taken and answered; *traceback*, an error that is no sentence; *silently wrong*, taken or
answered where it should not have been; *hang*, not ended within its time. `benchmarks/hardening`
has a file a kind, with what is tried and how it is judged.
"""


def write(page: Path, found: Sequence[Outcome], minutes: float, seed: int) -> None:
    """Put the table between the page's marks; a page without them is begun, or gets them."""
    old = page.read_text("utf-8") if page.exists() else INTRODUCTION
    if BEGIN not in old:
        old += f"\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    command = f"python -m benchmarks.hardening --minutes {minutes:.0f} --seed {seed}"
    text = f"\n`{command}`:\n\n{table(found)}\n"
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
