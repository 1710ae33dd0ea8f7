"""What users see of a model on many layouts, at many batches and lengths, in one pass.

A point is one server: a layout, ``batch`` requests at a time on each of its ``dp`` replicas,
``isl`` tokens in and ``osl`` out. Each is the closed form of :mod:`steady`, with steps of kernels
and of what an engine adds (:mod:`calib.cards.engines.overheads`). A pipeline's replica goes through
its stages in as many parts as there are stages, as far as there are requests:

    step   = max(sum over stages of t, parts * max t)     t: of a stage, for one part
    prompt = the share of the largest stage in a step; all stages before its own first token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.engines.overheads import Overheads
from calib.estimates.serving.habits import Habits
from calib.estimates.serving.kernels import Server
from calib.estimates.serving.passes import FIRST, LAST, LAYERS, Kernels, Pass, Passes, pair
from calib.estimates.serving.steady import Load, Served, Steps, steady
from calib.estimates.sums import WEAK_SHARE
from calib.fit.calibration import WEAKEST_FIRST
from model.ops import grid
from model.parallel import Layout


@dataclass(frozen=True)
class Serving:
    """What serves: ``card``, its kernels; ``habits`` and ``beside``, its engine's."""

    card: Kernels
    memory_bytes: float
    habits: Habits
    beside: Overheads


