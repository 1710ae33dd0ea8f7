"""What one kind of trial showed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Counts of trials, each of which ended in one way.

    ``clear``: refused by one sentence; ``right``: taken, and it should have been, or answered as it
    ought to be; ``traceback``: an error that is no sentence; ``silently_wrong``: taken and should
    not have been, or answered wrongly; ``hang``: not ended in its time. ``examples``: a few that
    went wrong, in a form that can be tried again.
    """

    kind: str
    tried: int
    clear: int
    right: int
    traceback: int
    silently_wrong: int
    hang: int
    examples: tuple[str, ...]
