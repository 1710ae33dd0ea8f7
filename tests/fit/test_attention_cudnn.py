"""How cuDNN's attention cuts its work, and who may follow that rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.held_out import data_of
from calib.fit.physics.blocks.attention.cudnn import RULE, cudnn_columns, cut, is_biased
from calib.fit.physics.features import features, features_of_list
from calib.fit.physics.prior import fit_prior
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention

H200 = load_hardware("h200")
STEP = Attention(batch=1, q_len=1, kv_len=300, heads=32, kv_heads=8, head_dim=128)
PROMPT = replace(STEP, q_len=512, kv_len=512, causal=True)
SEEN = replace(PROMPT, batch=2, causal=False, bias=True)


def column(op: Attention, name: str, hot: bool = True) -> float:
    return float(features(op, H200, hot).columns[f"{name} {RULE}"][0])


@pytest.mark.parametrize(
    ("op", "longest", "mean", "splits", "blocks"),
    [
        (STEP, 3, 3, 1, 8),
        (replace(STEP, kv_len=256), 4, 4, 1, 8),
        (replace(STEP, kv_len=512), 4, 4, 1, 8),
        (replace(STEP, kv_len=1024), 2, 2, 4, 32),
        (replace(STEP, kv_len=1152), 2, 2, 8, 64),
        (replace(STEP, kv_len=8192), 2, 2, 32, 256),
        (replace(STEP, kv_len=1024, batch=40), 8, 8, 1, 320),
        (replace(STEP, kv_len=1024, heads=66, kv_heads=66), 2, 2, 4, 264),
        (replace(STEP, kv_len=1024, heads=67, kv_heads=67), 8, 8, 1, 67),
        (replace(STEP, heads=32, kv_heads=1), 3, 3, 1, 2),
        (PROMPT, 4, 2.5, 1, 128),
        (replace(PROMPT, causal=False), 4, 4, 1, 128),
        (replace(PROMPT, window=128), 4, 4, 1, 128),
    ],
)
def test_blocks_steps_and_splits(
    op: Attention, longest: float, mean: float, splits: float, blocks: float
) -> None:
    assert [float(v) for v in cut(op, 132)] == [longest, mean, splits, blocks]


def test_tiles_of_a_causal_mask_are_taken_up_one_after_the_other() -> None:
    """Of two waves the second is not whole: who ends early takes the next tile."""
    short, wide = replace(PROMPT, batch=1), replace(PROMPT, batch=2)
    tiles = 256 / 132
    assert column(short, "serial start") == 1 and column(wide, "serial start") == tiles + 0.5
    scores = column(wide, "serial scores") / 128**2
    assert scores == pytest.approx(2.5 * tiles + 4 * 2 / 3)
    assert column(replace(wide, causal=False), "serial scores") == 8 * 128**2


def test_a_window_is_a_mask_where_it_cuts() -> None:
    assert is_biased(replace(PROMPT, window=128)) and is_biased(replace(PROMPT, mask=True))
    assert not is_biased(replace(PROMPT, window=512)) and not is_biased(PROMPT)


def test_only_an_odd_row_of_a_bias_is_read_in_pieces() -> None:
    assert column(replace(SEEN, kv_len=511), "serial pieces") > 0
    assert column(SEEN, "serial pieces") == 0
    assert column(replace(PROMPT, kv_len=513), "serial pieces") == 0


def test_a_grid_has_the_columns_of_its_points() -> None:
    ops = [replace(STEP, kv_len=n, batch=b) for n, b in ((33, 1), (511, 8), (512, 8), (4097, 40))]
    grid = replace(STEP, kv_len=np.array([o.kv_len for o in ops]), batch=np.array([1, 8, 8, 40]))
    one, all_ = features_of_list(ops, H200, True), features(grid, H200, True)
    for name in cudnn_columns(STEP, H200, np.array([True])):
        assert np.allclose(one.columns[name], all_.columns[name])


def test_cold_and_hot_differ_by_what_main_memory_moves() -> None:
    """No sample tells a cold efficiency, so none may be guessed beside it."""
    ops = [replace(STEP, kv_len=n, batch=b) for n in (64, 300, 900, 3000) for b in (1, 4, 16, 64)]
    x = features_of_list(ops, H200, True)
    y = np.log(5000 + x.columns[f"serial walk {RULE}"] * 0.1 + 0.5 * np.exp(x.log_memory))
    rule = [n for n in x.columns if n.endswith(f" {RULE}") and not n.startswith("tile")]
    prior = fit_prior(x, y, rule=rule)
    wide = replace(STEP, batch=16, kv_len=528)
    hot, cold = (prior.log_cycles(features(wide, H200, flag))[0] for flag in (True, False))
    moved = np.log(wide.bytes / H200.bandwidth * H200.clock_hz)
    assert hot < cold < np.logaddexp(hot, moved)


def test_only_torch_follows_it() -> None:
    for implementation, follows in (("torch", True), ("vllm/flash_attn_3", False)):
        sample = Sample(
            implementation=implementation,
            op=STEP,
            hardware=H200.name,
            seconds=[1e-5],
            **{"cache": "hot", "status": "ok"},
        )
        columns = data_of([sample], H200).x.columns
        assert any(name.endswith(f" {RULE}") for name in columns) == follows
