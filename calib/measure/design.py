"""Which shapes to measure: a space-filling design over each kind's domain, spread in logarithm.

A domain says which dimensions vary and over what range: those of decoders, mixtures of experts and
vision transformers at large, not of one model. Points follow a Halton sequence, so every prefix of
the design fills the domain and a sweep may stop anywhere. Sizes snap to multiples as models have
them (hidden sizes to 64, heads to whole numbers).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import ops
from model.ops import Operator


@dataclass(frozen=True)
class Axis:
    """One dimension: [low, high], log-uniform, rounded to a multiple of ``step``."""

    low: int
    high: int
    step: int = 1

    def at(self, u: float) -> int:
        value = np.exp(np.log(self.low) + u * (np.log(self.high) - np.log(self.low)))
        return max(self.low, round(value / self.step) * self.step)


@dataclass(frozen=True)
class Domain:
    """A kind of operator over its axes. ``share``: points for each one of a domain of share 1."""

    name: str
    share: float
    axes: dict[str, Axis]
    build: Callable[..., Operator]
    cache: str

    def points(self, seed: int = 0) -> Iterator[Operator]:
        """Endless, always the same for one seed; shapes that are not valid are left out."""
        from scipy.stats import qmc

        sampler = qmc.Halton(len(self.axes), rng=seed)
        while True:
            for row in sampler.random(16):
                shape = {n: a.at(u) for (n, a), u in zip(self.axes.items(), row, strict=True)}
                yield self.build(**shape)


def _self_attention(batch: int, length: int, heads: int, dim: int, **flags: Any) -> Operator:
    return ops.Attention(batch, length, length, heads, heads, 64 * dim, **flags)


def _grouped(tokens: int, experts: int, top_k: int, n: int, k: int) -> Operator:
    touched = round(float(ops.distinct_experts(experts, min(top_k, experts), tokens)))
    touched = min(max(touched, 1), experts, tokens * min(top_k, experts))
    return ops.GroupedMatmul(
        tokens, experts, min(top_k, experts), n, k, active_experts=float(touched)
    )


def _norm_across(rows: int, cols: int) -> Operator:
    return ops.Norm(rows, cols, "layernorm", transposed=True)


def _sum_across(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols, inputs=2, transposed=True)


_HIDDEN = Axis(256, 8192, 64)
_ROWS = Axis(1, 4096)
_ELEMENTS = Axis(64, 2**23)


def _pointwise(inputs: int, flops: int, dtype: str) -> Callable[..., Operator]:
    return lambda elements: ops.Elementwise(elements, inputs, 1, flops, dtype)


def _outer_sum(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols**2, 0, broadcast=2 * rows * cols)


def _other(name: str, read: int, written: int, dtype: str) -> Callable[..., Operator]:
    return lambda count: ops.Other(name, read * count, written * count, dtype=dtype)


def _resample(table: int, grid: int) -> Operator:
    learned, wanted = 768 * table**2, 768 * grid**2
    return ops.Other("upsample_bicubic2d", 4 * learned, 4 * wanted, 16 * wanted, dtype="float32")


def _domains() -> list[Domain]:
    rows = {"m": _ROWS, "n": _HIDDEN, "k": _HIDDEN}
    gemv = {"m": Axis(1, 4), "n": _HIDDEN, "k": _HIDDEN}
    tokens = {"m": Axis(32, 1024), "n": _HIDDEN, "k": Axis(512, 4096, 64)}
    domains = [
        Domain("product", 6, rows, lambda m, n, k: ops.Matmul(m, n, k, bias=m % 2 == 0), "cold"),
        Domain("product of a prompt", 6, tokens, ops.Matmul, "cold"),
        Domain("vector product", 4, gemv, ops.Matmul, "cold"),
        Domain(
            "vocabulary",
            1.5,
            {"m": Axis(1, 128), "n": Axis(32000, 152000, 64), "k": Axis(512, 2048, 64)},
            ops.Matmul,
            "cold",
        ),
        Domain(
            "product in float32",
            1.5,
            {"m": Axis(1, 512), "n": Axis(16, 1024), "k": _HIDDEN},
            lambda m, n, k: ops.Matmul(m, n, k, dtype="float32"),
            "cold",
        ),
        Domain(
            "batched product",
            1.5,
            {
                "batch": Axis(4, 256),
                "m": Axis(14, 1024),
                "n": Axis(14, 256),
                "k": Axis(32, 128, 16),
            },
            lambda batch, m, n, k: ops.Matmul(m, n, k, batch),
            "cold",
        ),
        Domain(
            "experts",
            5,
            {
                "tokens": Axis(1, 512),
                "experts": Axis(8, 96),
                "top_k": Axis(1, 8),
                "n": Axis(512, 2048, 64),
                "k": Axis(512, 2048, 64),
            },
            _grouped,
            "cold",
        ),
        Domain(
            "causal attention",
            2,
            {
                "batch": Axis(1, 4),
                "length": Axis(16, 1024),
                "heads": Axis(4, 32),
                "dim": Axis(1, 2),
            },
            lambda **s: _self_attention(**s, causal=True),
            "hot",
        ),
        Domain(
            "vision attention",
            2,
            {"batch": Axis(1, 16), "length": Axis(49, 768), "heads": Axis(6, 24)},
            lambda batch, length, heads: _self_attention(batch, length, heads, 1),
            "hot",
        ),
        Domain(
            "attention with bias",
            4,
            {"batch": Axis(1, 25), "length": Axis(49, 2048), "heads": Axis(6, 16)},
            lambda batch, length, heads: _self_attention(batch, length, heads, 1, bias=True),
            "hot",
        ),
        Domain(
            "decode attention",
            2,
            {
                "batch": Axis(1, 8),
                "context": Axis(32, 4096),
                "heads": Axis(8, 32),
                "dim": Axis(1, 2),
            },
            lambda batch, context, heads, dim: ops.Attention(
                batch, 1, context, heads, heads, 64 * dim
            ),
            "hot",
        ),
        Domain(
            "patches",
            2,
            {"side": Axis(14, 64), "patch": Axis(8, 32), "out": Axis(256, 1280, 64)},
            lambda side, patch, out: ops.Conv2d(
                1, 3, out, side * patch, side * patch, patch, patch, bias=True
            ),
            "cold",
        ),
        Domain(
            "convolution",
            5,
            {
                "side": Axis(8, 64),
                "inside": Axis(64, 1024, 64),
                "out": Axis(64, 1024, 64),
                "stride": Axis(1, 2),
                "half": Axis(1, 2),
            },
            lambda side, inside, out, stride, half: ops.Conv2d(
                1, inside, out, side, side, 2 * half - 1, stride, half - 1
            ),
            "cold",
        ),
        Domain(
            "layernorm",
            2,
            {"rows": _ROWS, "cols": Axis(256, 4096, 64)},
            lambda rows, cols: ops.Norm(rows, cols, "layernorm"),
            "hot",
        ),
        Domain("rmsnorm", 2, {"rows": Axis(1, 1024), "cols": Axis(256, 4096, 64)}, ops.Norm, "hot"),
        Domain(
            "softmax",
            1,
            {"rows": Axis(1, 8192), "cols": Axis(16, 1024)},
            lambda rows, cols: ops.Softmax(rows, cols, dtype="float32"),
            "hot",
        ),
        Domain(
            "scores' softmax",
            0.5,
            {"rows": Axis(64, 16384), "cols": Axis(64, 1024)},
            ops.Softmax,
            "hot",
        ),
        Domain("rows", 1.5, {"rows": Axis(1, 2048), "cols": Axis(1, 2048)}, ops.Gather, "hot"),
        Domain(
            "rows in float32",
            1,
            {"rows": Axis(1, 2048), "cols": Axis(1, 2048)},
            lambda rows, cols: ops.Gather(rows, cols, "float32"),
            "hot",
        ),
        Domain("move", 2, {"elements": _ELEMENTS}, ops.Copy, "hot"),
        Domain("move from memory", 0.5, {"elements": Axis(2**18, 2**24)}, ops.Copy, "cold"),
    ]
    grids = {"rows": Axis(64, 8192), "cols": Axis(256, 1536, 64)}
    domains += [
        Domain("norm across", 1, grids, _norm_across, "hot"),
        Domain("sum across", 1, grids, _sum_across, "hot"),
    ]
    outer = {"rows": Axis(64, 16384), "cols": Axis(14, 64)}
    domains.append(Domain("outer sum", 1.5, outer, _outer_sum, "hot"))
    casts = [("bfloat16", "float32"), ("float32", "bfloat16"), ("int64", "float32")]
    casts += [("float32", "int64")]
    for source, target in casts:
        domains.append(
            Domain(
                f"{source} to {target}",
                0.7,
                {"elements": Axis(16, 2**22)},
                lambda elements, s=source, t=target: ops.Copy(elements, s, t),
                "hot",
            )
        )
    pointwise = [(1, 1, "bfloat16", 1.5), (2, 1, "bfloat16", 2), (1, 4, "bfloat16", 1)]
    pointwise += [(1, 5, "bfloat16", 1.5), (1, 1, "float32", 1), (2, 1, "float32", 0.7)]
    pointwise += [(1, 1, "int64", 0.5)]
    for inputs, flops, dtype, share in pointwise:
        name = f"pointwise {inputs} {flops} {dtype}"
        axes = {"elements": _ELEMENTS if dtype == "bfloat16" else Axis(16, 2**20)}
        domains.append(Domain(name, share, axes, _pointwise(inputs, flops, dtype), "hot"))
    others = [("topk", 256, 72, "float32"), ("sort", 8, 16, "int64"), ("histc", 4, 4, "float32")]
    others += [("cumsum", 4, 4, "float32"), ("index_put", 16, 8, "int64")]
    others += [("sum", 6 * 512, 512, "float32"), ("arange", 0, 8, "int64")]
    others += [
        ("new_ones", 0, 1, "bool"),
        ("new_zeros", 0, 1, "bool"),
        ("empty_like", 0, 8, "int64"),
    ]
    others += [("upsample_linear1d", 128, 96, "bfloat16")]
    for name, read, written, dtype in others:
        axes = {"count": Axis(4, 1024)}
        domains.append(Domain(name, 0.35, axes, _other(name, read, written, dtype), "hot"))
    axes = {"table": Axis(14, 64), "grid": Axis(7, 64)}
    domains.append(Domain("resample", 0.7, axes, _resample, "hot"))
    return domains


def design(seed: int = 0) -> Iterator[tuple[Operator, str]]:
    """Operators with the cache state to measure them in, endless; every prefix keeps the shares."""
    domains = _domains()
    streams = [domain.points(seed + i) for i, domain in enumerate(domains)]
    credit = [0.0] * len(domains)
    for _ in itertools.count():
        for i, domain in enumerate(domains):
            credit[i] += domain.share / 2
            while credit[i] >= 1:
                credit[i] -= 1
                yield next(streams[i]), domain.cache
