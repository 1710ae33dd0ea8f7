"""Multi-head latent attention as engines run it.

    queries = w_b norm(w_a x)          [tokens, heads, keys + rotary]
    latent, rotary = w_kv x            [tokens, rank + rotary]     what the cache keeps
    keys, values = w_k norm(latent), w_v norm(latent)

A prompt is attended to as it stands: ``w_k`` and ``w_v`` widen its own latents. Of single tokens
the widening of all the cache would be dearer than attention itself, so it is absorbed: ``w_k`` into
the query, ``w_v`` into the result (DeepSeek-V2, sec. 2.1.2), each a product by head,

    (q w_k) . latent = q . (w_k latent)         (p latent) w_v = p (w_v latent)

and all heads share one latent, which is read once. Weights are as many bytes as before. The
products of ``w_a`` and ``w_kv``, which have one input, are one; rotation, what lays heads side by
side and what writes the cache are one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib.estimates.stack.formats import wide
from model.layer import Call
from model.ops import Attention, Elementwise, LatentAttention, Matmul, Norm, Operator

LATENT = "(?:s*as*ns*b|s*q)s*as*ni+s*ks*i*A?i*s*o"
"""Letters of such a layer, in the order in which ``transformers`` calls it; attention is one kernel
(A) or written out, and queries have a latent of their own (anb) or none. What is beside a product
(s) is a matter of formats."""


@dataclass(frozen=True)
class Widths:
    """Of a layer: ``keys`` and ``values`` of a head, both without the ``rotary`` part; ``rank`` of
    the latent; ``batch`` sequences of ``queries`` tokens each that see ``seen``."""

    batch: Any
    queries: Any
    seen: Any
    heads: Any
    keys: Any
    rotary: Any
    rank: Any
    values: Any

    @property
    def tokens(self) -> Any:
        return self.batch * self.queries


def absorbed(calls: Sequence[Call]) -> list[Call]:
    """The kernels of a layer's attention, its output product the last."""
    known = [c for c in calls if isinstance(c.op, Matmul) and c.path.endswith(PROJECTIONS)]
    products = {c.path.rpartition(".")[2]: c for c in known}
    query = products.get("q_b_proj") or products["q_proj"]
    widen, narrow, out = (products[n] for n in ("kv_b_proj", "kv_a_proj_with_mqa", "o_proj"))
    widths = widths_of(calls, query.op, widen.op, narrow.op, out.op)
    first = products.get("q_a_proj")
    begun = [_both(first, narrow)] if first else []
    norms = [replace(c, op=_normed(c.op), launches=1) for c in calls if isinstance(c.op, Norm)]
    plain = [] if first else [narrow]
    is_prompt = widths.queries == widths.seen
    work = _prompt(widths, widen.op) if is_prompt else _step(widths, widen.op)
    at = replace(widen, path=widen.path.rpartition(".")[0], launches=1)
    widened = [widen] if is_prompt else []
    attended = [replace(at, op=op) for op in work]
    return [*begun, *norms, query, *plain, *widened, *attended, out]


PROJECTIONS = ("q_a_proj", "q_b_proj", "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def widths_of(calls: Sequence[Call], query: Any, widen: Any, narrow: Any, out: Any) -> Widths:
    """By the shapes of the layer's products: query [tokens, heads * (keys + rotary)], widen
    [seen, heads * (keys + values)], narrow [tokens, rank + rotary], out [heads * values, :]."""
    rotary = narrow.n - widen.k
    all_keys, all_values = widen.n - out.k, out.k
    heads = (query.n - all_keys) // rotary
    keys = all_keys // heads
    batch = _sequences(calls, heads, keys + rotary)
    return Widths(
        batch,
        query.m // batch,
        widen.m // batch,
        heads,
        keys,
        rotary,
        widen.k,
        all_values // heads,
    )


def _sequences(calls: Sequence[Call], heads: int, width: int) -> int:
    """By attention itself; where it is written out, by the product of queries and keys."""
    for op in (call.op for call in calls):
        if isinstance(op, Attention):
            return int(op.batch)
        if isinstance(op, Matmul) and op.batch > 1 and op.k == width:
            return int(op.batch) // heads
    return 1


def _both(first: Call, second: Call) -> Call:
    """Two products of one input as one."""
    one, other = first.op, second.op
    assert isinstance(one, Matmul)
    assert isinstance(other, Matmul)
    return replace(first, op=replace(one, n=one.n + other.n))


def _normed(norm: Norm) -> Operator:
    return Elementwise(norm.rows * norm.cols, 1, 1, 8, norm.dtype)


def _prompt(w: Widths, widen: Any) -> list[Operator]:
    turned = w.tokens * (w.heads * (w.keys + w.rotary) + w.rank + w.rotary)
    sizes = (w.batch, w.queries, w.seen, w.heads, w.heads, w.keys + w.rotary)
    attention = Attention(*sizes, wide(widen), causal=True, v_head_dim=w.values)
    return [Elementwise(turned, 1, 1, 6, wide(widen)), attention]


def _step(w: Widths, widen: Any) -> list[Operator]:
    turned = w.tokens * (w.heads * w.rotary + w.rank + w.rotary)
    sizes = (w.batch, w.queries, w.seen, w.heads, 1, w.rank + w.rotary)
    dtype = wide(widen)
    return [
        Matmul(w.tokens, w.rank, w.keys, w.heads, dtype),
        Elementwise(turned, 1, 1, 6, dtype),
        LatentAttention(*sizes, dtype, causal=True, v_head_dim=w.rank),
        Matmul(w.tokens, w.values, w.rank, w.heads, dtype),
    ]
