"""Words of the command line in any order: overrides may stand on both sides of ``-m``."""

from __future__ import annotations

from collections.abc import Sequence

TAKES_VALUE = {
    *("-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir"),
    *("-p", "--package", "-c", "--cfg", "-i", "--info", "--experimental-rerun"),
}
"""Options of Hydra whose value is the next word."""


def options_first(words: Sequence[str], first: str) -> list[str]:
    """Options, then all other words in their order, ``first`` before them: Hydra wants overrides
    beside one another."""
    options: list[str] = []
    others: list[str] = []
    for i, word in enumerate(words):
        is_value = i > 0 and words[i - 1] in TAKES_VALUE
        (options if word.startswith("-") or is_value else others).append(word)
    return [*options, first, *others]
