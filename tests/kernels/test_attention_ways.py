"""Attention and its gradient by descriptor: the same result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw
from test_attention_kernel import MASKS, check_gradients, operands

from kernels.attention import attention_forward, attention_launch, attention_reference
from kernels.configs import pick_heads, ways
from kernels.configs.candidates import Tile
from kernels.launch import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("poisoned")

SM_90 = ARCHITECTURES["sm_90"]
full = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("q_len, kv_len", [(21, 75), (41, 40), (1, 40)])
def test_forward(dtype: torch.dtype, mask: str, q_len: int, kv_len: int, device: str) -> None:
    """Output and logarithms; a block of queries that is cut, and one query."""
    qkv, options = operands(q_len, kv_len, 24, MASKS[mask], dtype, device)
    got, lse = attention_forward(*qkv, **options, tile=Tile(16, 16, stages=2, way=ways.DESCRIBED))
    assert_near(got, attention_reference(*qkv, **options))
    _, want = attention_forward(*qkv, **options, tile=Tile(16, 16))
    torch.testing.assert_close(lse, want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_a_bias_comes_by_descriptor(causal: bool, device: str) -> None:
    """Of its own for every image and head, rows on 16 bytes, -inf over a whole first tile."""
    (q, k, v), _ = operands(37, 40, 16, {}, torch.float16, device)
    bias = draw(2, 2, 37, 40, dtype=torch.float16, device=device)
    bias[..., :16] = float("-inf")
    options: dict[str, Any] = {"causal": causal, "bias": bias}
    tile = Tile(16, 16, stages=2, way=ways.DESCRIBED)
    got, _ = attention_forward(q, k, v, **options, tile=tile)
    assert_near(got, attention_reference(q, k, v, **options))


def test_heads_of_a_fused_projection(device: str) -> None:
    qkv = draw(1, 45, 3, 2, 40, dtype=torch.float16, device=device)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
    got, _ = attention_forward(q, k, v, tile=Tile(16, 16, way=ways.DESCRIBED))
    assert_near(got, attention_reference(q, k, v))


BACKWARD = pytest.mark.parametrize("way", [ways.HEADS, ways.ATOMIC])


@BACKWARD
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["full", "causal", "window within a tile", "window over tiles"])
def test_gradients(way: str, dtype: torch.dtype, mask: str, device: str) -> None:
    tile = Tile(16, 16, stages=2, way=way)
    check_gradients(21, 75, 24, MASKS[mask], dtype, device, tile)


@BACKWARD
@pytest.mark.parametrize("q_len, kv_len", [(40, 21), (48, 48), (33, 64)])
def test_causal_gradients(way: str, q_len: int, kv_len: int, device: str) -> None:
    """Queries before every key, tiles that divide the lengths, and blocks of two sizes."""
    tile = Tile(16, 32, stages=2, way=way)
    check_gradients(q_len, kv_len, 16, MASKS["causal"], torch.float32, device, tile)


def test_a_bias_goes_the_plain_way(device: str) -> None:
    tile = Tile(16, 16, way=ways.ATOMIC)
    check_gradients(21, 75, 24, MASKS["bias"], torch.float32, device, tile)


def test_rows_that_no_descriptor_takes_go_the_plain_way() -> None:
    q, odd = (torch.empty(1, 2, 64, d, dtype=torch.float16, device="meta") for d in (64, 60))
    lse = torch.empty(1, 2, 64, device="meta")
    for x, name in ((q, "described_kernel"), (odd, "attention_kernel")):
        tile = Tile(64, 64, way=ways.DESCRIBED)
        launch = attention_launch(x, x, x, None, x, lse, False, None, 1.0, SM_90, tile)
        assert launch.name == name


@pytest.mark.parametrize("head_dim", [64, 72, 128, 256])
@pytest.mark.parametrize("masked", [False, True])
def test_ways_are_for_cards_with_bulk_copies(head_dim: int, masked: bool) -> None:
    assert not ways.attention_ways(head_dim, 2, ARCHITECTURES["sm_120"], masked)
    for card in ("sm_90", "sm_100"):
        found = ways.attention_ways(head_dim, 2, ARCHITECTURES[card], masked)
        assert found or head_dim == 256
        assert not masked or all(t.n <= ways.MASKED_KEYS for t in found)
    picked = [
        pick_heads.pick_attention(2048, 2048, head_dim, 32, 2, ARCHITECTURES[card], masked)
        for card in ("sm_90", "sm_100")
    ]
    assert picked[0].way == ("" if masked and head_dim == 256 else ways.DESCRIBED)
    assert not picked[1].way


@full
@pytest.mark.parametrize("mask", ["full", "causal", "bias"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_full_size(mask: str, head_dim: int, device: str) -> None:
    """Every tile that this card would be timed with."""
    from kernels.launch import architecture_of

    qkv, options = operands(1000, 1000, head_dim, MASKS[mask], torch.bfloat16, device)
    if options["bias"] is not None:
        options["bias"] = options["bias"].expand(2, -1, -1, -1).contiguous()
    want = attention_reference(*qkv, **options)
    card = architecture_of(qkv[0].device)
    for tile in ways.attention_ways(head_dim, 2, card, options["bias"] is not None):
        assert_near(attention_forward(*qkv, **options, tile=tile)[0], want)


@full
@BACKWARD
@pytest.mark.parametrize("head_dim", [64, 128])
def test_gradients_at_full_size(way: str, head_dim: int, device: str) -> None:
    from kernels.launch import architecture_of

    card = architecture_of(torch.empty(1, device=device).device)
    for tile in ways.backward_ways(head_dim, 2, card):
        if tile.way == way:
            mask = MASKS["causal"]
            check_gradients(500, 500, head_dim, mask, torch.bfloat16, device, tile)
