"""What is asked by hand: on any card more work takes no less time, what is known lies within its
interval, and intervals are of a size that says something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from calib.cards.shipped import load_card
from calib.fit.calibration import ROOFLINE, Estimates, least_of
from calib.hardware.datasheet import load_hardware
from model.ops import (
    Attention,
    AttentionBackward,
    Conv2d,
    Copy,
    Elementwise,
    GroupedMatmul,
    Matmul,
    MoeMlp,
    Norm,
    Operator,
    Softmax,
)

CARDS = ("h100", "h200", "b200", "a100", "l40s", "rtx4090", "rtx5090", "a10g", "l4", "h20")
SIZES, LENGTHS, ROWS = (128, 1024, 4096), (128, 512, 2048, 8192), (1, 16, 256, 4096)
HEADS = ((8, 8), (32, 8), (32, 32))
KNOWN_WIDE = ("attention_backward",)
"""On a B200: by few published rows of cuDNN, whose fit knows no better."""


def products() -> Iterator[Operator]:
    """From eight rows on: of fewer a library may split none, and then takes thrice as long
    (``reluctance`` of docs/calibration.md)."""
    for dtype in ("bfloat16", "float16", "float32"):
        yield from (Matmul(m, n, k, dtype=dtype) for m, n, k in product((8, *SIZES), SIZES, SIZES))


def attentions() -> Iterator[Operator]:
    for batch, length, (heads, kv_heads) in product((1, 8), LENGTHS, HEADS):
        prompt = Attention(batch, length, length, heads, kv_heads, 128, causal=True)
        yield from (prompt, replace(prompt, causal=False), replace(prompt, q_len=1))


def gradients() -> Iterator[Operator]:
    for batch, length, (heads, kv_heads) in product((1, 8), LENGTHS, HEADS):
        yield AttentionBackward(batch, length, length, heads, kv_heads, 128, causal=True)


def experts() -> Iterator[Operator]:
    for tokens, hidden in product((1, 16, 256, 4096), (2048, 4096)):
        yield GroupedMatmul(tokens, 64, 6, 768, hidden)
        yield MoeMlp(tokens, 64, 6, hidden, 768)


def convolutions() -> Iterator[Operator]:
    for batch, channels, side, kernel in product((1, 16), (64, 256), (14, 56), (1, 3)):
        yield Conv2d(batch, channels, channels, side, side, kernel, padding=kernel // 2)


def streams() -> Iterator[Operator]:
    for count, inputs in product((1000, 10**5, 10**7), (1, 2)):
        yield Elementwise(count, inputs)
        yield Copy(count)
    yield from (Norm(rows, 1024, "layernorm") for rows in ROWS)
    yield from (Softmax(rows, 512) for rows in ROWS)


FAMILIES = {
    products: ("m", "n", "k"),
    attentions: ("batch", "kv_len"),
    gradients: ("batch",),
    experts: ("tokens",),
    convolutions: ("batch", "out_channels"),
    streams: ("elements", "rows"),
}
"""And which dimensions are doubled, where there are such."""


def told(card: str, ops: list[Operator], hot: bool) -> Estimates:
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    return shipped.estimates(ops, "torch", hot)


def more(op: Operator, dimension: str) -> Operator | None:
    size = vars(op).get(dimension)
    is_square = dimension == "kv_len" and vars(op).get("q_len") == size
    return None if size is None or is_square else replace(op, **{dimension: 2 * size})


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_work_takes_no_less(card: str, family: object) -> None:
    """But for where a library chooses another kernel: of few pairs, and not by much."""
    some = list(family())  # type: ignore[operator]
    pairs = [(op, more(op, name)) for op in some for name in FAMILIES[family]]  # type: ignore[index]
    asked = [(op, big) for op, big in pairs if big is not None]
    alone, twice = (told(card, list(ops), False).seconds for ops in zip(*asked, strict=True))
    ratio = twice / alone
    assert np.mean(ratio < 0.9) < 0.06, asked[int(np.argmin(ratio))]
    assert ratio.min() > 0.5, asked[int(np.argmin(ratio))]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("hot", [False, True])
def test_what_is_known_is_within_its_interval_and_above_what_bytes_take(
    card: str, hot: bool
) -> None:
    ops = [op for family in FAMILIES for op in family()]
    found, hardware = told(card, ops, hot), load_hardware(card)
    assert np.isfinite(found.seconds).all()
    assert (found.seconds >= 0.999 * least_of(ops, hardware)).all()
    known = found.known_as != ROOFLINE
    assert known.mean() > 0.9
    low, seconds, high = (end[known] for end in (found.low, found.seconds, found.high))
    assert ((low <= seconds * 1.001) & (seconds <= high * 1.001)).all()
    narrow = np.array([op.operator not in KNOWN_WIDE for op in ops])[known]
    assert (high / low)[narrow].max() < 20
