"""Prompts on cards of their own, and decoding on others.

Of two groups of cards one takes prompts, one after another on each of its replicas, the other
decodes ``batch`` requests at a time on each of its own. Nothing stalls a token; keys and values go
from one group to the other once:

    tpot = decode step + transfer / (osl - 1)
    rate = requests that decode / ((osl - 1) tpot)
    load = rate * seconds that a prompt takes of a replica / replicas     below 1, else absent
    ttft = prompt + that * load / (2 (1 - load))

The last is the wait for a server that takes each customer equally long (Pollaczek, Khinchine):
requests that are done, and so those that follow, are spread at random over time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from calib.estimates.serving.kernels import Server
from calib.estimates.serving.points import Serving
from model.ops import SendRecv, grid, item_bytes

PROMPTS = "prompts"
"""In a layout's name, what the cards before it do."""


def apart(
    rows: pd.DataFrame, servers: Sequence[Server], serving: Serving, cards: int
) -> pd.DataFrame:
    """All pairs of groups of at most ``cards`` in all; ``rows`` as
    :func:`calib.estimates.serving.points.points` has them. ``tp`` to ``dp``: of what decodes."""
    by_name = {server.layout.words() or "1 card": server for server in servers}
    own = ["layout", "cards", "dp", "isl", "prompt_s"]
    prompts = rows[own].drop_duplicates(["layout", "isl"])
    prompts = prompts.rename(columns={c: f"{c}_of_prompts" for c in own if c != "isl"})
    some = rows[(rows["osl"] > 1) & (rows["cards"] < cards)].drop(columns="prompt_s")
    pairs = some.merge(prompts[prompts["cards_of_prompts"] < cards], on="isl")
    pairs = pairs[pairs["cards"] + pairs["cards_of_prompts"] <= cards].reset_index(drop=True)
    return _served(pairs, by_name, serving) if len(pairs) else pairs


def _served(pairs: pd.DataFrame, by_name: dict[str, Server], serving: Serving) -> pd.DataFrame:
    further = pairs["osl"] - 1
    transfer = _transfer(pairs, by_name, serving) / further
    tpot = pairs["decode_s"] + transfer
    narrow, wide = (pairs[f"decode_{end}_s"] / pairs["decode_s"] for end in ("low", "high"))
    rate = pairs["concurrency"] / (further * tpot)
    share = pairs["layout_of_prompts"].map({n: s.stage_share(0) for n, s in by_name.items()})
    occupied = pairs["prompt_s_of_prompts"] * share
    load = rate * occupied / pairs["dp_of_prompts"]
    every = pairs["cards"] + pairs["cards_of_prompts"]
    with np.errstate(divide="ignore", invalid="ignore"):
        wait = occupied * load / (2 * (1 - load))
    named = PROMPTS + " " + pairs["layout_of_prompts"] + " | " + pairs["layout"]
    found = pairs.assign(
        layout=named,
        cards=every,
        tpot_s=tpot,
        tpot_low_s=tpot * narrow,
        tpot_high_s=tpot * wide,
        ttft_s=pairs["prompt_s_of_prompts"] + wait + serving.beside.front_token * pairs["isl"],
        tokens_per_s_user=1 / tpot,
        tokens_per_s_card=rate * pairs["osl"] / every,
        requests_per_s=rate,
        prompt_s=pairs["prompt_s_of_prompts"],
    )
    left = [c for c in found if not str(c).endswith("_of_prompts")]
    return found.loc[load < 1, left]


def _transfer(pairs: pd.DataFrame, by_name: dict[str, Server], serving: Serving) -> np.ndarray:
    """Seconds of a request's keys and values, a part a card: of the group with fewer of them."""
    token = {name: server.token_bytes() for name, server in by_name.items()}
    size = np.maximum(pairs["layout"].map(token), pairs["layout_of_prompts"].map(token))
    server = next(iter(by_name.values()))
    elements = size * pairs["isl"] / item_bytes(server.model.dtype)
    cards = pairs["cards"] + pairs["cards_of_prompts"]
    node = server.layout.node_cards
    nodes = np.where(cards > node, 2, 1) if node else np.ones(len(pairs), dtype=np.int64)
    keys = np.stack([np.rint(elements).astype(np.int64), nodes], axis=1)
    distinct, where = np.unique(keys, axis=0, return_inverse=True)
    sizes = {"elements": distinct[:, 0], "nodes": distinct[:, 1]}
    op = grid(SendRecv, **sizes, dtype=server.model.dtype)
    return np.asarray(serving.card.estimates(op, "").seconds[where.ravel()])
