"""What a call is to an engine: one letter, by its module path and its kind.

A pass then reads as a word (a dense layer on two cards: ``nqqqiiiiAoR+nuavumdR+``), in which the
patterns of :mod:`calib.estimates.stack.patterns` find what an engine runs as one kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from model.layer import Call
from model.ops import (
    AllReduce,
    Attention,
    Collective,
    Elementwise,
    GroupedMatmul,
    Matmul,
    Norm,
    Operator,
    Other,
)


@dataclass(frozen=True)
class Role:
    """``letter`` for an operator of ``kinds`` (none: any) whose path ends as ``path`` says."""

    letter: str
    path: str
    kinds: tuple[type[Operator], ...] = ()

    def fits(self, call: Call) -> bool:
        is_kind = not self.kinds or isinstance(call.op, self.kinds)
        return is_kind and re.search(self.path, call.path) is not None


ROLES = (
    Role("R", r"", (AllReduce,)),
    Role("C", r"", (Collective,)),
    Role("e", r"embed_tokens$"),
    Role("s", r"_proj(_with_mqa)?$", (Elementwise, Other)),
    Role("n", r"(layernorm|(^|\.)norm)$", (Norm,)),
    Role("h", r"self_attn\.[qk]_norm$"),
    Role("q", r"self_attn\.[qkv]_proj$", (Matmul,)),
    Role("a", r"self_attn\.(q_a_proj|kv_a_proj_with_mqa)$", (Matmul,)),
    Role("b", r"self_attn\.q_b_proj$", (Matmul,)),
    Role("k", r"self_attn\.kv_b_proj$", (Matmul,)),
    Role("o", r"self_attn\.o_proj$", (Matmul,)),
    Role("A", r"self_attn$", (Attention,)),
    Role("i", r"self_attn$"),
    Role("r", r"mlp\.gate$", (Matmul,)),
    Role("t", r"mlp\.gate$"),
    Role("x", r"mlp\.experts(\.\w+)?$", (GroupedMatmul,)),
    Role("y", r"mlp\.experts(\.\w+)?$"),
    Role("u", r"\.(gate_proj|up_proj)$", (Matmul,)),
    Role("d", r"\.down_proj$", (Matmul,)),
    Role("m", r"mlp(\.shared_experts)?(\.act_fn)?$"),
    Role("+", r"layers\.\d+$"),
    Role("H", r"lm_head$", (Matmul,)),
    Role("p", r"(^|\.)(model|rotary_emb)$"),
)
"""The first that fits."""
OTHER = "?"
ATTENDS = frozenset("Ak")
"""Letters of which a decoder has one: attention, or what widens a latent for it."""


def role_of(call: Call) -> str:
    return next((role.letter for role in ROLES if role.fits(call)), OTHER)
