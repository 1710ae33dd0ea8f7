"""The shapes that models at large have, a domain for each use of a kind of operator.

A domain says which dimensions vary and over what range: those of decoders, mixtures of experts and
vision transformers, not of one model. Sizes snap to what models have (hidden sizes to multiples of
64, patches to the usual sides); lengths that kernels cut into tiles also lie at a tile's edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import ops
from model.ops import Operator

_EDGES = 0.2
"""Share of a domain's points that lie at the edges of tiles, where it has such an axis."""
_OFFSETS = (-1, 0, 1)


@dataclass(frozen=True)
class Axis:
    """One dimension: [low, high], log-uniform, rounded to a multiple of ``step``.

    ``tiled``: kernels cut it into tiles, so that one more than a multiple of 64 or 128 may cost a
    tile more.
    """

    low: int
    high: int
    step: int = 1
    tiled: bool = False

    def at(self, u: float) -> int:
        value = np.exp(np.log(self.low) + u * (np.log(self.high) - np.log(self.low)))
        return max(self.low, round(value / self.step) * self.step)

    def edge(self, u: float, offset: int) -> int:
        """The tile's edge next to ``at(u)``, ``offset`` beside it; a short length stays."""
        value = self.at(u)
        tile = 128 if value >= 512 else 64
        return min(round(value / tile) * tile + offset, self.high) if value >= 48 else value


@dataclass(frozen=True)
class OneOf:
    """One dimension that models have few values of."""

    values: tuple[int, ...]
    tiled = False

    def at(self, u: float) -> int:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Domain:
    """A kind of operator over its axes. ``share``: points for each one of a domain of share 1."""

    name: str
    share: float
    axes: dict[str, Any]
    build: Callable[..., Operator]
    cache: str

    def points(self, seed: int = 0) -> Iterator[Operator]:
        """Endless and always the same for one seed: a Halton sequence, whose prefixes all fill."""
        from scipy.stats import qmc

        sampler = qmc.Halton(len(self.axes) + 1, rng=seed)
        while True:
            for *row, side in sampler.random(64):
                yield self.build(**self._shape(row, side))

    def at_random(self, rng: np.random.Generator) -> Operator:
        """One shape, each dimension drawn by itself."""
        return self.build(**self._shape(list(rng.random(len(self.axes))), rng.random()))

    def _shape(self, row: list[float], side: float) -> dict[str, int]:
        """[axes] numbers in [0, 1) -> sizes; ``side`` says whether, and which, edge of a tile."""
        shape = {name: axis.at(u) for (name, axis), u in zip(self.axes.items(), row, strict=True)}
        if side < _EDGES:
            offset = _OFFSETS[int(side / _EDGES * len(_OFFSETS))]
            for (name, axis), u in zip(self.axes.items(), row, strict=True):
                if axis.tiled:
                    shape[name] = axis.edge(u, offset)
        return shape


_GRIDS = {"rows": Axis(64, 8192), "cols": Axis(256, 1536, 64)}
"""Feature maps of a vision tower, walked across their memory."""
_HEADS = OneOf((4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32))
_HEAD_DIM = OneOf((64, 128))


def domains(reach: int = 1) -> list[Domain]:
    """All of them. ``reach``: how many times longer than on a CPU lengths may be (4 on a card)."""
    return [
        *_products(reach),
        *_attentions(reach),
        *_convolutions(),
        *_rowwise(reach),
        *_pointwise(reach),
        *_others(),
    ]


