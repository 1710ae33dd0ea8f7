"""A hundred operators of torch on six cards: what ships beside what KernelBench published.

    python -m benchmarks.public_kernelbench [--rows] [--write docs/cards.md]

``benchmarks/data/public_kernelbench.csv``: KernelBench's baseline, torch's eager float32 modules of
its first level at the sizes of 2025; ``public_kernelbench_problems.csv``: what each problem is;
``public_kernelbench.md``: how they timed, and where the sizes are from. One call between two events
on an idle device, warm. All kernels are long, so that the host gets ahead
(:mod:`benchmarks.published_times`). torch was 2.5 by CUDA 12.4. Ends with one line of JSON.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.kernelbench_problems import case
from benchmarks.published_times import Pass, judge
from calib.trace import trace
from model.layer import Call

PUBLISHED = Path(__file__).parent / "data" / "public_kernelbench.csv"
PROBLEMS = PUBLISHED.with_name("public_kernelbench_problems.csv")


@dataclass(frozen=True)
class Problem:
    """``group``: what it is counted under; ``shape``: sizes by name."""

    group: str
    kernel: str
    shape: str


def problems(path: Path = PROBLEMS) -> dict[str, Problem]:
    """By number."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["problem"]: Problem(row["group"], row["kernel"], row["shape"])
            for row in csv.DictReader(file)
        }


@cache
def calls_of(problem: Problem) -> tuple[Call, ...]:
    """The calls of one forward pass."""
    found = case(problem.kernel, problem.shape)
    return tuple(trace(found.module.requires_grad_(False), *found.inputs))


def published(path: Path = PUBLISHED) -> Sequence[Pass]:
    """The published times, by card and group."""
    of = problems()
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["card"], of[row["problem"]], float(row["ms"])) for row in csv.DictReader(file)]
    cards, groups = (
        [*dict.fromkeys(found)] for found in ([r[0] for r in rows], [p.group for p in of.values()])
    )
    rows.sort(key=lambda row: (cards.index(row[0]), groups.index(row[1].group)))
    return [
        Pass(card, p.group, f"{p.kernel} {p.shape}", ms / 1e3, calls_of(p), emptied=False)
        for card, p, ms in rows
    ]


if __name__ == "__main__":
    judge("benchmarks.public_kernelbench", published, "kernelbench")
