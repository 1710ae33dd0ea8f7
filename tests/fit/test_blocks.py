"""How kernels cut attention and expert layers, and the physics that a fit finds in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.fitting import fit
from calib.fit.likeness import card_to_card
from calib.fit.physics.blocks.attention.columns import attention_columns, packed, plain
from calib.fit.physics.blocks.expert_blocks import blocks_held, expert_columns
from calib.fit.physics.blocks.expert_tiles import tiles_by_rule
from calib.fit.physics.features import features
from calib.fit.physics.prior import Prior, columns_of, fit_prior
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, MoeMlp, expert_load, grid
from model.ops.routing import distinct_experts, experts_touched

H200, A100, L40S = (load_hardware(name) for name in ("h200", "a100", "l40s"))


def decode(batch: int = 1, heads: int = 8, kv_heads: int = 1, keys: int = 65536) -> Attention:
    return Attention(batch, 1, keys, heads, kv_heads, 128, causal=True)


def test_plain_blocks_split_keys_only_where_heads_share_them_and_no_window_cuts() -> None:
    shares, alone = decode(), decode(heads=8, kv_heads=8)
    windowed = replace(shares, window=1024)
    assert plain(shares, L40S).splits > 1
    assert plain(alone, L40S).splits == 1
    assert plain(windowed, L40S).splits == 1
    assert plain(alone, L40S).longest == 65536
    assert packed(alone, L40S).splits > 1


def test_splits_fill_the_multiprocessors_and_no_more() -> None:
    by = packed(decode(), H200)
    assert H200.sm_count <= by.blocks <= 2 * H200.sm_count
    assert packed(decode(batch=1024), H200).splits == 1
    assert packed(decode(keys=64), H200).splits == 1


def test_shared_memory_says_how_many_blocks_a_multiprocessor_holds() -> None:
    op = decode(batch=512, heads=8, kv_heads=8, keys=64)
    blocks = 512 * 8
    assert plain(op, L40S).waves == np.ceil(blocks / L40S.sm_count)
    assert plain(op, A100).waves == np.ceil(blocks / (2 * A100.sm_count))


def test_a_window_bounds_what_a_block_walks_over() -> None:
    op = Attention(1, 16384, 16384, 2, 1, 128, causal=True, window=128)
    assert plain(op, L40S).longest <= 128 + 2 * 128
    assert plain(replace(op, window=None), L40S).longest == 16384


def test_hot_reads_miss_once_they_exceed_the_l2() -> None:
    keys = np.array([0.5, 4.0]) * L40S.l2_bytes / (2 * 128 * 2)
    op = grid(Attention, batch=1, q_len=1, kv_len=keys.astype(int), heads=1, kv_heads=1,
              head_dim=128, causal=True)  # fmt: skip
    hot = np.exp(attention_columns(op, L40S, np.array([True]))["bound missed plain"])
    cold = np.exp(attention_columns(op, L40S, np.array([False]))["bound missed plain"])
    assert hot[0] < 0.01 * cold[0]
    assert hot[1] == pytest.approx(cold[1], rel=0.01)


def test_the_prior_keeps_the_rule_that_made_the_times() -> None:
    rng = np.random.default_rng(0)
    size = 300
    group = 2 ** rng.integers(0, 4, size)
    kv_heads = 2 ** rng.integers(0, 4, size)
    op = grid(Attention, batch=2 ** rng.integers(0, 8, size), q_len=1,
              kv_len=2 ** rng.integers(4, 15, size), heads=group * kv_heads, kv_heads=kv_heads,
              head_dim=128, causal=True)  # fmt: skip
    x = features(op, L40S, True)
    for rule in ("plain", "packed"):
        names = {
            "serial start": 8.0,
            "serial walk": -2.0,
            "bound missed": 0.0,
            "added combine": 8.5,
        }
        truth = Prior(
            9.0, 0.0, 0.0, 0.0, -40.0, 0.3, 1.0, {f"{n} {rule}": v for n, v in names.items()}
        )
        found = fit_prior(x, truth.log_cycles(x))
        assert {n.rpartition(" ")[2] for n in found.costs} == {rule}
        assert np.abs(found.log_cycles(x) - truth.log_cycles(x)).mean() < 0.05
        other = {"plain": "packed", "packed": "plain"}[rule]
        assert not any(n.endswith(other) for n in columns_of(x, found))


def test_a_lone_donor_lends_an_interval_no_narrower_than_cards_differ() -> None:
    rng = np.random.default_rng(0)
    ops = [decode(int(b), 8, int(k), int(n)) for b in (1, 4, 16, 64) for k in (1, 2, 8)
           for n in (64, 512, 4096)]  # fmt: skip
    samples = [
        Sample(
            op,
            seconds=(1e-5 * float(rng.lognormal(0, 0.3)),),
            hardware="h100",
            implementation="torch",
            cache="hot",
        )
        for op in ops
    ]
    fitted = next(iter(fit(samples, H200).kinds.values()))
    apart = card_to_card(H200, [load_hardware("h100")], "bfloat16")
    assert 0 < apart < card_to_card(H200, [load_hardware("a100")], "bfloat16")
    assert fitted.at_least == apart
    assert np.all(fitted.log_seconds(features(decode(), H200, True))[1] >= apart)


def test_balanced_tokens_touch_as_many_experts_as_there_are_picks() -> None:
    tokens = np.array([1, 4, 100, 1000])
    assert experts_touched("balanced", 64, 2, tokens).tolist() == [2, 8, 64, 64]
    assert experts_touched("uniform", 64, 2, 7) == distinct_experts(64, 2, 7)
    assert MoeMlp(4, 64, 2, 10, 6).weight_bytes_read == 3 * 8 * 10 * 6 * 2


def test_a_power_law_touches_fewer_and_loads_some_more() -> None:
    tokens = 2 ** np.arange(15)
    most = experts_touched("balanced", 128, 8, tokens)
    touched = experts_touched("power_law_1.2", 128, 8, tokens)
    assert np.all((touched <= most) & (touched >= 8))
    assert np.all(np.diff(touched[:7]) >= 0)
    busiest, idlest = (expert_load("power_law_1.2", 128, 8, tokens, s) for s in (0.95, 0.05))
    assert np.all(busiest >= idlest)
    assert np.all(busiest <= tokens)
    assert busiest[-1] > 4 * 8 * tokens[-1] / 128


@pytest.mark.parametrize("name", ["power_law_1", "power_law_x", "even"])
def test_a_distribution_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected uniform, balanced or power_law_<a>"):
        experts_touched(name, 8, 2, 4)


def test_ragged_experts_need_more_tiles_than_even_ones_and_odd_widths_cost_extra() -> None:
    even, ragged = (
        expert_columns(MoeMlp(8192, 128, 8, 4096, 768, distribution=name), H200)
        for name in ("balanced", "power_law_1.2")
    )
    assert ragged["tile used stepped"] < even["tile used stepped"]
    assert even["serial unaligned loads stepped"] == 0
    odd = expert_columns(MoeMlp(8192, 128, 8, 4096, 88), H200)
    assert odd["serial unaligned loads stepped"] > 0


def test_tiles_of_experts_are_tuned_ones_of_the_nearest_count_or_go_by_tokens() -> None:
    tokens = np.array([1, 33, 65, 700, 8192])
    told = tiles_by_rule(MoeMlp(tokens, 128, 8, 4096, 192, distribution="balanced"), H200)
    # vLLM 0.24's file of 128 experts of width 192 on an H200 has 32, 64 and 512 near these
    assert told["stepped"].rows.tolist() == [16, 16, 16, 64, 128]
    assert told["stepped"].tuned.tolist() == [1] * 5
    for width, card in ((191, H200), (192, load_hardware("rtx5090"))):
        untold = tiles_by_rule(MoeMlp(tokens, 128, 8, 4096, width), card)["stepped"]
        assert untold.rows.tolist() == [16, 32, 32, 128, 128]
        assert untold.cols.tolist() == [64, 64, 128, 128, 128]
        assert not untold.tuned.any()


def test_a_multiprocessor_holds_as_many_blocks_as_shared_memory_and_registers_allow() -> None:
    op = MoeMlp(np.array([16, 700]), 128, 8, 4096, 191)
    few = tiles_by_rule(op, H200)["stepped"]
    # 3 stages of (16 + 64) x 128 numbers are 61,440 bytes of 228 KiB; 3 of (128 + 128) x 64 are
    # 98,304, of which an Ada card, which keeps two in 100 KiB, holds one
    assert blocks_held(few, H200, 2).tolist() == [3, 2]
    assert blocks_held(few, load_hardware("l40s"), 2).tolist() == [1, 1]
