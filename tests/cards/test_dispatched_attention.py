"""What samples of one kernel of attention tell, is told where torch runs that kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.build.published import published_attention
from calib.cards.build.tables import dense_attention
from calib.cards.shipped import load_card
from calib.fit.physics.blocks.attention.flash import FLASH
from calib.hardware.attention_backend import as_split, backends_of
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, AttentionBackward, Matmul, grid

PROMPT = Attention(
    batch=4, q_len=1024, kv_len=1024, heads=32, kv_heads=8, head_dim=128, causal=True
)
SHAPES = [
    PROMPT,
    replace(PROMPT, causal=False),
    replace(PROMPT, q_len=1),
    replace(PROMPT, mask=True),
]


@pytest.mark.parametrize("name", ["a100", "l40s", "rtx4090", "rtx_pro_6000", "rtx3090"])
def test_cudnns_correction_is_not_carried_to_flash_attention(name: str) -> None:
    hardware = load_hardware(name)
    told, alone = load_card(hardware), load_card(hardware, taught=False)
    assert told is not None and alone is not None
    asked = [Matmul(64, 4096, 4096), *SHAPES]
    pair = [card.estimate(asked, "torch")["estimate_s"].to_numpy() for card in (told, alone)]
    assert pair[0][1:].tolist() == pair[1][1:].tolist()
    assert pair[0][0] != pair[1][0]  # of products it is carried


def test_where_torch_asks_cudnn_it_is() -> None:
    for name in ("h100", "b200"):
        hardware = load_hardware(name)
        told, alone = load_card(hardware), load_card(hardware, taught=False)
        assert told is not None and alone is not None
        asked = [PROMPT, replace(PROMPT, dtype="float32")]  # the second is another kernel's
        pair = [card.estimate(asked, "torch")["estimate_s"].to_numpy() for card in (told, alone)]
        assert (pair[0] != pair[1]).tolist() == [True, False]


@pytest.mark.parametrize(
    "op",
    [
        replace(PROMPT, dtype="float32"),
        replace(PROMPT, head_dim=256),
        replace(PROMPT, window=256),
        Attention(1, 128, 128, 64, 64, 64, dtype="float32"),
    ],
)
def test_what_cudnn_does_not_take_its_rows_do_not_tell(op: Attention) -> None:
    """A B200 has some of it, which of other shapes knew as little as a factor of thousands."""
    card = load_card(load_hardware("b200"))
    assert card is not None
    found = card.estimates([op, PROMPT])
    assert found.high[0] / found.low[0] < 20
    several = grid(Attention, **{n: v for n, v in vars(op).items() if n != "operator"})
    assert card.estimates(several).seconds == pytest.approx(found.seconds[:1])


def test_a_grid_is_told_as_its_operators_are() -> None:
    card = load_card(load_hardware("b200"))
    assert card is not None
    sizes = [64, 128, 256]  # cuDNN's, cuDNN's, FlashAttention's on this card
    asked = [replace(PROMPT, head_dim=n) for n in sizes]
    fixed = {"batch": 4, "q_len": 1024, "kv_len": 1024, "heads": 32, "kv_heads": 8}
    many = grid(Attention, head_dim=sizes, causal=True, **fixed)
    assert backends_of(many, "10.0").tolist() == ["cudnn", "cudnn", "flash"]
    pair = [card.estimate(ops, "torch")["estimate_s"].to_numpy() for ops in (asked, many)]
    assert pair[0] == pytest.approx(pair[1])


def test_of_an_engines_dense_attention_that_is_taken_which_torch_would_cut_alike() -> None:
    many = replace(PROMPT, causal=False, kv_heads=32)
    few = replace(many, batch=1, heads=2, kv_heads=2, q_len=128)
    timed = [
        Sample(op, [1e-3], "l40s", name, cache="hot")
        for op in (many, few)
        for name in ("vllm-0.24.0/flash_attn_2", "vllm-0.24.0/flash_attn_3")
    ]
    (kept,) = dense_attention("l40s", timed)
    assert kept.op == many and kept.implementation == FLASH
    assert dense_attention("h200", timed) == []


def test_learned_and_judged_attention_share_no_heads() -> None:
    """Of a card's published rows, by whole groups of heads."""
    for card in ("a100_pcie_80gb", "b200", "rtx4090"):
        learned, judged = (
            {s.group for s in published_attention(card, judged=flag)} for flag in (False, True)
        )
        assert not learned & judged and judged
    assert published_attention("a100_pcie_80gb", "cudnn") == []
    assert {s.implementation for s in published_attention("a100_pcie_80gb", FLASH)} == {FLASH}


