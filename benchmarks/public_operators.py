"""torch's own operators on six cards: what ships beside what strangers published.

    python -m benchmarks.public_operators [--rows] [--write docs/cards.md]

``benchmarks/data/public_operators.csv``: what Liger-Kernel's benchmarks took of torch and of
``transformers`` as a baseline (``public_operators.md`` beside it). What Triton's ``do_bench`` times
is one eager call between two events, after the L2 was emptied; while it is, the host gets ahead. So
what is compared is the device's queue: the kernels, of which the first finds nothing in the cache,
and the gap behind each (``STREAM_GAP``). A *full* pass is forward, backward, and the addition of
each gradient to that of the pass before, where the benchmark keeps it. ``12.4``: as torch by that
CUDA, of which something is known on Hoppers alone; most rows are by CUDA 12. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.older.shipped import load_torch, teacher_of
from calib.estimates.tables import found_in_cache
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import OLDER
from calib.samples.host_costs import host_costs
from calib.trace import trace
from model.layer import Call

PUBLISHED = Path(__file__).parent / "data" / "public_operators.csv"
BEGIN, END = "<!-- python -m benchmarks.public_operators -->", "<!-- end of public operators -->"
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


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class LinearCrossEntropy(nn.Module):
    """A model's last layer and its loss, as the source has them."""

    def __init__(self, hidden: int, vocab: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, vocab, bias=False)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.linear(x), target)


def tensor(*shape: int, dtype: torch.dtype, learns: bool = True) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=learns)


def indices(*shape: int) -> torch.Tensor:
    return tensor(*shape, dtype=torch.int64, learns=False)


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


@dataclass(frozen=True)
class Told:
    """Seconds of a pass's kernels, the ends of the interval, and the roofline."""

    seconds: float
    low: float
    high: float
    roofline: float


def told(timed: Sequence[Timed], hardware: Hardware) -> list[Told]:
    """What ships for ``hardware`` says of each, in one question."""
    estimator = load_torch(hardware)
    assert estimator is not None
    passes = [calls_of(t.kernel, t.mode, t.shape, t.dtype) for t in timed]
    ops = [call.op for calls in passes for call in calls]
    hot = [
        i > 0 and found_in_cache(c.op, hardware) for calls in passes for i, c in enumerate(calls)
    ]
    counts = [call.count for calls in passes for call in calls]
    found = estimator.estimates(ops, "torch", hot)
    gap = host_costs([], hardware.name).stream_gap
    starts = [call.count * call.launches for calls in passes for call in calls]
    columns = [
        np.multiply(counts, each) + np.multiply(starts, later)
        for each, later in (
            *((found.seconds, gap.estimate_s), (found.low, gap.low_s)),
            *((found.high, gap.high_s), (found.floor, 0.0)),
        )
    ]
    ends = [0]
    for calls in passes:
        ends.append(ends[-1] + len(calls))
    return [Told(*(float(column[a:b].sum()) for column in columns)) for a, b in pairwise(ends)]


def compared(timed: Sequence[Timed]) -> Iterator[dict[str, Any]]:
    """A row a published time; errors are those of the estimate."""
    for card in dict.fromkeys(t.card for t in timed):
        hardware, some = load_hardware(card), [t for t in timed if t.card == card]
        older = replace(hardware, cuda=OLDER)
        old = told(some, older) if teacher_of(older) else [None] * len(some)
        for row, now, then in zip(some, told(some, hardware), old, strict=True):
            yield {
                **{"card": card, "kernel": row.kernel, "mode": row.mode, "dtype": row.dtype},
                **{"shape": dict(row.shape), "published_s": row.seconds, "estimate_s": now.seconds},
                "error": now.seconds / row.seconds - 1,
                "inside": now.low <= row.seconds <= now.high,
                "roofline": now.roofline / row.seconds - 1,
                "older": then and then.seconds / row.seconds - 1,
                "older_inside": then and then.low <= row.seconds <= then.high,
            }


def summary(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    errors = [r["error"] for r in rows]
    older = [r["older"] for r in rows if r["older"] is not None]
    held = sum(bool(r["inside"]) for r in rows)
    times = sorted(r["published_s"] for r in rows)
    return [
        name,
        str(len(rows)),
        f"{times[0] * 1e3:.2g}-{times[-1] * 1e3:.3g}",
        percent(median(r["roofline"] for r in rows)),
        percent(median(errors)),
        percent(max(errors, key=abs)),
        f"{held}/{len(rows)}",
        percent(median(older)) if older else "-",
        f"{sum(bool(r['older_inside']) for r in rows)}/{len(rows)}" if older else "-",
    ]


def described(rows: Sequence[dict[str, Any]]) -> str:
    head = ["median errors", "rows", "ms", "roofline", "estimate", "worst", "held", OLDER, "held"]
    keys = dict.fromkeys((r["card"], r["kernel"], r["mode"]) for r in rows)
    shown = [
        summary(" ".join(key), [r for r in rows if (r["card"], r["kernel"], r["mode"]) == key])
        for key in keys
    ]
    parts = [lines(head, shown), ""]
    for card in dict.fromkeys(r["card"] for r in rows):
        some = [r for r in rows if r["card"] == card]
        said = [
            f"{way} {mean(abs(r[key]) for r in some):.1%}" for way, key in WAYS if has(some, key)
        ]
        held = sum(bool(r["inside"]) for r in some)
        parts.append(
            f"{card}: mean |error| {', '.join(said)}; intervals hold {held} of {len(some)}"
        )
    return "\n".join(parts)


WAYS = (("estimate", "error"), (f"by CUDA {OLDER}", "older"), ("roofline", "roofline"))


def has(rows: Sequence[dict[str, Any]], key: str) -> bool:
    return all(r[key] is not None for r in rows)


def each(rows: Sequence[dict[str, Any]]) -> str:
    shown = [
        [
            f"{r['card']} {r['kernel']} {r['mode']} {','.join(map(str, r['shape'].values()))}",
            f"{r['published_s'] * 1e3:.4g}",
            f"{r['estimate_s'] * 1e3:.4g}",
            percent(r["error"]),
            "yes" if r["inside"] else "no",
            percent(r["older"]),
            percent(r["roofline"]),
        ]
        for r in rows
    ]
    return lines(["a pass", "ms", "estimate", "error", "held", OLDER, "roofline"], shown)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_operators")
    parser.add_argument("--rows", action="store_true", help="a line a published time")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    rows = list(compared(published()))
    shown = described(rows)
    print(f"{each(rows)}\n\n{shown}" if asked.rows else shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"operators": rows}))


if __name__ == "__main__":
    main()