def _products(reach: int) -> list[Domain]:
    hidden = Axis(256, 8192 * min(reach, 2), 64)
    length = Axis(1, 4096 * reach, tiled=True)
    prompt = {"m": Axis(32, 1024, tiled=True), "n": hidden, "k": Axis(512, 4096, 64)}
    vocabulary = {"m": Axis(1, 128), "n": Axis(32000, 152000, 64), "k": Axis(512, 2048 * reach, 64)}
    single = {"m": Axis(1, 512), "n": Axis(16, 1024), "k": hidden}
    batched = {
        "batch": Axis(4, 256),
        "m": Axis(14, 1024, tiled=True),
        "n": Axis(14, 256, tiled=True),
        "k": Axis(32, 128, 16),
    }
    experts = {
        "tokens": Axis(1, 512 * reach),
        "experts": OneOf((8, 16, 32, 48, 64, 96)),
        "top_k": OneOf((1, 2, 4, 6, 8)),
        "n": Axis(512, 2048, 64),
        "k": Axis(512, 2048, 64),
    }
    rows = {"m": length, "n": hidden, "k": hidden}
    gemv = {"m": Axis(1, 4), "n": hidden, "k": hidden}
    return [
        Domain("product", 6, rows, _biased, "cold"),
        Domain("product of a prompt", 6, prompt, ops.Matmul, "cold"),
        Domain("vector product", 4, gemv, ops.Matmul, "cold"),
        Domain("vocabulary", 1.5, vocabulary, ops.Matmul, "cold"),
        Domain("product in float32", 1.5, single, _float32, "cold"),
        Domain("batched product", 1.5, batched, _batched, "cold"),
        Domain("experts", 5, experts, _grouped, "cold"),
    ]


def _biased(m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, bias=m % 2 == 0)


def _float32(m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, dtype="float32")


def _batched(batch: int, m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, batch)


def _grouped(tokens: int, experts: int, top_k: int, n: int, k: int) -> Operator:
    touched = round(float(ops.distinct_experts(experts, top_k, tokens)))
    touched = min(max(touched, 1), experts, tokens * top_k)
    return ops.GroupedMatmul(tokens, experts, top_k, n, k, active_experts=float(touched))


def _attentions(reach: int) -> list[Domain]:
    causal = {
        "batch": Axis(1, 4),
        "length": Axis(16, 1024 * reach, tiled=True),
        "heads": _HEADS,
        "dim": _HEAD_DIM,
    }
    vision = {"batch": Axis(1, 16), "length": Axis(49, 768), "heads": Axis(6, 24)}
    biased = {"batch": Axis(1, 25), "length": Axis(49, 2048 * min(reach, 2)), "heads": Axis(6, 16)}
    decode = {
        "batch": Axis(1, 8 * reach),
        "context": Axis(32, 4096 * reach, tiled=True),
        "heads": _HEADS,
        "dim": _HEAD_DIM,
    }
    grouped = {**decode, "shared": OneOf((4, 8))}
    return [
        Domain("causal attention", 4, causal, _causal, "hot"),
        Domain("vision attention", 3, vision, _vision, "hot"),
        Domain("attention with bias", 5, biased, _with_bias, "hot"),
        Domain("decode attention", 4, decode, _decode, "hot"),
        Domain("grouped attention", 2, {**causal, "shared": OneOf((2, 4, 8))}, _causal, "hot"),
        Domain("grouped decode", 3, grouped, _decode, "hot"),
    ]


