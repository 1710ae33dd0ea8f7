"""Every kernel with every tile that fits a card, as launches on tensors without memory.

Shapes are those of DeepSeek-OCR (hidden 1280, heads of 128 and of SAM's 64, 64 experts, SAM's
convolutions), in bfloat16. The tensors live on torch's ``meta`` device: they have a dtype, a shape
and strides, which is all that a compilation looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels import (
    attention,
    attention_backward,
    attention_columns,
    attention_decode,
    conv,
    depthwise,
    norm,
    stream,
)
from kernels.configs import ways
from kernels.configs.footprint import (
    attention_tiles,
    backward_tiles,
    decode_blocks,
    decode_tiles,
    linear_tiles,
)
from kernels.configs.pick import pick_vector
from kernels.launch import Architecture, Launch
from kernels.mlp import experts, few_rows, gated, product

ITEM = 2
"""Bytes of a bfloat16."""


@dataclass(frozen=True)
class Specimen:
    """One launch to compile, and what tells it from the others of its kernel."""

    variant: str
    launch: Launch


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def specimens(architecture: Architecture) -> Iterator[Specimen]:
    """All of them for one card."""
    for part in (
        linears,
        linear_ways,
        swiglus,
        groups,
        vectors,
        attentions,
        backwards,
        decodes,
        convs,
        rows,
    ):
        yield from part(architecture)
    yield from streams(architecture)


def linears(architecture: Architecture) -> Iterator[Specimen]:
    """By descriptor where the card has them, and by pointers: rows that 16 bytes do not divide."""
    for k, how in ((1280, "aligned"), (1283, "any stride")):
        x, w, b, o = empty(512, k), empty(6848, k), empty(6848), empty(512, 6848)
        for tile in linear_tiles("linear", ITEM, architecture, by_element=k % 8 > 0):
            (launch,) = product.linear_launches(x, w, b, o, "gelu", architecture, tile)
            yield Specimen(f"{tile}, {how}", launch)
    tile = replace(linear_tiles("linear", ITEM, architecture)[-1], splits=4)
    x, w, b, o = empty(16, 6848), empty(1280, 6848), empty(1280), empty(16, 1280)
    split, finish = product.linear_launches(x, w, b, o, "gelu", architecture, tile)
    yield Specimen(f"{tile}, aligned", split)
    yield Specimen("4 parts, gelu", finish)


def linear_ways(architecture: Architecture) -> Iterator[Specimen]:
    """The ways beside the plain one; ends as the layer they are timed for does, in a bias."""
    for m in (2048, 256, 16):
        x, w, b, o = empty(m, 6848), empty(1280, 6848), empty(1280), empty(m, 1280)
        for tile in ways.linear_ways(m, ITEM, architecture):
            chosen = replace(tile, splits=2) if tile.way == ways.JOINED else tile
            (launch,) = product.linear_launches(x, w, b, o, None, architecture, chosen)
            yield Specimen(f"{tile}, m={m}", launch)


def swiglus(architecture: Architecture) -> Iterator[Specimen]:
    x, gate, o = empty(512, 1280), empty(6848, 1280), empty(512, 6848)
    for tile in linear_tiles("swiglu", ITEM, architecture):
        yield Specimen(str(tile), gated.swiglu_launch(x, gate, gate, o, architecture, tile))


def groups(architecture: Architecture) -> Iterator[Specimen]:
    x, w, o = empty(2958, 1280), empty(64, 1792, 1280), empty(2958, 1792)
    ends = empty(64, dtype=torch.int32)
    for tile in linear_tiles("grouped", ITEM, architecture):
        yield Specimen(str(tile), experts.grouped_launch(x, w, ends, o, architecture, tile))


def vectors(architecture: Architecture) -> Iterator[Specimen]:
    for m in (1, few_rows.VECTOR_ROWS):
        for up in (None, empty(6848, 1280)):
            tile = pick_vector(m, 6848, ITEM, up is not None, architecture)
            launch = few_rows.vector_launch(
                empty(m, 1280), empty(6848, 1280), up, None, empty(m, 6848), None, architecture
            )
            yield Specimen(f"{tile}, {'one weight' if up is None else 'gate and up'}", launch)


def attentions(architecture: Architecture) -> Iterator[Specimen]:
    """The decoder's (causal), LLaMA's with a window, SAM's (a bias)."""
    cases = ((128, True, None, False), (128, True, 256, False), (64, False, None, True))
    for head_dim, causal, window, with_bias in cases:
        q, lse = empty(1, 8, 512, head_dim), empty(1, 8, 512, dtype=torch.float32)
        bias = empty(1, 8, 512, 512) if with_bias else None
        what = f"d={head_dim}" + ", causal" * causal + ", window" * bool(window)
        masked = bool(window) or with_bias
        tiles = attention_tiles(head_dim, ITEM, architecture, masked)
        for tile in tiles + ways.attention_ways(head_dim, ITEM, architecture, masked):
            launch = attention.attention_launch(
                q, q, q, bias, q, lse, causal, window, 1.0, architecture, tile
            )
            yield Specimen(f"{tile}, {what}{', bias' * with_bias}", launch)


def backwards(architecture: Architecture) -> Iterator[Specimen]:
    for head_dim, causal, with_bias in ((128, True, False), (64, False, True)):
        q, lse = empty(1, 8, 512, head_dim), empty(1, 8, 512, dtype=torch.float32)
        bias = empty(1, 8, 512, 512) if with_bias else None
        tile = backward_tiles(head_dim, ITEM, architecture)[0]
        for launch in attention_backward.backward_launches(
            q, q, q, bias, q, q, lse, (q, q, q, bias), causal, None, 1.0, architecture, tile
        ):
            what = f"d={head_dim}" + ", causal" * causal + ", bias" * with_bias
            yield Specimen(f"{tile}, {what}", launch)
        yield from backward_ways(head_dim, architecture)


