"""Seconds of the steps of every run, by what ships of its engine on its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.models import build
from benchmarks.serving.settings import MIXED, Setting, places, setting
from calib.cards.engines.card import EngineCard, load_engine_card
from calib.estimates.stack.lower import Kernel, lowered
from model.causal_lm import CausalLM
from model.layer import Call
from model.ops import AllReduce, Attention, Matmul, MoeMlp, item_bytes

KEYS = ["path", "card", "engine", "products", "experts", "tp", "dp", "moe_tp", "moe_ep", "cache"]


def with_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with the columns of :func:`_steps_of`."""
    settings = [setting(row) for _, row in rows.iterrows()]
    rows = rows.assign(
        cache=[s.formats.cache for s in settings],
        mean_isl=rows["isl"] * [s.length for s in settings],
        mean_osl=rows["osl"] * [s.length for s in settings],
        tokens=[s.tokens for s in settings],
        hold=[s.hold for s in settings],
        waves=[s.waves for s in settings],
    )
    parts = []
    for _, some in rows.groupby(KEYS, sort=False):
        first = next(s for s, at in zip(settings, rows.index, strict=True) if at == some.index[0])
        parts.append(_steps_of(some, first))
    return pd.concat(parts).loc[rows.index]


def _steps_of(rows: pd.DataFrame, told: Setting) -> pd.DataFrame:
    """Of runs of one server: seconds and launches of a decode step, of half as many requests, and
    of what a prompt adds to the steps that carry it."""
    first = rows.iloc[0]
    model, card = build(str(first["path"])), load_engine_card(first["card"], first["engine"])
    size = _weights_and_token(model, first)
    memory = card.hardware.memory_bytes
    held = np.array([places(row, *size, memory) for _, row in rows.iterrows()])
    per_replica = np.maximum(rows["concurrency"].to_numpy() / first["dp"], 1.0)
    running = np.minimum(per_replica, held)
    isl, osl = rows["mean_isl"].to_numpy(), rows["mean_osl"].to_numpy()
    context = np.rint(isl + osl / 2).astype(int)
    whole = np.maximum(np.rint(running), 1).astype(int)
    half = np.maximum(whole // 2, 1)
    pieces = np.ceil(isl / np.maximum(rows["tokens"].to_numpy() - whole, 256))
    decode = _decode(model, card, first, told, whole, context)
    lesser = _decode(model, card, first, told, half, context)
    prompt = _prompt(model, card, first, told, isl, whole, pieces)
    return rows.assign(
        places=held,
        running=running,
        pieces=pieces,
        **{f"decode_{name}": value for name, value in decode.items()},
        half_s=lesser["s"],
        **{f"prompt_{name}": value for name, value in prompt.items()},
    )


def _decode(
    model: CausalLM, card: EngineCard, row: pd.Series, told: Setting, batch: Any, context: Any
) -> dict[str, Any]:
    """One step of ``batch`` [n] requests that see ``context`` [n] keys each."""
    kernels = _kernels(model, row, told, batch, 1, context)
    return _seconds(kernels, card, len(batch))


def _prompt(
    model: CausalLM,
    card: EngineCard,
    row: pd.Series,
    told: Setting,
    isl: np.ndarray,
    running: np.ndarray,
    pieces: np.ndarray,
) -> dict[str, Any]:
    """What a prompt of ``isl`` [n] tokens adds to the steps that carry it beside ``running``
    requests: products over all tokens less those over the requests' alone, and its attention."""
    count, tokens = len(isl), np.rint(isl).astype(int)
    beside = running if MIXED[card.engine] else np.zeros_like(running)
    mixed = np.rint(isl / pieces).astype(int) + beside
    ones = np.ones(count, dtype=int)
    whole = _seconds([k for k in _kernels(model, row, told, ones, mixed, mixed) if _by_token(k)], card, count)
    seen = _seconds([k for k in _kernels(model, row, told, ones, tokens, tokens) if _is_attention(k)], card, count)
    if MIXED[card.engine]:
        alone = _seconds([k for k in _kernels(model, row, told, beside, 1, tokens) if _by_token(k)], card, count)
        added = np.maximum(whole["s"] - alone["s"], 0.0)
    else:
        added = whole["s"]
    return {
        "s": pieces * added + seen["s"],
        "launches": whole["launches"] + seen["launches"],
        "step_s": whole["s"] + seen["s"] / pieces,
        "spread": np.hypot(whole["spread"] * whole["s"], seen["spread"] * seen["s"])
        / np.maximum(whole["s"] + seen["s"], 1e-12),
    }


def _is_attention(kernel: Kernel) -> bool:
    return isinstance(kernel.op, Attention)


def _by_token(kernel: Kernel) -> bool:
    """All but attention, and the head, which reads the last token of each prompt alone."""
    return not _is_attention(kernel) and kernel.path != "lm_head"


def _kernels(
    model: CausalLM, row: pd.Series, told: Setting, batch: Any, tokens: Any, context: Any
) -> list[Kernel]:
    mine = _share(model, row)
    two = replace(mine, layers=2, dense_layers=min(mine.dense_layers, 2))
    if isinstance(tokens, int):
        layers = two.decode_layer(context, batch)
    else:
        layers = two.prefill_layer(tokens, batch, "last")
    calls = [_repeated(call, mine.layers - 1) for call in layers.calls()]
    return _reduced(lowered(calls, told.formats), mine, row, batch * tokens)


def _repeated(call: Call, times: int) -> Call:
    """The second layer stands for all that follow: they are alike."""
    return replace(call, count=call.count * times) if ".layers.1" in call.path else call


def _share(model: CausalLM, row: pd.Series) -> CausalLM:
    """What one card of a tensor-parallel group computes. Heads of keys are repeated where there
    are fewer than cards."""
    tp, cards = int(row["tp"]), int(row["moe_tp"])
    return replace(
        model,
        heads=model.heads // tp,
        kv_heads=max(model.kv_heads // tp, 1),
        intermediate=model.intermediate // tp,
        expert_intermediate=model.expert_intermediate // max(cards, 1) if model.experts else 0,
        vocabulary=-(-model.vocabulary // tp),
    )


def _reduced(kernels: Sequence[Kernel], model: CausalLM, row: pd.Series, tokens: Any) -> list[Kernel]:
    """With the sums over cards behind attention and behind the feed-forward; experts spread over
    cards as what one of them holds."""
    found: list[Kernel] = []
    ranks, spread = int(row["tp"]), int(row["moe_ep"])
    for kernel in kernels:
        op = kernel.op
        if isinstance(op, MoeMlp) and spread > 1:
            together = min(spread, op.top_k)
            op = replace(op, experts=op.experts // spread, top_k=op.top_k // together)
            kernel = replace(kernel, op=op)
        found.append(kernel)
        is_last = kernel.path.endswith(("o_proj", "down_proj", "experts")) and isinstance(
            op, Matmul | MoeMlp
        )
        if is_last and ranks > 1:
            total = AllReduce(tokens * model.hidden, ranks)
            found.append(Kernel(f"{kernel.path}.all_reduce", total, kernel.count))
    return found


def _seconds(kernels: Sequence[Kernel], card: EngineCard, count: int) -> dict[str, Any]:
    """[n] seconds of a step, its kernels, their parts, and the half-width of its interval in log:
    errors of one kind hang together, those of two do not."""
    parts: dict[str, Any] = {"gemm": 0.0, "attention": 0.0, "moe": 0.0, "comm": 0.0, "stream": 0.0}
    wide: dict[str, Any] = dict.fromkeys(parts, 0.0)
    launches = 0.0
    for kernel in kernels:
        found = card.estimates(kernel.op, kernel.name)
        seconds = found.seconds * kernel.count
        part = _PARTS.get(kernel.op.operator, "stream")
        parts[part] = parts[part] + seconds
        high = np.where(np.isfinite(found.high), found.high, 2 * found.seconds)
        wide[part] = wide[part] + (high - found.low) / 2 * kernel.count
        launches += kernel.count
    zeros = np.zeros(count)
    total = sum(parts.values()) + zeros
    spread = np.sqrt(sum(np.square(w) for w in wide.values())) / total
    return {"s": total, "launches": launches + zeros, "spread": spread + zeros, **{n: p + zeros for n, p in parts.items()}}


_PARTS = {"matmul": "gemm", "attention": "attention", "moe_mlp": "moe", "all_reduce": "comm"}


def _weights_and_token(model: CausalLM, row: pd.Series) -> tuple[float, float]:
    """Bytes of weights on a card, and of what its cache keeps of a token."""
    mine, item = _share(model, row), 1.0 if row["cache"] == "fp8" else 2.0
    nbytes = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5625}
    parts = mine.language_parameters()
    wide = (parts["embedding"] + parts["lm_head"] + parts["norm"]) * item_bytes("bfloat16")
    layers = parts["decoder layers"]
    if mine.experts:
        layers = layers / max(int(row["moe_ep"]), 1)
    weights = wide + layers * nbytes[str(row["products"])]
    return weights, 2 * mine.layers * mine.kv_heads * mine.head_dim * item
