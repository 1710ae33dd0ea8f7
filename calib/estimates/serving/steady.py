"""Continuous batching in its steady state, in closed form.

A server keeps ``running`` requests; each finished one is replaced at once (a closed loop). Every
step makes one token of each request that decodes, and carries what prompts there are:

    tpot = decode + others / (osl - 1) * prefill                                  [s]

``decode``: a step without a prompt at that many requests and their mean context, isl + osl / 2;
``prefill``: by how much one whole prompt makes a step longer (all of it where an engine lets
prompts go first and decodes afterwards). While one request makes its ``osl - 1`` further tokens,
each of the ``others`` is replaced once, and its prompt stalls the one.

Not all requests decode at a time: of a life of ``ttft + (osl - 1) * tpot``, the first part is
spent waiting. Memory bounds how many run: beyond, a request waits for a place, and by Little's law
``(concurrency - running) / throughput``. A prompt waits for the step under way, then for the
prompts before it: those that came in the same step, and at the start of a run all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ROUNDS = 60
"""Fixed-point rounds; the share that decodes changes by less than 1e-6 after thirty."""


@dataclass(frozen=True)
class Steps:
    """Seconds of one server's steps, each [n].

    ``decode``: at ``running`` requests, ``slope`` more for each further one; ``prefill``: what a
    whole prompt adds to the steps that carry it.
    ``pieces``: steps that a prompt is spread over; ``prompts``: whole ones that a step takes.
    """

    decode: Any
    prefill: Any
    slope: Any = 0.0
    pieces: Any = 1.0
    prompts: Any = 1.0


@dataclass(frozen=True)
class Load:
    """What is asked of a server, each [n].

    ``concurrency``: requests in the loop; ``places``: how many memory holds at a time;
    ``isl``, ``osl``: mean tokens in and out; ``waves``: requests of a run over its concurrency, of
    which the first come at once (0: the run is so long that its start does not count);
    ``hold``: steps that an engine lets prompts gather before it takes them.
    """

    concurrency: Any
    isl: Any
    osl: Any
    places: Any = np.inf
    waves: Any = 0.0
    hold: Any = 0.0

    @property
    def running(self) -> Any:
        return np.minimum(self.concurrency, np.maximum(self.places, 1.0))


@dataclass(frozen=True)
class Served:
    """[n] means over requests: ``ttft``, ``tpot`` [s]; ``decoding``: requests that decode at a
    time; ``throughput``: requests a second."""

    ttft: Any
    tpot: Any
    decoding: Any
    throughput: Any


def steady(steps: Steps, load: Load) -> Served:
    """The means of the steady state, mixed with those of the start of a run of ``waves``."""
    running, further = load.running, np.maximum(load.osl - 1.0, 1.0)
    decoding = np.asarray(running, dtype=float) + 0.0 * np.asarray(steps.decode)
    for _ in range(ROUNDS):
        tpot = _tpot(steps, load, decoding)
        wait = _first(steps, load, decoding, tpot)
        share = further * tpot / (further * tpot + wait)
        decoding = 0.5 * decoding + 0.5 * running * share
    throughput = running / (further * tpot + wait)
    queue = (load.concurrency - running) / throughput
    return Served(wait + queue + _start(steps, load), tpot, decoding, throughput)


def _tpot(steps: Steps, load: Load, decoding: Any) -> Any:
    """Of a run of few waves the last has no prompt after it, and the first half of its own."""
    others = np.maximum(load.running - 1.0, 0.0)
    rest = np.where(np.asarray(load.waves) > 0, 0.5 / np.maximum(load.waves, 1.0), 0.0)
    stalled = others * (1.0 - rest) / np.maximum(load.osl - 1.0, 1.0)
    step = steps.decode + steps.slope * (decoding - load.running)
    return step + stalled * steps.prefill * (decoding / np.maximum(load.running, 1.0))


def _first(steps: Steps, load: Load, decoding: Any, tpot: Any) -> Any:
    """From its arrival to its first token: half of the step under way, the prompts that came in
    the meantime, its own, and the steps that carry it; or as long as the engine gathers."""
    together = decoding / np.maximum(load.osl - 1.0, 1.0)
    own = steps.pieces * steps.decode + steps.prefill
    held = load.hold * steps.decode
    return 0.5 * tpot + own + 0.5 * together * steps.prefill + held


def _start(steps: Steps, load: Load) -> Any:
    """What the requests that all come at once wait for one another, over all of a run's: each for
    all that are taken before it, and for those of its own step."""
    waves = np.asarray(load.waves, dtype=float)
    together = np.minimum(steps.prompts, load.running)
    first = 0.5 * (load.running + together - 2.0) * steps.prefill
    return np.where(waves > 0, first / np.maximum(waves, 1.0), 0.0)
