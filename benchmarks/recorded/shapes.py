"""Shapes as a record writes them."""

from __future__ import annotations

import re


def shapes_of(text: str) -> list[tuple[int, ...]]:
    """ "[16,4096] [4096,1024]" -> [(16, 4096), (4096, 1024)]."""
    found = re.findall(r"\[([^\]]*)\]", text)
    return [tuple(int(n) for n in inside.split(",") if n) for inside in found]
