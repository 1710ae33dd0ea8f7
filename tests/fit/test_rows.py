"""The physics of rows that are picked, summed and normalised."""

from __future__ import annotations

import numpy as np
import pytest

from calib.fit.physics.blocks.rows import COSTS, row_columns
from calib.fit.physics.features import features, features_of_list
from calib.hardware.datasheet import load_hardware
from model.ops import Copy, Gather, Norm, Operator, Reduction, Softmax

H200 = load_hardware("h200")


def units(op: Operator) -> dict[str, float]:
    """By the second word of a column: what the bounds count, and what is added."""
    found = features(op, H200, True).columns
    named = {name: values for name, values in found.items() if name in COSTS}
    return {
        name.split()[1]: float(np.exp(v[0]) if name.startswith("bound") else v[0])
        for name, v in named.items()
    }


def test_whole_rows_are_picked_by_blocks_and_ragged_ones_by_elements() -> None:
    whole, ragged = units(Gather(4096, 2048)), units(Gather(4096, 2047))
    assert whole["picks"] == pytest.approx(4096 / H200.sm_count)
    assert whole["turns"] == whole["picked"] == 0
    assert units(Gather(64, 1024, "float32"))["picks"] == pytest.approx(64 / H200.sm_count)
    assert units(Gather(64, 1912, "float32"))["picks"] == pytest.approx(128 / H200.sm_count)
    assert ragged["picked"] == pytest.approx(4096 * 2047 / H200.sm_count)
    assert ragged["picks"] < 1e-9


@pytest.mark.parametrize(("cols", "turns"), [(12, 0), (129, 1), (290, 2), (498, 3), (5000, 3)])
def test_a_lone_block_picks_four_elements_a_thread_in_turn(cols: int, turns: int) -> None:
    assert units(Gather(1, cols))["turns"] == turns


def test_a_long_row_is_walked_and_a_short_one_is_a_threads() -> None:
    long, short = units(Reduction(316, 5653, "float32")), units(Reduction(316000, 6))
    assert long["walk"] == pytest.approx(np.ceil(5653 / 4 / 32))
    assert long["few"] == 0
    few_rows = units(Reduction(4, 2474))["walk"]  # share a block
    assert few_rows == pytest.approx(np.ceil(2474 / 8 / 128))
    assert short["walk"] < 1e-9
    assert short["few"] == pytest.approx(316000 * 6 / H200.sm_count)


def test_a_row_that_is_longer_than_a_block_has_several() -> None:
    """256 numbers a thread at most, as few as 16 while multiprocessors are idle: a million and a
    billion numbers of one row wait for no longer than a block of a small sum."""
    sms = H200.sm_count
    for cols in (1 << 17, 1 << 20, 1 << 30):
        each = max(min(256, cols / 512 / (4 * sms)), 16)
        assert units(Reduction(1, cols, "float32"))["walk"] == pytest.approx(np.ceil(each / 4))
    assert units(Reduction(1, 255 * 512, "float32"))["walk"] == pytest.approx(np.ceil(255 / 4))
    # Of many rows no other block is free, but a long one is all of its block's.
    assert units(Reduction(4 * sms + 1, 1 << 20, "float32"))["walk"] == pytest.approx(512)
    assert units(Reduction(64, 8191, "float32"))["walk"] == pytest.approx(64)
    assert units(Reduction(64, 8192, "float32"))["walk"] == pytest.approx(4)


def test_a_softmax_is_padded_as_far_as_a_warp_holds_it() -> None:
    narrow, wide = units(Softmax(1000, 530)), units(Softmax(1000, 2566))
    assert narrow["padded"] == pytest.approx(1000 * 1024 / H200.sm_count)
    assert narrow["wide"] == wide["padded"] == 0
    assert wide["wide"] == pytest.approx(np.ceil(1000 / H200.sm_count) * 3 * 1024)