def backward_ways(head_dim: int, architecture: Architecture) -> Iterator[Specimen]:
    """By columns, causal, four query heads on a key head; what sums groups once."""
    q, k = empty(1, 8, 512, head_dim), empty(1, 2, 512, head_dim)
    lse, summed = empty(1, 8, 512, dtype=torch.float32), False
    for tile in ways.backward_ways(head_dim, ITEM, architecture):
        for launch in attention_columns.columns_launches(
            q, k, k, q, lse, lse, (q, k, k), True, None, 1.0, architecture, tile
        ):
            is_sum = launch.name == "group_sum_kernel"
            if not (is_sum and summed):
                yield Specimen(f"{tile}, d={head_dim}, causal", launch)
            summed = summed or is_sum


def decodes(architecture: Architecture) -> Iterator[Specimen]:
    q, k = empty(1, 10, 1, 128), empty(1, 10, 4096, 128)
    for tile in decode_tiles(128, ITEM, architecture):
        split, combine = attention_decode.decode_launches(
            q, k, k, q, None, 1.0, architecture, tile, splits=16
        )
        yield Specimen(f"{tile}, d=128", split)
    yield Specimen("16 splits, d=128", combine)
    for tile in decode_blocks(ways.DECODE, 128, ITEM, architecture, 1):
        joined = replace(tile, splits=16, way=ways.JOINED)
        (launch,) = attention_decode.decode_launches(q, k, k, q, None, 1.0, architecture, joined)
        yield Specimen(f"{joined}, d=128", launch)


def convs(architecture: Architecture) -> Iterator[Specimen]:
    """SAM's neck (channels-last, 3x3), its patches, and a depthwise 3x3 in both layouts."""
    last = torch.channels_last
    x, w = (t.to(memory_format=last) for t in (empty(1, 256, 64, 64), empty(256, 256, 3, 3)))
    image, patch, tokens = empty(1, 3, 1024, 1024), empty(768, 3, 16, 16), empty(1, 64, 64, 768)
    for tile in linear_tiles("conv2d", ITEM, architecture):
        (launch,) = conv.conv2d_launches(x, w, None, x, 1, 1, 1, architecture, tile)
        yield Specimen(f"{tile}, 3x3 channels-last", launch)
    halved = empty(1, 256, 32, 32).to(memory_format=last)
    for tile in ways.conv_ways(ITEM, architecture):
        for o, stride in ((x, 1), (halved, 2)):
            (launch,) = conv.conv2d_launches(x, w, None, o, stride, 1, 1, architecture, tile)
            yield Specimen(f"{tile}, 3x3 by {stride}", launch)
    tile = linear_tiles("conv2d", ITEM, architecture)[0]
    out = tokens.permute(0, 3, 1, 2)
    (launch,) = conv.conv2d_launches(image, patch, None, out, 16, 0, 1, architecture, tile)
    yield Specimen(f"{tile}, patches of 16", launch)
    tile = replace(tile, splits=4)
    split, _ = conv.conv2d_launches(x, w, None, x, 1, 1, 1, architecture, tile)
    yield Specimen(f"{tile}, 3x3 channels-last", split)
    for layout, what in ((last, "channels-last"), (torch.contiguous_format, "channels-first")):
        x, w = (t.to(memory_format=layout) for t in (empty(1, 256, 64, 64), empty(256, 1, 3, 3)))
        launch = depthwise.depthwise_launch(x, w, None, x, 1, 1, architecture)
        yield Specimen(f"3x3 {what}", launch)
    x, w = (t.to(memory_format=last) for t in (empty(8, 96, 56, 56), empty(96, 1, 7, 7)))
    for tile in ways.DEPTHWISE:
        launch = depthwise.depthwise_launch(x, w, None, x, 1, 3, architecture, tile)
        yield Specimen(f"7x7 channels-last, {tile}", launch)


def rows(architecture: Architecture) -> Iterator[Specimen]:
    x, w = empty(4096, 1280), empty(1280)
    scores = empty(493, 129280)
    kernels: tuple[tuple[Any, dict[str, Any]], ...] = (
        (norm.rms_norm_kernel, {"p_w": w, "eps": 1e-6}),
        (norm.layer_norm_kernel, {"p_w": w, "p_bias": w, "eps": 1e-6}),
        (norm.softmax_kernel, {}),
    )
    for kernel, parameters in kernels:
        (launch,) = norm.rows_launches(kernel, x, x, architecture, **parameters)
        yield Specimen("1280 columns", launch)
    long = (None, *ways.row_ways(scores.shape[1], can_share=True))
    for tile in long:
        for launch in norm.rows_launches(norm.softmax_kernel, scores, scores, architecture, tile):
            yield Specimen("129280 columns" + f", {tile}" * bool(tile), launch)


def streams(architecture: Architecture) -> Iterator[Specimen]:
    a = empty(1 << 24)
    for kernel, inputs in (
        (stream.copy_kernel, {"p_a": a}),
        (stream.scale_kernel, {"p_a": a, "s": 0.5}),
        (stream.add_kernel, {"p_a": a, "p_b": a}),
        (stream.triad_kernel, {"p_a": a, "p_b": a, "s": 0.5}),
    ):
        yield Specimen("flat", stream.stream_launch(kernel, a, architecture, **inputs))
    yield Specimen("", stream.empty_launch())
