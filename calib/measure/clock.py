"""When to stop repeating a measurement, in which order to compare, and the CPU's clock.

The rule is an object, pure over the repeats it has seen, so that it can be tested with a made-up
device. A repeat is one call; the median and its relative quartile spread decide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R", bound=Callable[[], Any])


@dataclass(frozen=True)
class StopRule:
    """Stop when the spread of the median is small enough, or when time is up.

    ``spread``: the standard error of the median over the median, from the quartiles;
    ``cap_s``: the most time [s] one sample may take, ``least_s``: the least; ``least`` and
    ``most``: repeats.
    """

    spread: float = 0.02
    cap_s: float = 0.5
    least: int = 5
    most: int = 100
    least_s: float = 0.0

    def done(self, seconds: Sequence[float], elapsed_s: float) -> bool:
        if len(seconds) >= self.most or (elapsed_s >= self.cap_s and len(seconds) >= 2):
            return True
        enough = len(seconds) >= self.least and elapsed_s >= self.least_s
        return enough and relative_error(seconds) <= self.spread

    def split(self, visits: int) -> StopRule:
        """The rule of each of so many visits, which together come to one sample under this one."""
        return replace(
            self,
            spread=self.spread * math.sqrt(visits),
            cap_s=self.cap_s / visits,
            least=math.ceil(self.least / visits),
            most=math.ceil(self.most / visits),
            least_s=self.least_s / visits,
        )


def relative_error(seconds: Sequence[float]) -> float:
    """Standard error of the median over the median: 1.25 x IQR / 1.349 / sqrt(n) / median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float(1.25 * (high - low) / 1.349 / np.sqrt(len(seconds)) / middle)


def time_repeats(
    run: Callable[[], object],
    rule: StopRule,
    warmups: int = 2,
    disturb: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Raw seconds of repeated calls of ``run``, after up to ``warmups`` that are not kept.

    A call so long that a few fill the rule's time is warmed up once: its start is lost in it.

    ``disturb`` is called before each repeat, untimed: what a model executes between two calls of
    one operator, so that a tight loop does not flatter it.
    """
    start, warm = clock(), 0
    while warm < warmups and clock() - start < rule.cap_s / 5:
        run()
        warm += 1
    seconds: list[float] = []
    start = clock()
    while not rule.done(seconds, clock() - start):
        disturb()
        before = clock()
        run()
        seconds.append(clock() - before)
    return seconds


def in_turns(
    contenders: Mapping[str, R], clock: Callable[[R], float], rounds: int
) -> dict[str, list[float]]:
    """Seconds of every contender by ``clock``, once a round (A B A B ...): what is to be compared
    meets the same drift of the machine. Warm up by a call whose result is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(clock(run))
    return seconds


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """First over second, round by round, as :func:`in_turns` has measured them."""
    return [a / b for a, b in zip(first, second, strict=True)]
