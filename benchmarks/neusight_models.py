"""The models that NeuSight timed, as ``transformers`` 4.38 ran them, without contents.

Dimensions are those of its ``DLmodel_configs``; ``gpt3_xl`` and ``gpt3_27`` are GPT-2's code.
Attention was eager then: products, a scale, a mask and a softmax, each an operator of its own, and
not the same ones in the three kinds of model. They are written out here, since later versions of
the library took one form for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from math import sqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from benchmarks.published_times import Function, indices
from calib.trace import trace
from calib.trace.module import recorded
from calib.trace.rules.rows import Row
from calib.trace.rules.table import calls_of
from model.layer import Call

LEAST = torch.finfo(torch.float32).min


def bert_attention(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **said: Any
) -> tuple[torch.Tensor, None]:
    """A mask of the padding is added, though there is none."""
    scores = q @ k.transpose(-1, -2) / sqrt(q.shape[-1])  # [batch, heads, tokens, tokens]
    scores = scores + q.new_empty(len(q), 1, 1, k.shape[-2])
    return mixed(module, F.softmax(scores, dim=-1), v, said)


def gpt2_attention(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **said: Any
) -> tuple[torch.Tensor, None]:
    """Scores above the diagonal are replaced, by a mask that lies in a buffer."""
    scores = q @ k.transpose(-1, -2)
    scores = scores / torch.full([], sqrt(q.shape[-1]), device=q.device)
    below = q.new_empty(1, 1, q.shape[-2], k.shape[-2], dtype=torch.bool)
    scores = torch.where(below, scores, torch.full([], LEAST, device=q.device))
    return mixed(module, F.softmax(scores, dim=-1), v, said)


def opt_attention(
    module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **said: Any
) -> tuple[torch.Tensor, None]:
    """A causal mask is added, and what fell below the least number is lifted to it."""
    q, k, v = (each.contiguous() for each in (q, k, v))
    scores = q @ k.transpose(-1, -2)  # the queries were scaled when they were projected
    scores = scores + q.new_empty(len(q), 1, q.shape[-2], k.shape[-2])
    scores = torch.max(scores, torch.tensor(LEAST, device=q.device))
    return mixed(module, F.softmax(scores, dim=-1), v, said)


def mixed(
    module: nn.Module, weights: torch.Tensor, v: torch.Tensor, said: dict[str, Any]
) -> tuple[torch.Tensor, None]:
    weights = F.dropout(weights, p=said["dropout"], training=module.training)
    return (weights @ v).transpose(1, 2).contiguous(), None


GPT2 = {"activation_function": "gelu_new", "vocab_size": 50257, "use_cache": False}
CONFIGS = {
    "bert_large": BertConfig(
        **{"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 30522},
        **{"num_attention_heads": 16, "num_hidden_layers": 24},
    ),
    "gpt2_large": GPT2Config(n_embd=1280, n_head=20, n_layer=36, n_positions=1024, **GPT2),
    "gpt3_xl": GPT2Config(n_embd=3072, n_head=24, n_layer=24, n_positions=2048, **GPT2),
    "opt_13": OPTConfig(
        **{"hidden_size": 2048, "ffn_dim": 8192, "vocab_size": 50272, "use_cache": False},
        **{"num_attention_heads": 32, "num_hidden_layers": 24},
    ),
    "gpt3_27": GPT2Config(n_embd=2560, n_head=32, n_layer=32, n_positions=2048, **GPT2),
}
WRITTEN = {"bert": bert_attention, "gpt2": gpt2_attention, "opt": opt_attention}


def built(name: str, training: bool) -> PreTrainedModel:
    """On ``meta``; of BERT the form that each mode had."""
    config = CONFIGS[name]
    kind = config.model_type
    AttentionInterface.register(f"{kind}_of_4_38", WRITTEN[kind])
    config._attn_implementation = f"{kind}_of_4_38"
    bert = BertForPreTraining if training else BertForSequenceClassification
    of = {"bert": bert, "gpt2": GPT2LMHeadModel, "opt": OPTForCausalLM}[kind]
    with torch.device("meta"):
        return of(config).train(training)  # type: ignore[no-any-return]


def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), target.view(-1))


class Learning(nn.Module):
    """A model and the loss of its words."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        found = self.model(words)
        return loss_of(
            found["prediction_logits" if "prediction_logits" in found else "logits"], words
        )


@cache
def forward_of(name: str, tokens: int, batch: int) -> tuple[Call, ...]:
    """The calls of a forward pass for inference."""
    return ran(trace(built(name, training=False), indices(batch, tokens)))


@cache
def training_of(name: str, tokens: int, batch: int) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """The calls of a forward pass in training, and of what comes behind the loss: the gradients,
    each added to that of the step before. The loss itself lay between the two clocks."""
    learning = Learning(built(name, training=True))
    found = recorded(learning, (indices(batch, tokens),), {}, backward=True)
    forward = list(calls_of(row for row in found.events if isinstance(row, Row)))
    backward = list(calls_of(row for row in found.backward if isinstance(row, Row)))
    for weight in (p for p in learning.parameters() if p.grad is not None):
        backward += trace(Function(torch.Tensor.add_), weight.detach(), weight.detach())
    return ran(call for call in forward if call.path), ran(backward)


def ran(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Without what was only allocated, as a mask that was made before is here."""
    return tuple(c for c in calls if c.op.bytes_read + c.op.bytes_written)
