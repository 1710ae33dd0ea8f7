"""How FlashAttention 2 cuts dense work, and who follows that rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.fitting import fit
from calib.fit.physics.blocks.attention.columns import followed
from calib.fit.physics.blocks.attention.flash import FLASH, RULE, cut, padded, parts
from calib.fit.physics.features import features, features_of_list
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, grid

A100, L40S, PRO = (load_hardware(name) for name in ("a100_pcie_80gb", "l40s", "rtx_pro_6000"))
PROMPT = Attention(batch=2, q_len=4096, kv_len=4096, heads=64, kv_heads=8, head_dim=128)
CAUSAL = replace(PROMPT, causal=True)
CACHE = Attention(batch=1, q_len=985, kv_len=62208, heads=9, kv_heads=9, head_dim=128)


@pytest.mark.parametrize(
    ("op", "card", "tile"),
    [
        (PROMPT, "a100", (128, 64, 1)),
        (CAUSAL, "a100", (128, 64, 1)),
        (PROMPT, "l40s", (128, 32, 1)),
        (CAUSAL, "l40s", (64, 64, 1)),
        (CAUSAL, "rtx_pro_6000", (128, 64, 1)),
        (replace(PROMPT, head_dim=64), "l40s", (128, 128, 1)),
        (replace(PROMPT, head_dim=256), "a100", (128, 64, 1)),
        (replace(PROMPT, head_dim=256), "l40s", (64, 64, 1)),
        (CACHE, "a100", (64, 128, 3)),
        (replace(CACHE, q_len=2048), "a100", (128, 64, 1)),
    ],
)
def test_tiles_are_those_that_are_compiled(
    op: Attention, card: str, tile: tuple[int, int, int]
) -> None:
    assert tuple(int(v) for v in cut(op, load_hardware(card))) == tile


def test_heads_are_padded_to_the_next_kernel() -> None:
    sizes = [33, 64, 72, 80, 128, 130, 256]
    assert [float(padded(replace(PROMPT, head_dim=n))) for n in sizes] == [
        *(64, 64, 96, 96, 128, 192, 256)
    ]


def test_a_multiprocessor_works_off_whole_tiles() -> None:
    """9 heads of 16, 32 and 64 tiles on 108 multiprocessors, as an A100 was timed: 3.882, 6.084
    and 11.932 ms."""
    asked = [replace(CACHE, q_len=n) for n in (2048, 4096, 8192)]
    work = features_of_list(asked, A100, True).columns[f"serial work {RULE}"]
    assert work / work[0] == pytest.approx([1, 3 / 2, 3])
    assert np.array([3.882, 6.084, 11.932]) / 3.882 == pytest.approx(work / work[0], rel=0.05)


def test_a_grid_is_cut_as_its_operators_are() -> None:
    asked = [replace(CACHE, q_len=n, kv_len=k) for n in (7, 985, 4096) for k in (100, 62208)]
    shapes = {n: [getattr(op, n) for op in asked] for n in ("q_len", "kv_len")}
    many = grid(Attention, batch=1, heads=9, kv_heads=9, head_dim=128, **shapes)
    alone = [float(parts(op, A100)) for op in asked]
    assert parts(many, A100).tolist() == alone and max(alone) > 1


def test_only_its_own_samples_follow_the_rule() -> None:
    x = features(CAUSAL, A100, True).columns
    assert not any(name.endswith(RULE) for name in followed(x, "vllm-0.24.0/flash_attn_2"))
    assert not any(name.endswith(RULE) for name in followed(x, "torch"))
    ends = {name.rpartition(" ")[2] for name in followed(x, FLASH) if name.startswith("serial")}
    assert ends == {RULE}


def test_a_board_without_watts_is_not_held_by_them() -> None:
    bound = [
        float(features(PROMPT, card, True).columns[f"bound power {RULE}"][0])
        for card in (A100, replace(A100, power_w=600.0), replace(A100, power_w=None))
    ]
    assert bound[0] - bound[1] == pytest.approx(np.log(2)) and bound[2] < -40


def test_all_cards_tell_of_a_kernel_that_power_holds() -> None:
    """A twin of few samples beside a stranger of many: its own shapes are not all that counts."""
    shapes = [replace(PROMPT, q_len=n, kv_len=n, batch=b) for n in (64, 512, 4096) for b in (1, 4)]
    timed = [
        Sample(op, [1e-5 + 4e-11 * op.flops / 1e4], card, FLASH, cache="hot", group=str(op.q_len))
        for card, some in (("a100_pcie_80gb", shapes[-4:]), ("l40s", shapes))
        for op in some
    ]
    (row,) = fit(timed, load_hardware("a100")).held_out.to_dict("records")
    assert row["samples"] == len(shapes) + 4
