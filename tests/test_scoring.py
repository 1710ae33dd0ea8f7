"""How accuracy is scored: whole groups held out, final ones unseen, baselines by hand."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.scoring.baselines import BASELINES, log_shape
from benchmarks.scoring.rows import Rows
from benchmarks.scoring.splits import final_rows, split
from calib.hardware import load_hardware

GROUPS = np.repeat([f"{n}/{k}" for n in range(20) for k in range(20)], 3)


def gemm_rows(m, n, k, seconds, card="h200"):
    """Rows of a GEMM table, without samples."""
    m, n, k, seconds = np.broadcast_arrays(m, n, k, seconds)
    frame = pd.DataFrame({"m": m, "n": n, "k": k, "seconds": seconds, "hardware": card})
    frame["flops"], frame["bytes"] = 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n)
    frame["group"] = [f"{a}/{b}" for a, b in zip(n, k, strict=True)]
    return Rows("gemm", frame, np.empty(len(frame), dtype=object))


@pytest.mark.parametrize("final", [False, True])
def test_groups_are_held_out_whole(final):
    known, held_out = split(GROUPS, seed=1, final=final)
    assert not set(GROUPS[known]) & set(GROUPS[held_out])
    assert len(set(GROUPS[held_out])) == pytest.approx(100 if final else 60, abs=15)
    for group in set(GROUPS[held_out]):
        assert (GROUPS[held_out] == group).sum() == 3


def test_development_never_touches_a_final_group():
    known, held_out = split(GROUPS, seed=0, final=False)
    development = set(GROUPS[known]) | set(GROUPS[held_out])
    scored = {g for seed in range(5) for g in GROUPS[split(GROUPS, seed, final=True)[1]]}
    assert scored and not development & scored
    assert development.isdisjoint(GROUPS[final_rows(GROUPS)])


def test_the_final_groups_do_not_depend_on_the_table():
    """A pair that is final on one card is final on all, however many rows each has of it."""
    some = np.array(["7/9", "3/3", "7/9"])
    assert final_rows(some)[0] == final_rows(some)[2] == final_rows(GROUPS)[GROUPS == "7/9"][0]


def test_seeds_hold_out_different_groups():
    assert set(split(GROUPS, 0, True)[1]) != set(split(GROUPS, 1, True)[1])
    assert np.array_equal(split(GROUPS, 0, True)[1], split(GROUPS, 0, True)[1])


def test_roofline_and_constant_efficiency_by_hand():
    card = load_hardware("h200")
    rows = gemm_rows([64, 8192], 4096, 4096, 1.0)
    compute = 2 * 8192 * 4096**2 / card.peak_flops["bfloat16"]
    memory = 2 * (2 * 64 * 4096 + 4096**2) / card.bandwidth
    assert BASELINES["roofline"](rows, rows) == pytest.approx([memory, compute])
    slower = gemm_rows([64, 8192], 4096, 4096, 4 * rows.floor_s)
    assert BASELINES["constant efficiency"](slower, rows) == pytest.approx(4 * rows.floor_s)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"roofline"}))
def test_what_learns_finds_a_constant_efficiency(name):
    sizes = np.array([64, 128, 256, 512, 1024, 2048])
    m, n, k = (a.ravel() for a in np.meshgrid(sizes, sizes, sizes))
    rows = gemm_rows(m, n, k, 1.0)
    train = gemm_rows(m, n, k, 1.5 * rows.floor_s)
    asked = gemm_rows([96, 700], [300, 1500], 900, 1.0)
    assert BASELINES[name](train, asked) == pytest.approx(1.5 * asked.floor_s, rel=1e-3)


def test_routing_of_a_mixture_is_a_number():
    names = ["balanced", "power_law_1.01", "power_law_1.2"]
    sizes = dict.fromkeys(["tokens", "experts", "top_k", "hidden", "intermediate"], 8)
    rows = Rows("moe", pd.DataFrame({**sizes, "distribution": names}), np.empty(3, dtype=object))
    assert log_shape(rows)[:, -1].tolist() == [0.0, 1.01, 1.2]
