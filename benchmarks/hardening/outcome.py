"""What came of one kind of attack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    kind: str
    tried: int
    clear: int
    right: int
    traceback: int
    silently_wrong: int
    hang: int
    examples: tuple[str, ...]
