"""A model's calls as the kernels of an engine: folded, fused, and in the engine's formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.estimates.stack.formats import Formats, formatted
from calib.estimates.stack.patterns import PATTERNS
from calib.estimates.stack.roles import role_of
from model.layer import Call


@dataclass(frozen=True)
class Kernel:
    """``count`` runs of ``op`` by the engine's kernel ``name`` (empty: its plain one)."""

    path: str
    op: Any
    count: Any
    name: str = ""


def lowered(calls: Sequence[Call], formats: Formats) -> list[Kernel]:
    """What an engine runs for ``calls``, in order; equal layers folded into one with a count."""
    kernels = [
        Kernel(call.path, op, call.count, name)
        for call in folded(fused(calls))
        for op, name in formatted(call, formats)
    ]
    return kernels


def fused(calls: Sequence[Call]) -> list[Call]:
    """``calls`` with every pattern of the table replaced by its kernels."""
    word, found, at = "".join(role_of(call) for call in calls), [], 0
    while at < len(calls):
        match, fuse = _first(word, at)
        if match == 0:
            found.append(calls[at])
        else:
            found += fuse(calls[at : at + match])
        at += max(match, 1)
    return found


def _first(word: str, at: int) -> tuple[int, Any]:
    """How many letters the first pattern takes at ``at``, and what it makes of them."""
    for pattern in PATTERNS:
        match = re.compile(pattern.letters).match(word, at)
        if match and match.end() > at:
            return match.end() - at, pattern.fuse
    return 0, None


def folded(calls: Sequence[Call]) -> list[Call]:
    """Layers that do the same are one, whose calls count as often as there are such layers."""
    runs: list[tuple[str, list[Call]]] = []
    for call in calls:
        layer = _layer(call.path)
        if runs and runs[-1][0] == layer:
            runs[-1][1].append(call)
        else:
            runs.append((layer, [call]))
    kept: list[list[Call]] = []
    places: dict[Any, int] = {}
    for layer, some in runs:
        key = _key(some) if layer else None
        if key is not None and key in places:
            first = kept[places[key]]
            kept[places[key]] = [
                replace(a, count=a.count + b.count) for a, b in zip(first, some, strict=True)
            ]
            continue
        if key is not None:
            places[key] = len(kept)
        kept.append(list(some))
    return [call for some in kept for call in some]


def _layer(path: str) -> str:
    """The layer that a call belongs to, e.g. ``model.layers.7``; empty outside of layers."""
    match = re.match(r".*\blayers\.\d+\b", path)
    return match.group(0) if match else ""


def _key(calls: Sequence[Call]) -> tuple[Any, ...]:
    layer = _layer(calls[0].path)
    return tuple(
        (c.path.removeprefix(layer), type(c.op), *map(_plain, vars(c.op).values())) for c in calls
    )


def _plain(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value