def _causal(batch: int, length: int, heads: int, dim: int, shared: int = 1) -> Operator:
    kv_heads = max(1, heads // shared)
    return ops.Attention(batch, length, length, kv_heads * shared, kv_heads, dim, causal=True)


def _vision(batch: int, length: int, heads: int) -> Operator:
    return ops.Attention(batch, length, length, heads, heads, 64)


def _with_bias(batch: int, length: int, heads: int) -> Operator:
    return ops.Attention(batch, length, length, heads, heads, 64, bias=True)


def _decode(batch: int, context: int, heads: int, dim: int, shared: int = 1) -> Operator:
    """``shared``: query heads that read one head of keys and values."""
    kv_heads = max(1, heads // shared)
    return ops.Attention(batch, 1, context, kv_heads * shared, kv_heads, dim)


def _convolutions() -> list[Domain]:
    patches = {
        "side": Axis(14, 64),
        "patch": OneOf((8, 14, 16, 32)),
        "out": Axis(256, 1280, 64),
        "biased": OneOf((0, 1)),
    }
    maps = {
        "side": Axis(8, 128),
        "inside": Axis(64, 1024, 64),
        "out": Axis(64, 1024, 64),
        "stride": OneOf((1, 2)),
    }
    sound = {
        "length": Axis(256, 4096),
        "inside": Axis(64, 1536, 64),
        "out": Axis(256, 1536, 64),
        "stride": OneOf((1, 2)),
    }
    return [
        Domain("patches", 4, patches, _patches, "cold"),
        Domain("convolution 3 x 3", 5, maps, _three_by_three, "cold"),
        Domain("convolution of sound", 1, sound, _sound, "cold"),
        Domain("convolution 1 x 1", 3, {**maps, "stride": OneOf((1,))}, _one_by_one, "cold"),
    ]


def _sound(length: int, inside: int, out: int, stride: int) -> Operator:
    made = (length - 1) // stride + 1
    return ops.Convolution(1, inside, out, length, made, taps=3, bias=True)


def _patches(side: int, patch: int, out: int, biased: int) -> Operator:
    return ops.Conv2d(1, 3, out, side * patch, side * patch, patch, patch, bias=bool(biased))


def _three_by_three(side: int, inside: int, out: int, stride: int) -> Operator:
    return ops.Conv2d(1, inside, out, side, side, 3, stride, 1)


def _one_by_one(side: int, inside: int, out: int, stride: int) -> Operator:
    return ops.Conv2d(1, inside, out, side, side, 1, stride, 0)


def _rowwise(reach: int) -> list[Domain]:
    """Norms, softmax and rows of a table."""
    rows, cols = Axis(1, 4096 * reach), Axis(256, 4096 * min(reach, 2), 64)
    scores = {"rows": Axis(64, 16384 * reach), "cols": Axis(64, 1024 * reach)}
    table = {"rows": Axis(1, 2048 * reach), "cols": Axis(1, 2048 * min(reach, 2))}
    feature_map = {"positions": Axis(49, 2**14), "channels": Axis(64, 2048, 64)}
    few = {"rows": Axis(64, 2**19 * reach), "cols": OneOf((2, 4, 6, 8))}
    row = {"rows": rows, "cols": Axis(64, 8192)}
    return [
        Domain("layernorm", 2, {"rows": rows, "cols": cols}, _layernorm, "hot"),
        Domain("norm across", 1, _GRIDS, _norm_across, "hot"),
        Domain("norm by channel", 1, feature_map, _batch_norm, "hot"),
        Domain("rmsnorm", 2, {"rows": Axis(1, 1024 * reach), "cols": cols}, ops.Norm, "hot"),
        Domain("softmax", 1, {"rows": Axis(1, 8192), "cols": Axis(16, 1024)}, _softmax, "hot"),
        Domain("scores' softmax", 0.5, scores, ops.Softmax, "hot"),
        Domain("rows", 1.5, table, ops.Gather, "hot"),
        Domain("rows in float32", 1, table, _gather_float32, "hot"),
        Domain("sum of few", 0.35, few, _sum("bfloat16"), "hot"),
        Domain("sum of few in float32", 0.35, few, _sum("float32"), "hot"),
        Domain("sum of a row", 0.35, row, _sum("bfloat16"), "hot"),
        Domain("sum of a row in float32", 0.35, row, _sum("float32"), "hot"),
    ]


def _layernorm(rows: int, cols: int) -> Operator:
    return ops.Norm(rows, cols, "layernorm")


def _batch_norm(positions: int, channels: int) -> Operator:
    return ops.ChannelNorm(positions * channels, channels)


def _norm_across(rows: int, cols: int) -> Operator:
    return ops.Norm(rows, cols, "layernorm", transposed=True)


def _softmax(rows: int, cols: int) -> Operator:
    return ops.Softmax(rows, cols, dtype="float32")


def _gather_float32(rows: int, cols: int) -> Operator:
    return ops.Gather(rows, cols, "float32")


def _sum(dtype: str) -> Callable[..., Operator]:
    return lambda rows, cols: ops.Reduction(rows, cols, dtype)


_CASTS = (
    ("bfloat16", "float32"),
    ("float32", "bfloat16"),
    ("int64", "float32"),
    ("float32", "int64"),
)
_ARITHMETIC = (
    (1, 1, "bfloat16", 1.5),
    (2, 1, "bfloat16", 2),
    (1, 4, "bfloat16", 1),
    (1, 5, "bfloat16", 1.5),
    (1, 1, "float32", 1),
    (2, 1, "float32", 0.7),
    (1, 1, "int64", 0.5),
)
"""(inputs, FLOPs an element, dtype, share)"""


def _pointwise(reach: int) -> list[Domain]:
    """Arithmetic, copies and casts, by the number of elements."""
    many = {"elements": Axis(64, 2**23 * reach)}
    outer = {"rows": Axis(64, 16384), "cols": Axis(14, 64)}
    found = [
        Domain("move", 2, many, ops.Copy, "hot"),
        Domain("move from memory", 0.5, {"elements": Axis(2**18, 2**24)}, ops.Copy, "cold"),
        Domain("outer sum", 1.5, outer, _outer_sum, "hot"),
        Domain("sum across", 1, _GRIDS, _sum_across, "hot"),
    ]
    for source, target in _CASTS:
        name, axes = f"{source} to {target}", {"elements": Axis(16, 2**22 * reach)}
        found.append(Domain(name, 0.7, axes, _cast(source, target), "hot"))
    for inputs, flops, dtype, share in _ARITHMETIC:
        axes = many if dtype == "bfloat16" else {"elements": Axis(16, 2**20 * reach)}
        name = f"pointwise {inputs} {flops} {dtype}"
        found.append(Domain(name, share, axes, _arithmetic(inputs, flops, dtype), "hot"))
    return found


def _sum_across(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols, inputs=2, transposed=True)


def _outer_sum(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols**2, 0, broadcast=2 * rows * cols)


def _cast(source: str, target: str) -> Callable[..., Operator]:
    return lambda elements: ops.Copy(elements, source, target)


def _arithmetic(inputs: int, flops: int, dtype: str) -> Callable[..., Operator]:
    return lambda elements: ops.Elementwise(elements, inputs, 1, flops, dtype)


_OTHERS = (
    ("topk", 256, 72, "float32"),
    ("sort", 8, 16, "int64"),
    ("histc", 4, 4, "float32"),
    ("cumsum", 4, 4, "float32"),
    ("index_put", 16, 8, "int64"),
    ("arange", 0, 8, "int64"),
    ("new_ones", 0, 1, "bool"),
    ("new_zeros", 0, 1, "bool"),
    ("empty_like", 0, 8, "int64"),
    ("upsample_linear1d", 128, 96, "bfloat16"),
)
"""(name, bytes read and bytes written for each unit of size, dtype)"""


def _others() -> list[Domain]:
    """Operators without a formula."""
    count = {"count": Axis(4, 1024)}
    resample = {"table": Axis(14, 64), "grid": Axis(7, 64)}
    small = [Domain(o[0], 0.35, count, _other(*o), "hot") for o in _OTHERS]
    pool = {"side": Axis(14, 256)}
    small.append(Domain("pooling", 0.35, pool, _pool, "hot"))
    return [*small, Domain("resample", 0.7, resample, _resample, "hot")]


def _other(name: str, read: int, written: int, dtype: str) -> Callable[..., Operator]:
    return lambda count: ops.Other(name, read * count, written * count, dtype=dtype)


def _pool(side: int) -> Operator:
    read, made = 64 * side**2, 64 * ((side - 1) // 2 + 1) ** 2
    return ops.Other("max_pool2d_with_indices", 2 * read, (2 + 8) * made, read)


def _resample(table: int, grid: int) -> Operator:
    learned, wanted = 768 * table**2, 768 * grid**2
    return ops.Other("upsample_bicubic2d", 4 * learned, 4 * wanted, 16 * wanted, dtype="float32")