def test_a_gradient_computes_scores_again_whether_or_not_it_counts_them() -> None:
    card = load_card(load_hardware("a100"), taught=False)
    assert card is not None
    gradient = AttentionBackward(**vars(replace(PROMPT, q_len=4096, kv_len=4096)))
    asked = [replace(PROMPT, q_len=4096, kv_len=4096), gradient, replace(gradient, recompute=True)]
    seconds = card.estimate(asked, "torch")["estimate_s"].to_numpy()
    assert seconds[1] == pytest.approx(seconds[2], rel=0.02)
    assert seconds[1] / seconds[0] == pytest.approx(3.0, rel=0.05)  # 1.2 times five products of two


def test_the_dense_kernel_tells_of_many_queries_and_the_tables_of_one() -> None:
    card = load_card(load_hardware("a100"), taught=False)
    assert card is not None
    torch, engine = (card.estimate(SHAPES[:3], name)["estimate_s"] for name in ("torch", "vllm"))
    ratio = np.asarray(engine / torch)
    assert ratio[0] > 1.05 and ratio[2] == 1


@pytest.mark.parametrize("name", ["a10", "a10g", "a40", "rtx3090", "rtx4090", "rtx5090", "l40s"])
def test_dense_attention_is_no_faster_than_the_clock_allows(name: str) -> None:
    """An A10G, whose matrix rate is half of its twin's, was told 1.28 times its peak."""
    hardware, long = load_hardware(name), replace(PROMPT, q_len=8192, kv_len=8192, causal=False)
    card = load_card(hardware)
    assert card is not None
    asked = [long, replace(long, causal=True), replace(long, head_dim=64)]
    least = [float(op.min_flops) / hardware.peak_flops["bfloat16"] for op in asked]
    seconds = card.estimates(asked, "torch", False).seconds
    assert (seconds >= np.array(least) / card.figures.clock_ratio * 0.999).all()


TABLES_OF_FLASH_2 = ["a100", "l40s", "rtx_pro_6000", "rtx5090", "rtx4090", "a10", "rtx3090"]


@pytest.mark.parametrize("name", TABLES_OF_FLASH_2)
def test_keys_of_heads_that_share_none_are_split_for_torch(name: str) -> None:
    """FlashAttention splits the keys of one query of an engine only where heads share them."""
    card = load_card(load_hardware(name))
    assert card is not None
    one = Attention(batch=1, q_len=1, kv_len=8192, heads=8, kv_heads=8, head_dim=128)
    shared = replace(one, heads=64)  # as many keys, eight heads to each
    alone, beside = (card.estimate([op], "torch", [True])["estimate_s"][0] for op in (one, shared))
    assert alone == pytest.approx(beside, rel=0.15)
    assert card.estimate([one], "vllm", [True])["estimate_s"][0] > 2 * beside
    lengths = [256, 8192]
    many = grid(Attention, kv_len=lengths, batch=1, q_len=1, heads=8, kv_heads=8, head_dim=128)
    told = card.estimate(many, "torch", [True] * 2)["estimate_s"]
    asked = [replace(one, kv_len=n) for n in lengths]
    assert told.tolist() == card.estimate(asked, "torch", [True] * 2)["estimate_s"].tolist()


def test_what_another_kernel_does_is_left_as_it_is() -> None:
    one = Attention(batch=1, q_len=1, kv_len=8192, heads=8, kv_heads=8, head_dim=128)
    masked, many = replace(one, mask=True), replace(one, q_len=8192, causal=True)
    for op in (masked, many, replace(one, heads=16), replace(one, dtype="float32")):
        assert as_split(op, "8.9") == op
    assert as_split(one, "9.0") == one  # cuDNN is asked first
    assert as_split(one, "12.0") == replace(one, heads=16)
