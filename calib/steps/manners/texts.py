"""Words of the command line whose value is a text, though it looks like a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

KEYS = ("cuda", "hw.cuda")
_BARE = re.compile(r"(?<![\w.'\"-])[0-9][0-9.]*(?![\w.'\"])")
"""A number that no quotes are around."""


def quoted(words: Sequence[str]) -> list[str]:
    """``words`` with versions of CUDA in quotes: as numbers 12.1 and 12.10 are one, and a shell
    takes the quotes that a user gave."""
    return [_quoted(word) for word in words]


def _quoted(word: str) -> str:
    name, is_given, value = word.partition("=")
    if not is_given or name.lstrip("+") not in KEYS:
        return word
    return f"{name}={_BARE.sub(lambda found: repr(found[0]), value)}"
