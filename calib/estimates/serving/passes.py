"""Seconds of many passes of one server at once: each kernel is asked for as one grid.

What a step runs by token depends on how many sequences it serves, attention on their context too:
each is asked for at the distinct sizes alone, and laid out over the points afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from calib.estimates.serving.kernels import KINDS, PARTS, Server, attention, by_token
from calib.estimates.stack.lower import Kernel
from calib.fit.calibration import WEAKEST_FIRST, Estimates
from model.ops import Attention, Operator, grid, is_grid

FIRST, LAYERS, LAST = range(3)
"""Regions of a pass: what comes before the layers, they, and what comes after them."""
_PAIR = 32
"""Bits of a context in a pair."""


class Kernels(Protocol):
    """What kernels take: an engine's card, or torch's."""

    def estimates(self, ops: Sequence[Operator] | Operator, implementation: str = ...) -> Estimates:
        """As ``EngineCard.estimates``; ``implementation``: what follows the engine's name."""
        ...


@dataclass(frozen=True)
class Pass:
    """[n] passes. ``kernels``, ``told``: seconds of what computes and of collectives [region, n];
    ``launches`` [region]; ``wide``: half-widths of 90% intervals [part, n]; ``known``: seconds by
    provenance, the weakest first [provenance, n]; ``floor``: seconds [n] that products and
    attention take at least, whose weights and keys come from main memory."""

    kernels: np.ndarray
    told: np.ndarray
    launches: np.ndarray
    wide: np.ndarray
    known: np.ndarray
    floor: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        return np.asarray((self.kernels + self.told).sum(axis=0))

    @property
    def spread(self) -> np.ndarray:
        """Half-width over the seconds: errors of one part hang together, those of two do not."""
        return np.asarray(np.sqrt(np.square(self.wide).sum(axis=0)))

    def take(self, rows: np.ndarray) -> Pass:
        kernels, told, wide, known = (
            np.take(a, rows, axis=1) for a in (self.kernels, self.told, self.wide, self.known)
        )
        return Pass(kernels, told, self.launches, wide, known, self.floor[rows])

    def __add__(self, other: Pass) -> Pass:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Pass(*(a + b for a, b in pairs))


def passed(kernels: Sequence[Kernel], card: Kernels, count: int) -> Pass:
    """``kernels`` whose sizes are arrays [count], or the same at all points."""
    shapes = ((3, count), (3, count), (3,), (len(PARTS), count), (len(WEAKEST_FIRST), count))
    found = Pass(*(np.zeros(shape) for shape in (*shapes, (count,))))
    for kernel, times in distinct(kernels):
        op = kernel.op
        asked = grid(type(op), **vars(op)) if is_grid(op) else [op]
        told = card.estimates(asked, kernel.name)
        part, whole = KINDS.get(op.operator, "stream"), sum(times.values())
        into = found.told if part == "comm" else found.kernels
        if part not in ("comm", "stream"):
            found.floor[:] += told.floor * whole
        for region, often in times.items():
            into[region] += told.seconds * often
            found.launches[region] += often
        high = np.where(np.isfinite(told.high), told.high, 2 * told.seconds)
        found.wide[PARTS.index(part)] += (high - told.low) / 2 * whole
        for rank, name in enumerate(WEAKEST_FIRST):
            found.known[rank] += told.seconds * (told.known_as == name) * whole
    return found


def distinct(kernels: Sequence[Kernel]) -> list[tuple[Kernel, dict[int, float]]]:
    """Each kernel once, and how often it runs in each region."""
    found: dict[Any, tuple[Kernel, dict[int, float]]] = {}
    for kernel in kernels:
        sizes = (v.tobytes() if isinstance(v, np.ndarray) else v for v in vars(kernel.op).values())
        times = found.setdefault((kernel.name, type(kernel.op), *sizes), (kernel, {}))[1]
        region = _region(kernel.path)
        times[region] = times.get(region, 0.0) + float(kernel.count)
    return list(found.values())


def _region(path: str) -> int:
    if ".layers." in path:
        return LAYERS
    return LAST if path == "lm_head" or path.endswith(".norm") else FIRST


class Table:
    """Passes by a whole number, made once for all ``keys`` that will be asked for."""

    def __init__(self, keys: np.ndarray, made: Callable[[np.ndarray], Pass]) -> None:
        self._keys = np.unique(keys)
        self._passes = made(self._keys)

    def at(self, keys: np.ndarray) -> Pass:
        return self._passes.take(np.searchsorted(self._keys, keys))


def pair(sequences: np.ndarray, context: np.ndarray) -> np.ndarray:
    return np.asarray((sequences << _PAIR) | context)


class Passes:
    """Decode steps and prompts of a server at all points that will be asked for: ``steps`` by
    :func:`pair`; ``tokens`` of prompts and of what decodes beside them; ``prompts``, whole."""

    def __init__(
        self,
        server: Server,
        card: Kernels,
        steps: np.ndarray,
        tokens: np.ndarray,
        prompts: np.ndarray,
    ) -> None:
        self._server, self._card = server, card
        self._own = Table(steps >> _PAIR, self._by_sequence) if server.fuses else None
        self._seen = Table(steps, self._by_context)
        self._tokens = Table(tokens, self._by_token)
        self._prompts = Table(prompts, self._whole)

    def decode(self, sequences: np.ndarray, context: np.ndarray) -> Pass:
        """A token of each of ``sequences`` that see ``context`` keys."""
        seen = self._seen.at(pair(sequences, context))
        return seen if self._own is None else self._own.at(sequences) + seen

    def by_token(self, tokens: np.ndarray) -> Pass:
        """What a step runs of each of ``tokens`` of prompts, but for attention and head."""
        return self._tokens.at(tokens)

    def attention(self, isl: np.ndarray) -> Pass:
        """Of whole prompts."""
        return self._prompts.at(isl)

    def _by_sequence(self, sequences: np.ndarray) -> Pass:
        kernels = self._server.decode(sequences, 1)
        own = [k for k in kernels if not isinstance(k.op, Attention)]
        return passed(own, self._card, len(sequences))

    def _by_context(self, pairs: np.ndarray) -> Pass:
        """Of an engine attention alone; torch also copies its cache."""
        kernels = self._server.decode(pairs >> _PAIR, pairs & ((1 << _PAIR) - 1))
        kernels = attention(kernels) if self._server.fuses else kernels
        return passed(kernels, self._card, len(pairs))

    def _by_token(self, tokens: np.ndarray) -> Pass:
        return passed(by_token(self._server.prompt(tokens)), self._card, len(tokens))

    def _whole(self, isl: np.ndarray) -> Pass:
        return passed(attention(self._server.prompt(isl)), self._card, len(isl))