def test_a_wide_softmax_is_kept_or_walked() -> None:
    """By torch's choice: registers, shared memory, three reads."""
    beside, alone, walked = (units(Softmax(1000, cols, "float32")) for cols in (4096, 4097, 9217))
    assert beside["lone"] == walked["wide"] == 0
    assert alone["lone"] == alone["wide"] > beside["wide"]
    assert walked["walked"] == 8 * 9217
    assert units(Softmax(1, 128256))["walked"] == 128256


def test_a_layernorm_takes_512_numbers_of_a_row_at_a_time() -> None:
    one, many = units(Norm(1, 7168, "layernorm")), units(Norm(1414, 384, "layernorm"))
    assert one["row"] == pytest.approx(14)
    assert many["row"] == pytest.approx(1)
    assert many["rows"] == many["steps"] == pytest.approx(1414 / H200.sm_count)
    assert one["steps"] == pytest.approx(14 / H200.sm_count)
    wide = units(Norm(1, 7168, "layernorm", "float32"))
    assert wide["steps"] == pytest.approx(2 * 14 / H200.sm_count)  # of as many bytes


def test_the_walks_of_a_long_row_wait_for_main_memory() -> None:
    """Of a cold row the first, of rows that no cache holds the second too: 200 cycles a step."""
    hot, cold = (np.exp(_row(Norm(1, 7168, "layernorm"), is_hot)) for is_hot in (True, False))
    cycles = np.exp(COSTS["bound row streamed"])
    assert (cold - hot) * cycles == pytest.approx(14 * 200)
    long = np.exp(_row(Norm(16, 2**22, "layernorm", "float32"), True))
    assert long * cycles == pytest.approx(2**22 / 512 * (cycles + 2 * 200), rel=0.01)


def _row(op: Norm, is_hot: bool) -> float:
    return float(features(op, H200, is_hot).columns["bound row streamed"][0])


def test_the_moments_of_a_channel_are_one_blocks() -> None:
    """A number a thread at a time, however few the channels; many take turns."""
    few, many = (units(Reduction(n, 2**20, "float32", alone=True))["walk"] for n in (3, 5280))
    assert few == pytest.approx(2**20 / 512)
    assert many == pytest.approx(10 * few)
    shared = units(Reduction(3, 2**20, "float32"))["walk"]
    assert shared < few / 20


def test_a_norm_written_out_takes_the_mean_of_float32_rows() -> None:
    written = units(Norm(23, 6272))
    assert written["meaned"] == np.ceil(6272 / 4 / 32)
    assert written["row"] == 1.0  # the least: a list with layernorms has the column for all


@pytest.mark.parametrize(
    "points",
    [
        [Gather(100, 64), Gather(1, 64), Gather(9, 67)],
        [Reduction(9, 4), Reduction(9, 4000)],
        [Softmax(9, 40), Softmax(9, 4000)],
        [Norm(9, 40, "layernorm"), Norm(9, 4000, "layernorm"), Norm(9, 4000)],
    ],
)
def test_a_grid_has_the_columns_of_its_points(points: list[Operator]) -> None:
    together = features_of_list(points, H200, True)
    for i, op in enumerate(points):
        alone = features(op, H200, True)
        for name, values in alone.columns.items():
            assert together.columns[name][i] == pytest.approx(values[0]), name


def test_nothing_is_said_of_other_operators() -> None:
    assert row_columns(Copy(100), H200) == {}
    assert "meaned" not in units(Norm(9, 40, "layernorm"))


def test_a_run_of_odd_bytes_is_told_apart() -> None:
    names = ("odd", "added odd streamed", "serial odds streamed")
    odd, even, cast = (
        [float(features(op, H200, True).columns[n][0]) for n in names]
        for op in (Copy(1001), Copy(1002), Copy(1001, out_dtype="float32"))
    )
    assert odd == pytest.approx([1, 1, 1001 / H200.sm_count])
    assert even == cast == [0, 0, 0]
