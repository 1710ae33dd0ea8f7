"""Experts as a recorded model of random weights touched them, in place of uniform routing.

Which experts tokens went to is not in a record of operators. What random weights do is known all
the same: where it was counted (:mod:`benchmarks.random_routing`), those counts. Of anything else a
law: tokens of one sequence look at the same past and grow alike from layer to layer, so that a
sequence of n tokens routes like m < n independent ones, and sequences are independent of one
another.

    touched = E * (1 - (1 - k / E)^(m * sequences))
    m = 1.4 n^0.6 in the first layer, 1 + 1.1 log2 n in the second, 1 + 0.45 log2 n behind

Read off small models of random weights on a CPU (Mixtral 8 of 2, OLMoE 64 of 8, Qwen3 128 of 8; one
to 16 sequences of 1 to 512 tokens): 4 x 512 tokens of Qwen3 touch 93 to 104 experts behind the
second layer, by the law 94; one token each of 16 sequences 80 to 84 (83). The busiest expert has
all tokens of as many sequences as chance brings together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.random_routing import known
from calib.trace.tree import TracedLayer
from model.layer import Call
from model.ops import Attention, GroupedMatmul
from model.workload import Phase

LAYER = re.compile(r"\blayers\.(\d+)\b")
DEEP = 2
"""Layers behind which sequences have grown as alike as they will."""


def of_random_weights(model: str, phase: Phase) -> Phase:
    """``phase`` with the counted experts, where those of ``model`` were counted with as many rows;
    else with those of the law, where its attention says what the sequences are. Layers beyond those
    counted are taken for the last one of them."""
    listed = phase.layer.calls()
    if not any(isinstance(call.op, GroupedMatmul) for call in listed):
        return phase
    calls = tuple(touched(call, known().get(model, []), sequences_of(listed)) for call in listed)
    return replace(phase, layer=TracedLayer(model, calls))


def touched(call: Call, counted: Sequence[dict[str, int]], sequences: dict[int, int]) -> Call:
    """``sequences``: by how many tokens there are."""
    op, place = call.op, LAYER.search(call.path)
    if not isinstance(op, GroupedMatmul) or op.active_experts is not None:
        return call
    layer = int(place[1]) if place else DEEP
    found = counted[min(layer, len(counted) - 1)] if counted and place else {}
    if found.get("rows") == op.rows:
        seen = replace(op, active_experts=found["touched"], max_load=found["busiest"])
        return replace(call, op=seen)
    if op.tokens not in sequences:
        return call
    many = sequences[op.tokens]
    length = op.tokens / many
    alike = independent(length, layer) * many
    experts = op.experts * (1 - (1 - op.top_k / op.experts) ** alike)
    load = round(min(together(many, op) * length, op.tokens))
    seen = replace(op, active_experts=max(experts, op.top_k), max_load=max(load, 1))
    return replace(call, op=seen)


def sequences_of(calls: Sequence[Call]) -> dict[int, int]:
    """Tokens of a pass -> how many sequences they are of."""
    found = {call.op for call in calls if isinstance(call.op, Attention)}
    return {op.batch * op.q_len: op.batch for op in found}


def independent(tokens: float, layer: int) -> float:
    """As how many independent tokens those of a sequence route."""
    doublings = math.log2(tokens)
    behind = 1 + 0.45 * doublings if layer >= DEEP else 1 + 1.1 * doublings
    return min(1.4 * tokens**0.6 if layer == 0 else behind, tokens)


def together(many: int, op: GroupedMatmul) -> int:
    """Sequences that are likely to have one of their experts in common: the median, over experts,
    of the largest number."""
    share, below = op.top_k / op.experts, 0.0
    for n in range(many + 1):
        below += math.comb(many, n) * share**n * (1 - share) ** (many - n)
        if below**op.experts >= 1 / 2:
            return max(n, 1)
    return many
