"""Timing the tiles and ways that come into question, class by class, and keeping the fastest.

What runs is checked before it is timed: a tile that the compiler refuses, that the card has no room
for or whose result is wrong is left out by name. Tiles take turns; after two rounds those that are
far behind are not run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from kernels.configs.candidates import Tile
from kernels.configs.tuned import Question, choices, forced, keep, overheard

Run = Callable[[], Any]
Check = Callable[[Question, Tile], str]
"""Runs what is timed, once, and says why it is wrong, or nothing."""
FAR_BEHIND = 1.3
"""Times the least median after two rounds: more than rounds differ by, and more than is to gain."""
REFUSALS = (OutOfResources, CompilationError, PTXASError, RuntimeError, ValueError)
"""Of a tile: no room on the card, or a compiler that cannot; a wrong result is told by a check."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Race:
    """Seconds of every round by tile, and why the others did not take part."""

    question: Question
    seconds: dict[Tile, list[float]]
    refused: dict[Tile, str]

    @property
    def best(self) -> Tile:
        return min(self.seconds, key=self.median)

    def median(self, tile: Tile) -> float:
        return median(self.seconds[tile])


def questions_of(run: Run) -> list[Question]:
    """What ``run`` asks that has more than one answer, each class once."""
    with overheard() as heard:
        run()
    return list({q.key: q for q in heard if q.card and len(q.tiles) > 1}.values())


def tune(
    run: Run, clock: Callable[[Run], float], rounds: int = 7, check: Check | None = None
) -> list[Race]:
    """Time every tile of every question that ``run`` asks and keep the fastest.

    ``clock`` gives seconds of one run. A class that has a choice of this card already is left as it
    is.
    """
    races = []
    for question in questions_of(run):
        table = choices(question.card)
        if question.key in table:
            continue
        done = race(question, run, clock, rounds, check)
        if done.seconds:
            table[question.key] = done.best
            keep(question.card, table)
            races.append(done)
    return races


def race(
    question: Question,
    run: Run,
    clock: Callable[[Run], float],
    rounds: int,
    check: Check | None = None,
) -> Race:
    """Each tile once, to compile and to check it; two rounds of all, then the rest of those that
    are not :data:`FAR_BEHIND`."""

    def once(question: Question, tile: Tile) -> str:
        clock(run)
        return ""

    seconds: dict[Tile, list[float]] = {}
    refused: dict[Tile, str] = {}
    for tile in dict.fromkeys(question.tiles):
        why = _first(question, tile, check or once)
        if why:
            refused[tile] = why
            log.warning("%s: %s: left out: %s", question.key, tile, why)
        else:
            seconds[tile] = []
    for i in range(rounds):
        least = min((median(s) for s in seconds.values() if s), default=0.0)
        for tile, taken in seconds.items():
            if i < 2 or median(taken) <= FAR_BEHIND * least:
                with forced(question.key, tile):
                    taken.append(clock(run))
    return Race(question, seconds, refused)


def _first(question: Question, tile: Tile, check: Check) -> str:
    try:
        with forced(question.key, tile):
            return check(question, tile)
    except REFUSALS as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
