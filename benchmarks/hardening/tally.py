"""Counting trials into an ``Outcome``, and the ends that a trial in this process can have."""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.hardening.outcome import Outcome
from calib.errors import CalibError

ENDS = ("clear", "right", "traceback", "silently_wrong", "hang")
BAD = ENDS[2:]
EXAMPLES = 12
LONGEST_LINE = 2000
"""Characters of a sentence: a longer one is not clear."""


class Late(BaseException):
    """Out of time; no ``Exception``, since what catches all of those must not catch it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises ``Late`` in the main thread, by the clock on the wall."""

    def late(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Tally:
    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, end: str, what: str) -> None:
        self.counts[end] += 1
        if end in BAD and len(self.examples) < EXAMPLES:
            self.examples.append(f"{end}: {what}")

    def outcome(self) -> Outcome:
        ends = {end: self.counts[end] for end in ENDS}
        return Outcome(self.kind, sum(ends.values()), **ends, examples=tuple(self.examples))


def tried(what: Callable[[], Any], seconds: float, should_fail: bool = False) -> tuple[str, str]:
    """How ``what`` ends, and why. ``should_fail``: it is known to be wrong."""
    try:
        with within(seconds):
            what()
    except Late:
        return "hang", f"more than {seconds:g} s"
    except CalibError as error:
        said = str(error).strip()
        clear = said and "\n" not in said and len(said) <= LONGEST_LINE
        return ("clear" if clear else "traceback"), said
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({last.name}:{last.lineno})"
    return ("silently_wrong" if should_fail else "right"), "taken"
