"""torch's own operators on six cards: what ships beside what strangers published.

    python -m benchmarks.public_operators [--rows] [--write docs/cards.md]

``benchmarks/data/public_operators.csv``: what Liger-Kernel's benchmarks took of torch and of
``transformers`` as a baseline (``public_operators.md`` beside it). What Triton's ``do_bench`` times
is one eager call between two events, after the L2 was emptied (:mod:`benchmarks.published_times`).
A *full* pass is forward, backward, and the addition of each gradient to that of the pass before,
where the benchmark keeps it. Most rows are by CUDA 12. Ends with one line of JSON.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from benchmarks.published_times import Function, Pass, indices, judge, tensor
from calib.trace import trace
from model.layer import Call

PUBLISHED = Path(__file__).parent / "data" / "public_operators.csv"
FULL = "full"


@dataclass(frozen=True)
class Timed:
    """One published time [s] of a kernel of ``mode`` on a card. ``shape``: by names."""

    card: str
    kernel: str
    mode: str
    shape: tuple[tuple[str, int], ...]
    dtype: str
    seconds: float


def published(path: Path = PUBLISHED) -> list[Timed]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Timed(r["card"], r["kernel"], r["mode"], shape_of(r["shape"]), r["dtype"], ms / 1e3)
            for r in csv.DictReader(file)
            if (ms := float(r["ms"]))
        ]


def shape_of(text: str) -> tuple[tuple[str, int], ...]:
    pairs = (part.split("=") for part in text.split(";"))
    return tuple((name, int(value)) for name, value in pairs)


@dataclass(frozen=True)
class Case:
    """What was timed, on ``meta``. ``kept``: tensors whose gradient stays from pass to pass.
    ``drawn``: whether a full pass draws the gradient that it starts from."""

    module: nn.Module
    inputs: tuple[Any, ...]
    kept: tuple[torch.Tensor, ...] = ()
    drawn: bool = False


class LinearCrossEntropy(nn.Module):
    """A model's last layer and its loss, as the source has them."""

    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, vocab, bias=False)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.linear(x), target)


def cross_entropy(dtype: torch.dtype, rows: int, cols: int) -> Case:
    x = tensor(rows, cols, dtype=dtype)
    return Case(nn.CrossEntropyLoss(), (x, indices(rows)), (x,))


def linear_cross_entropy(dtype: torch.dtype, rows: int, hidden: int, vocab: int) -> Case:
    module = LinearCrossEntropy(hidden, vocab).to("meta", dtype)
    x = tensor(rows, hidden, dtype=dtype)
    return Case(module, (x, indices(rows)), (x, *module.parameters()))


def kl_div(dtype: torch.dtype, rows: int, cols: int) -> Case:
    x, target = tensor(rows, cols, dtype=dtype), tensor(rows, cols, dtype=dtype, learns=False)
    return Case(nn.KLDivLoss(reduction="batchmean"), (x, target))


def softmax(dtype: torch.dtype, rows: int, cols: int) -> Case:
    return Case(nn.Softmax(dim=-1), (tensor(rows, cols, dtype=dtype),))


def layer_norm(dtype: torch.dtype, rows: int, cols: int) -> Case:
    module = nn.LayerNorm(cols, device="meta", dtype=dtype)
    return Case(module, (tensor(rows, cols, dtype=dtype),), tuple(module.parameters()))


def rms_norm(dtype: torch.dtype, rows: int, cols: int) -> Case:
    """The source leaves the weight in float32, and so is what comes out."""
    return Case(LlamaRMSNorm(cols).to("meta"), (tensor(rows, cols, dtype=dtype),))


def embedding(dtype: torch.dtype, rows: int, cols: int, vocab: int) -> Case:
    return Case(nn.Embedding(vocab, cols, device="meta", dtype=dtype), (indices(rows),))


def rope(dtype: torch.dtype, tokens: int, heads: int, kv_heads: int, head_dim: int) -> Case:
    """Queries and keys lie token by token, as a projection leaves them."""
    q, k = (tensor(1, tokens, n, head_dim, dtype=dtype).transpose(1, 2) for n in (heads, kv_heads))
    cos, sin = (tensor(1, tokens, head_dim, dtype=dtype, learns=False) for _ in range(2))
    return Case(Function(apply_rotary_pos_emb), (q, k, cos, sin))


def mlp(dtype: torch.dtype, act: str, rows: int, hidden: int, intermediate: int) -> Case:
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate}
    with torch.device("meta"):
        module = LlamaMLP(LlamaConfig(hidden_act=act, **sizes)).to(dtype)
    x = tensor(rows, hidden, dtype=dtype)
    return Case(module, (x,), tuple(module.parameters()), drawn=True)


def swiglu(dtype: torch.dtype, **sizes: int) -> Case:
    return mlp(dtype, "silu", **sizes)


def geglu(dtype: torch.dtype, **sizes: int) -> Case:
    return mlp(dtype, "gelu_pytorch_tanh", **sizes)


KERNELS: dict[str, Callable[..., Case]] = {
    f.__name__: f
    for f in (cross_entropy, linear_cross_entropy, kl_div, softmax, layer_norm, rms_norm)
} | {f.__name__: f for f in (embedding, rope, swiglu, geglu)}


@cache
def calls_of(
    kernel: str, mode: str, shape: tuple[tuple[str, int], ...], dtype: str
) -> tuple[Call, ...]:
    """The calls of one pass; a gradient that is kept is added to."""
    case = KERNELS[kernel](getattr(torch, dtype), **dict(shape))
    if mode != FULL:
        return tuple(trace(case.module.requires_grad_(False), *case.inputs))
    found = trace(case.module, *case.inputs, backward=True)
    for leaf in case.kept:
        found += trace(Function(torch.Tensor.add_), leaf.detach(), leaf.detach())
    if case.drawn:
        found += trace(Function(torch.randn_like), case.inputs[0].detach())
    return tuple(found)


def passes(timed: Sequence[Timed]) -> list[Pass]:
    """What each time is of; ``do_bench`` empties the cache before it."""
    return [
        Pass(
            *(t.card, f"{t.kernel} {t.mode}", ",".join(str(n) for _, n in t.shape), t.seconds),
            calls_of(t.kernel, t.mode, t.shape, t.dtype),
        )
        for t in timed
    ]


if __name__ == "__main__":
    judge("benchmarks.public_operators", lambda: passes(published()), "operators")
