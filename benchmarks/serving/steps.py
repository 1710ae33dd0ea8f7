"""Seconds of the steps of every run, by what ships of its engine on its card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.models import build
from benchmarks.serving.settings import Setting, places, setting
from calib.cards.engines.card import load_engine_card
from calib.estimates.serving.habits import HABITS, LEAST_TOKENS
from calib.estimates.serving.kernels import Server, attention, by_token, timed
from model.parallel import Layout

KEYS = ["path", "card", "engine", "products", "experts", "tp", "dp", "moe_ep", "cache"]


def with_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with how their servers were set, and the columns of :func:`_steps_of`."""
    told = [setting(row) for _, row in rows.iterrows()]
    rows = rows.assign(
        cache=[s.formats.cache for s in told],
        mean_isl=rows["isl"] * [s.length for s in told],
        mean_osl=rows["osl"] * [s.length for s in told],
        tokens=[s.tokens for s in told],
        hold=[s.hold for s in told],
        waves=[s.waves for s in told],
    )
    settings = dict(zip(rows.index, told, strict=True))
    parts = [_steps_of(some, settings[some.index[0]]) for _, some in rows.groupby(KEYS, sort=False)]
    return pd.concat(parts).loc[rows.index]


def _steps_of(rows: pd.DataFrame, told: Setting) -> pd.DataFrame:
    """Of runs of one server: seconds, launches and spread of a decode step (``decode_``), of one of
    half as many requests, and of what a prompt adds to the steps that carry it (``prompt_``)."""
    first = rows.iloc[0]
    layout = Layout(int(first["tp"]), 1, int(first["moe_ep"]), int(first["dp"]))
    server = Server(build(str(first["path"])), layout, told.formats)
    card = load_engine_card(first["card"], first["engine"])
    size, memory = (server.weight_bytes(), server.token_bytes()), card.hardware.memory_bytes
    held = np.array([places(row, *size, memory) for _, row in rows.iterrows()])
    running = np.minimum(np.maximum(rows["concurrency"].to_numpy() / layout.dp, 1.0), held)
    whole = np.maximum(np.rint(running), 1).astype(int)
    isl, osl = rows["mean_isl"].to_numpy(), rows["mean_osl"].to_numpy()
    context = np.rint(isl + osl / 2).astype(int)
    budget = np.maximum(rows["tokens"].to_numpy() - whole, LEAST_TOKENS)
    pieces = np.ceil(isl / budget)
    pairs = list(zip(whole.tolist(), context.tolist(), strict=True))
    decode = timed([server.decode(n, keys) for n, keys in pairs], card)
    half = timed([server.decode(max(n // 2, 1), keys) for n, keys in pairs], card)
    beside = whole if HABITS[card.engine].mixed else np.zeros_like(whole)
    prompt = _prompt(server, card, np.rint(isl).astype(int), beside, pieces)
    columns = {f"decode_{name}": value for name, value in decode.parts.items()}
    return rows.assign(
        places=held,
        running=running,
        pieces=pieces,
        prompts=np.maximum(budget / isl, 1.0),
        decode_s=decode.seconds,
        decode_launches=decode.launches,
        decode_spread=decode.spread,
        half_s=half.seconds,
        half_comm=half.parts["comm"],
        **columns,
        **prompt,
    )


def _prompt(
    server: Server, card: Any, tokens: np.ndarray, beside: np.ndarray, pieces: np.ndarray
) -> dict[str, np.ndarray]:
    """What a prompt of ``tokens`` [n] adds to the steps that carry it ``beside`` the tokens of as
    many requests: kernels over all tokens less those over the requests' alone, and its attention.
    The head reads the last token of each alone."""
    mixed = np.rint(tokens / pieces).astype(int) + beside
    whole = timed([by_token(server.prompt(n)) for n in mixed.tolist()], card)
    seen = timed([attention(server.prompt(n)) for n in tokens.tolist()], card)
    added = whole.seconds
    if beside.any():
        alone = timed([by_token(server.prompt(n)) for n in beside.tolist()], card)
        added = np.maximum(added - alone.seconds, 0.0)
    both = np.hypot(whole.spread * whole.seconds, seen.spread * seen.seconds)
    return {
        "prompt_s": pieces * added + seen.seconds,
        "prompt_launches": whole.launches + seen.launches,
        "prompt_spread": both / (whole.seconds + seen.seconds),
    }
