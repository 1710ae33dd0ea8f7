"""The vendor's decoder in our own words: a module that executes the same operators in eager torch.

Written to be traced. Casts that autocast would add are written out. The number of tokens of each
expert is given (``loads``) where tensors have no contents to count it from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from model.deepseek_ocr_vendor import VendorDeepseekOCR

Cache = dict[int, tuple[torch.Tensor, torch.Tensor]]
SCALING = 1.0
"""Of rotary positions and of routing weights: a product that is executed all the same."""


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        mean = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(mean + 1e-6)).to(x.dtype)


class Rotary(nn.Module):
    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.ones(head_dim // 2))

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The buffer went to bfloat16 with the model, so that the cast is a copy.
        by_frequency = self.frequencies[None, :, None].float().expand(len(positions), -1, 1)
        by_position = positions[:, None, :].float()
        half = (by_frequency @ by_position).transpose(1, 2)
        angles = torch.cat((half, half), dim=-1)
        cosine, sine = angles.cos() * SCALING, angles.sin() * SCALING
        return cosine.to(x.dtype), sine.to(x.dtype)


def rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    def turned() -> torch.Tensor:
        middle = x.shape[-1] // 2
        return torch.cat((-x[..., middle:], x[..., :middle]), dim=-1)

    return x * cosine[:, None] + turned() * sine[:, None]


class SelfAttention(nn.Module):
    def __init__(self, model: VendorDeepseekOCR) -> None:
        super().__init__()
        self.heads, self.head_dim = model.heads, model.head_dim
        width = model.heads * model.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(model.hidden, width, bias=False))
        self.o_proj = nn.Linear(width, model.hidden, bias=False)
        self.rotary_emb = Rotary(model.head_dim)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, cache: Cache, index: int
    ) -> torch.Tensor:
        batch, tokens, _ = x.shape
        form = batch, tokens, self.heads, self.head_dim
        q, k, v = (
            project(x).view(form).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        turns = self.rotary_emb(v, positions)
        q, k = rotated(q, *turns), rotated(k, *turns)
        if index in cache:
            old_k, old_v = cache[index]
            k, v = torch.cat([old_k, k], dim=-2), torch.cat([old_v, v], dim=-2)
        cache[index] = k, v
        if tokens > 1:  # are sequences packed? the host would wait for the answer
            (torch.diff(positions, dim=-1) >= 0).all()
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1).contiguous())


class SwiGlu(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.act_fn = nn.SiLU()
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Gate(nn.Module):
    def __init__(self, model: VendorDeepseekOCR) -> None:
        super().__init__()
        self.top_k = model.top_k
        self.weight = nn.Parameter(torch.ones(model.experts, model.hidden))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.view(-1, x.shape[-1])
        wide, weight = rows.type(torch.float32), self.weight.type(torch.float32)
        logits = F.linear(wide.to(x.dtype), weight.to(x.dtype))
        scores = logits.to(torch.float32).softmax(dim=-1)
        best, chosen = torch.topk(scores, k=self.top_k, dim=-1, sorted=False)
        return chosen, best * SCALING


class Mixture(nn.Module):
    def __init__(self, model: VendorDeepseekOCR) -> None:
        super().__init__()
        self.loads: list[int] = []
        inner = model.expert_intermediate
        self.gate = Gate(model)
        self.experts = nn.ModuleList(SwiGlu(model.hidden, inner) for _ in range(model.experts))
        self.shared_experts = SwiGlu(model.hidden, inner * model.shared_experts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen, weights = self.gate(x)
        routed = self.routed(x.view(-1, x.shape[-1]), chosen, weights)
        return routed.view(x.shape) + self.shared_experts(x)

    def routed(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        counts = chosen.new_zeros((len(x), len(self.experts)))
        counts.scatter_(1, chosen, 1)
        tokens = counts.sum(dim=0)
        order = chosen.view(-1).argsort()
        gathered = x[order // chosen.shape[1]]
        results, start = [], 0
        for expert, count in zip(self.experts, self.loads or tokens.tolist(), strict=False):
            if count:
                results.append(expert(gathered[start : start + count]))
                start += count
        joined = torch.cat(results, dim=0)
        in_order = torch.empty_like(joined)
        in_order[order] = joined
        each = in_order.view(*chosen.shape, -1).type(weights.dtype)
        return each.mul_(weights.unsqueeze(dim=-1)).sum(dim=1).type(in_order.dtype)


class Block(nn.Module):
    def __init__(self, model: VendorDeepseekOCR, index: int) -> None:
        super().__init__()
        self.index = index
        self.input_layernorm = Norm(model.hidden)
        self.self_attn = SelfAttention(model)
        self.post_attention_layernorm = Norm(model.hidden)
        dense = index < model.dense_layers
        self.mlp: nn.Module = SwiGlu(model.hidden, model.intermediate) if dense else Mixture(model)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        residual = x
        x = self.input_layernorm(x)
        x = residual + self.self_attn(x, positions, cache, self.index)
        residual = x
        x = self.post_attention_layernorm(x)
        return residual + self.mlp(x)


class Decoder(nn.Module):
    def __init__(self, model: VendorDeepseekOCR) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(model.vocabulary, model.hidden)
        self.layers = nn.ModuleList(Block(model, index) for index in range(model.layers))
        self.norm = Norm(model.hidden)

    def forward(
        self, given: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """``given``: token indices, or features of a prompt."""
        x = given if given.is_floating_point() else self.embed_tokens(given)
        (mask == 0).any()  # is there padding? the host would wait for the answer
        for block in self.layers:
            x = block(x, positions, cache)
        return self.norm(x)


class Root(nn.Module):
    def __init__(self, model: VendorDeepseekOCR) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = Decoder(model)
        self.lm_head = nn.Linear(model.hidden, model.vocabulary, bias=False)

    def forward(self, *given: Any) -> torch.Tensor:
        hidden = self.model.language_model(*given)
        return self.lm_head(hidden).float()

    def route(self, loads: list[int]) -> None:
        """``loads``: tokens of each expert, in every mixture; without: as routed, on real ones."""
        for module in self.modules():
            if isinstance(module, Mixture):
                module.loads = loads