@dataclass(frozen=True)
class Asked:
    """``batches`` of a replica, and pairs of ``isl`` and ``osl``: all with all."""

    batches: Sequence[int]
    lengths: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Points:
    """[n] of one server that memory holds. ``cached``: tokens that a replica's cache holds."""

    server: Server
    serving: Serving
    batch: np.ndarray
    isl: np.ndarray
    osl: np.ndarray
    cached: float

    @property
    def layout(self) -> Layout:
        return self.server.layout

    @cached_property
    def context(self) -> np.ndarray:
        """Mean keys of a decode step."""
        return np.rint(self.isl + self.osl / 2).astype(np.int64)

    @cached_property
    def half(self) -> np.ndarray:
        return np.maximum(self.batch // 2, 1)

    def parts(self, batch: np.ndarray) -> np.ndarray:
        """In how many parts it goes through the stages."""
        return np.minimum(self.layout.pp, batch)

    def sequences(self, batch: np.ndarray) -> np.ndarray:
        """Of the largest part."""
        return -(-batch // self.parts(batch))

    @cached_property
    def beside(self) -> np.ndarray:
        """Tokens that decode in a step that carries a prompt."""
        own = self.sequences(self.batch)
        return own if self.serving.habits.mixed else np.zeros_like(own)

    @cached_property
    def budget(self) -> np.ndarray:
        return np.asarray(self.serving.habits.budget(self.batch))

    @cached_property
    def pieces(self) -> np.ndarray:
        return np.ceil(self.isl / self.budget)

    @cached_property
    def mixed(self) -> np.ndarray:
        """Tokens of a step that carries a part of a prompt."""
        return np.rint(self.isl / self.pieces).astype(np.int64) + self.beside

    @cached_property
    def pieces_alone(self) -> np.ndarray:
        """Where nothing decodes beside a prompt."""
        return np.ceil(self.isl / self.serving.habits.budget(0))

    @cached_property
    def alone(self) -> np.ndarray:
        return np.rint(self.isl / self.pieces_alone).astype(np.int64)

    @property
    def steps(self) -> np.ndarray:
        """Of decode, as :class:`Passes` is told."""
        own = (pair(self.sequences(b), self.context) for b in (self.batch, self.half))
        return np.concatenate(list(own))


def points(servers: Sequence[Server], serving: Serving, asked: Asked) -> pd.DataFrame:
    """A row a point: layout, load, ``tpot_s`` with its interval, ``ttft_s``, tokens a second,
    provenance; ``decode_s``, a step without a prompt, and ``prompt_s``, a prompt on cards that do
    nothing else. What memory does not hold is not there."""
    groups: dict[Layout, list[Points]] = {}
    for server in servers:
        fit = _fitting(server, serving, asked)
        if len(fit.batch):
            groups.setdefault(_alike(server), []).append(fit)
    tables = [
        _rows(p, passes) for some in groups.values() for passes in [_passes(some)] for p in some
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _fitting(server: Server, serving: Serving, asked: Asked) -> Points:
    lengths = np.array(asked.lengths, dtype=np.int64).reshape(-1, 2)
    batches = np.array(asked.batches, dtype=np.int64)
    isl, osl = (np.repeat(lengths[:, i], len(batches)) for i in (0, 1))
    batch = np.tile(batches, len(lengths))
    room = serving.habits.cache_bytes(server.weight_bytes(), serving.memory_bytes)
    cached = max(room, 0.0) / server.token_bytes()
    held = serving.habits.places(cached, isl, osl) >= batch
    held &= cached >= isl + osl
    return Points(server, serving, batch[held], isl[held], osl[held], cached)


def _alike(server: Server) -> Layout:
    """The layout whose kernels are the same: a pipeline only splits them, and the replicas of a
    model without experts tell each other nothing."""
    layout = replace(server.layout, pp=1)
    return layout if server.model.experts else replace(layout, dp=1, ep=1)


def _passes(some: Sequence[Points]) -> Passes:
    """Of points whose kernels are alike."""
    first = some[0]
    server = replace(first.server, layout=_alike(first.server))
    tokens = [a for p in some for a in (p.mixed, p.alone, np.maximum(p.beside, 1))]
    return Passes(
        server,
        first.serving.card,
        np.concatenate([p.steps for p in some]),
        np.concatenate(tokens),
        np.concatenate([p.isl for p in some]),
    )


@dataclass(frozen=True)
class Prompt:
    """[n] what a prompt adds to the steps that carry it: seconds, launches, half-width; seconds by
    provenance."""

    seconds: np.ndarray
    launches: float
    wide: np.ndarray
    known: np.ndarray


def _prompt(p: Points, passes: Passes) -> Prompt:
    """Kernels over all tokens of such a step less those over the decoding ones, and attention."""
    whole, seen = passes.by_token(p.mixed), passes.attention(p.isl)
    added = whole.seconds
    if p.serving.habits.mixed:
        added = np.maximum(added - passes.by_token(p.beside).seconds, 0.0)
    wide = np.hypot(whole.spread, seen.spread) / (whole.seconds + seen.seconds)
    seconds = p.pieces * added + seen.seconds
    launches = float(whole.launches.sum() + seen.launches.sum())
    return Prompt(seconds, launches, wide, whole.known * p.pieces + seen.known)


def _step(p: Points, found: Pass, batch: np.ndarray) -> Any:
    """Seconds of a decode step of ``batch`` requests a replica."""
    beside, layout, parts = p.serving.beside, p.layout, p.parts(batch)
    regions = beside.on_card(found.kernels, found.told, found.launches[:, None])
    hops = beside.cards * _hops(p, p.sequences(batch))
    held = (p.server.stage_share(stage) for stage in range(layout.pp))
    stages = [regions[LAYERS] * share for share in held]
    stages[0] = stages[0] + regions[FIRST]
    stages[-1] = stages[-1] + regions[LAST]
    gpu = np.maximum(sum(stages) + hops, parts * np.max(stages, axis=0))
    return beside.decode(gpu, beside.host(batch, parts))


def _hops(p: Points, tokens: np.ndarray) -> Any:
    """Seconds from stage to stage, of all."""
    model, layout = p.server.model, p.layout
    if layout.pp == 1:
        return 0.0
    sizes, where = np.unique(tokens, return_inverse=True)
    ops = [layout.hop(1, model.dtype, stage) for stage in range(layout.pp - 1)]
    seconds = np.zeros(len(sizes))
    for op in dict.fromkeys(ops):
        asked = grid(type(op), **{**vars(op), "elements": sizes * model.hidden})
        seconds += p.serving.card.estimates(asked, "").seconds * ops.count(op)
    return seconds[where]


def _rows(p: Points, passes: Passes) -> pd.DataFrame:
    beside = p.serving.beside
    full = passes.decode(p.sequences(p.batch), p.context)
    decode = _step(p, full, p.batch)
    lesser = _step(p, passes.decode(p.sequences(p.half), p.context), p.half)
    prompt = _prompt(p, passes)
    together = np.maximum(p.batch / np.maximum(p.osl - 1, 1), 1.0)
    eager = p.pieces * (beside.eager * prompt.launches - decode) / together
    whole = np.maximum(beside.prompts * prompt.seconds, eager)
    share = p.server.stage_share(0)
    slope = (decode - lesser) / np.maximum(p.batch - p.half, 1)
    prompts = np.maximum(p.budget / p.isl, 1.0)
    steps = Steps(decode, whole * share, slope, p.pieces, prompts)
    served = steady(steps, Load(p.batch, p.isl, p.osl))
    others = (1 - share) * whole + beside.cards * _hops(p, p.mixed)
    ttft = served.ttft * beside.queue + others + beside.front_token * p.isl
    table = _table(p, replace(served, ttft=ttft), decode, full, prompt)
    spread = np.hypot(full.spread / full.seconds, beside.spread)
    wide = np.exp(beside.factor * spread)
    low = np.maximum(decode / wide, np.minimum(full.floor, decode))
    ends = {"decode_low_s": low, "decode_high_s": decode * wide}
    return table.assign(decode_s=decode, **ends, prompt_s=_alone(p, passes))


def _alone(p: Points, passes: Passes) -> np.ndarray:
    """Seconds of a prompt on cards that do nothing else."""
    beside = p.serving.beside
    tokens, seen = passes.by_token(p.alone), passes.attention(p.isl)
    kernels = beside.prompts * (p.pieces_alone * tokens.seconds + seen.seconds)
    launches = tokens.launches.sum() + seen.launches.sum()
    seconds = np.maximum(kernels, p.pieces_alone * beside.eager * launches)
    return np.asarray(seconds + p.pieces_alone * beside.step + beside.cards * _hops(p, p.alone))


def _table(
    p: Points, served: Served, decode: np.ndarray, full: Pass, prompt: Prompt
) -> pd.DataFrame:
    layout, count = p.layout, len(p.batch)
    share = np.minimum(decode / served.tpot, 1.0)
    of_kernels = np.hypot(share * full.spread / full.seconds, (1 - share) * prompt.wide)
    beside = p.serving.beside
    wide = np.exp(beside.factor * np.hypot(of_kernels, beside.spread))
    per_card = served.throughput * p.osl * layout.dp / layout.cards
    known = share * full.known / full.seconds + (1 - share) * prompt.known / prompt.known.sum(
        axis=0
    )
    return pd.DataFrame(
        {
            "layout": np.full(count, layout.words() or "1 card", dtype=object),
            **{
                key: np.full(count, getattr(layout, key))
                for key in ("tp", "pp", "ep", "dp", "cards")
            },
            "isl": p.isl,
            "osl": p.osl,
            "concurrency": p.batch * layout.dp,
            "tpot_s": served.tpot,
            "tpot_low_s": np.maximum(served.tpot / wide, np.minimum(full.floor, served.tpot)),
            "tpot_high_s": served.tpot * wide,
            "ttft_s": served.ttft,
            "tokens_per_s_user": 1 / served.tpot,
            "tokens_per_s_card": per_card,
            "requests_per_s": served.throughput * layout.dp,
            "cache_tokens": np.full(count, p.cached * layout.dp),
            "provenance": _weakest(known),
        }
    )


def _weakest(known: np.ndarray) -> np.ndarray:
    """Of shares of the time by provenance, the weakest that carries over a small part of it."""
    return np.array(WEAKEST_FIRST, dtype=object)[(known > WEAK_SHARE).argmax(axis=0)]
