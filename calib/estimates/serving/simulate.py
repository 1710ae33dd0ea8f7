"""The same server step by step: what the closed form of :mod:`steady` is checked against.

Requests of a closed loop wait in line for a place; those that have one are given their prompt, at
most ``pieces``-th part of it a step; all that have had it make a token each step. A finished one is
replaced at once, at the end of the line.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Server:
    """``decode``: seconds of a step with ``running`` requests, ``slope`` more a further one;
    ``prefill``: what a mean prompt adds; ``pieces``: steps that it is spread over; ``prompts``: how
    many a step takes at most; ``places``: requests that memory holds."""

    decode: float
    prefill: float
    running: int
    slope: float = 0.0
    pieces: int = 1
    prompts: int = 10**9
    places: int = 10**9


@dataclass
class _Request:
    arrived: float
    isl: float
    osl: int
    pieces: int
    first: float = 0.0
    made: int = 0


def simulated(
    server: Server, concurrency: int, osl: int, waves: int, spread: float = 0.0, seed: int = 0
) -> tuple[float, float]:
    """Mean (ttft, tpot) [s] of ``waves * concurrency`` requests, all of the first at once.

    ``spread``: lengths are drawn evenly from ``1 - spread`` to ``1 + spread`` of their mean.
    """
    draw = np.random.default_rng(seed)
    left, now = waves * concurrency, 0.0
    line: deque[_Request] = deque()
    running: list[_Request] = []
    done: list[tuple[float, float]] = []

    def arrive() -> None:
        nonlocal left
        if left > 0:
            left -= 1
            isl, length = 1 + spread * draw.uniform(-1, 1, 2)
            line.append(_Request(now, isl, max(round(osl * length), 2), server.pieces))

    for _ in range(concurrency):
        arrive()
    while line or running:
        while line and len(running) < server.places:
            running.append(line.popleft())
        prompts = [r for r in running if r.pieces > 0][: server.prompts]
        decoding = [r for r in running if r.pieces == 0]
        now += _step(server, prompts, len(decoding))
        for r in decoding:
            r.made += 1
        for r in prompts:
            r.pieces -= 1
            if r.pieces == 0:
                r.first, r.made = now, 1
        finished = [r for r in running if r.made >= r.osl]
        running = [r for r in running if r.made < r.osl]
        for r in finished:
            done.append((r.first - r.arrived, (now - r.first) / (r.osl - 1)))
            arrive()
    ttft, tpot = np.mean(np.array(done), axis=0)
    return float(ttft), float(tpot)


def _step(server: Server, prompts: list[_Request], decoding: int) -> float:
    added = sum(r.isl for r in prompts) * server.prefill / server.pieces
    return server.decode + server.slope * (decoding - server.running) + added
