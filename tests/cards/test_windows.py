"""A window of attention: the fewer keys, the less time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.shipped import load_card
from calib.hardware.attention_backend import backend_of
from calib.hardware.datasheet import load_hardware
from model.ops import Attention, grid

CARDS = ("h100", "h200", "b200", "a100", "l40s", "rtx4090", "rtx5090")
PROMPT = Attention(
    batch=1, q_len=4096, kv_len=4096, heads=32, kv_heads=8, head_dim=128, causal=True
)
STEP = replace(PROMPT, batch=4, q_len=1, kv_len=16384)
WINDOWS = (64, 128, 256, 512, 1024, 2048, 4095)


def seconds(
    card: str, ops: list[Attention] | Attention, implementation: str = "torch"
) -> np.ndarray:
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    return shipped.estimates(ops, implementation).seconds


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("tokens", [4096, 8192])
def test_a_shorter_window_is_no_dearer(card: str, batch: int, tokens: int) -> None:
    prompt = replace(PROMPT, batch=batch, q_len=tokens, kv_len=tokens)
    told = seconds(card, [replace(prompt, window=w) for w in WINDOWS])
    assert (told[1:] > 0.95 * told[:-1]).all()
    assert told[0] < 0.5 * told[-1]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("op", [PROMPT, STEP, replace(PROMPT, batch=16, q_len=1024, kv_len=1024)])
@pytest.mark.parametrize("implementation", ["torch", "vllm"])
def test_one_that_cuts_no_key_away_is_none(card: str, op: Attention, implementation: str) -> None:
    wide = [replace(op, window=op.kv_len), replace(op, window=2 * op.kv_len), op]
    told = seconds(card, wide, implementation)
    assert told == pytest.approx(told[2], rel=1e-6)


@pytest.mark.parametrize("card", CARDS)
def test_of_one_query_it_is_a_shorter_cache(card: str) -> None:
    pair = [replace(STEP, window=1024), replace(STEP, kv_len=1024)]
    told = seconds(card, pair)
    assert told[0] == pytest.approx(told[1], rel=1e-6) and told[0] < seconds(card, STEP)[0]


def test_a_grid_is_told_as_its_operators_are() -> None:
    sizes = {"q_len": [1, 4096, 1, 2048], "kv_len": [512, 4096, 4096, 2048]}
    many = grid(
        Attention, batch=1, heads=32, kv_heads=8, head_dim=128, causal=True, window=1024, **sizes
    )
    pairs = zip(*sizes.values(), strict=True)
    each = [replace(PROMPT, q_len=q, kv_len=k, window=1024) for q, k in pairs]
    for card in ("h200", "a100"):
        assert seconds(card, many) == pytest.approx(seconds(card, each))


@pytest.mark.parametrize(
    ("op", "taken"),
    [
        (replace(PROMPT, window=512), "flash"),
        (replace(PROMPT, window=4096), "cudnn"),
        (replace(PROMPT, window=512, kv_len=8192), "flash"),
        (replace(PROMPT, window=512, dtype="float32"), "efficient"),
        (replace(PROMPT, window=512, mask=True), "cudnn"),
    ],
)
def test_kernels_with_a_window_are_flash_attentions_on_every_card(
    op: Attention, taken: str
) -> None:
    """``scaled_dot_product_attention`` has none, and cuDNN is asked by nothing else."""
    assert backend_of(op, "9.0") == taken
