"""The physics of maps, copies and norms; bounds that no estimate passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.fitting import fit
from calib.fit.physics.blocks.stream_blocks import stream_columns, walk_seconds
from calib.hardware.datasheet import floor, least_seconds, load_hardware
from calib.samples.sample import Sample
from model.ops import ChannelNorm, Copy, Elementwise, Gather, Norm, Operator, Reduction

H200 = load_hardware("h200")


@pytest.mark.parametrize(
    ("op", "rate"),
    [
        (Copy(2**27, axes=3), 406e9),
        (Copy(2**27, axes=5), 320e9),
        (Elementwise(2**27, broadcast=4096, axes=2), 395e9),
        (Elementwise(2**27, 0, broadcast=2**21, axes=5), 290e9),
        (Copy(2**27, transposed=True, axes=2), 131e9),
    ],
)
def test_places_cost_what_the_record_shows(op, rate) -> None:
    assert 2**27 / walk_seconds(op, H200) == pytest.approx(rate, rel=0.1)


def test_one_run_computes_no_place() -> None:
    assert walk_seconds(Elementwise(2**20, 2), H200) == 0
    assert walk_seconds(Copy(2**20, "float32", "bfloat16"), H200) == 0
    assert walk_seconds(Copy(2**20, "bfloat16", "float32"), H200) > 0


def test_a_grid_has_the_columns_of_its_points() -> None:
    cols = np.array([64, 67])
    grid = stream_columns(Gather(100, cols), H200, np.array([True, True]))
    for i, n in enumerate(cols):
        point = stream_columns(Gather(100, int(n)), H200, np.array([True]))
        assert {k: v[0] for k, v in point.items()} == {
            k: np.broadcast_to(v, 2)[i] for k, v in grid.items()
        }


def test_no_call_is_faster_than_the_bytes_that_no_cache_holds() -> None:
    """Small ones that seem faster than memory say nothing of large ones."""
    shapes = [Elementwise(2**n) for n in range(10, 22)]
    samples = [Sample(op, [1e-6 + op.bytes / 50e12], "h200", "torch", "hot") for op in shapes]
    table = fit(samples, H200).estimate([Elementwise(2**32)])
    least = float(least_seconds(Elementwise(2**32), H200))
    assert least == (4 * 2**32 - H200.l2_bytes) / H200.bandwidth
    assert table["low_s"][0] >= least
    assert table["high_s"][0] < 1


def test_a_written_out_norm_is_dearer_than_one_kernel() -> None:
    assert walk_seconds(Norm(8192, 4096), H200) > 300e-6
    assert walk_seconds(Norm(8192, 4096, "layernorm"), H200) < 50e-6


@pytest.mark.parametrize(
    "op", [Norm(16, 2**22, "layernorm", "float32"), Reduction(16, 2**22, "float32", alone=True)]
)
def test_few_long_rows_keep_few_multiprocessors_busy(op: Operator) -> None:
    """As long as one of them, and longer than all bytes take."""
    one = replace(op, rows=1)
    assert walk_seconds(op, H200) == pytest.approx(walk_seconds(one, H200), rel=0.4)
    assert walk_seconds(op, H200) > 5 * float(floor(op, H200))


@pytest.mark.parametrize(
    ("planes", "positions", "seconds"),
    [(65536, 49, 45e-6), (32768, 196, 26e-6), (16384, 784, 35e-6), (2048, 12544, 58e-6)],
)
def test_a_norm_by_channel_takes_what_a_resnet_shows(planes, positions, seconds) -> None:
    op = ChannelNorm(planes * positions, planes // 32, planes=planes)
    assert walk_seconds(op, H200) == pytest.approx(seconds, rel=0.25)
    lone = ChannelNorm(planes * positions, planes // 32)
    assert walk_seconds(lone, H200) <= walk_seconds(op, H200)
    by_group = ChannelNorm(planes * positions, planes // 32, "groupnorm")
    assert walk_seconds(by_group, H200) == 0


def test_what_streams_cold_waits_for_main_memory() -> None:
    hot, cold = (stream_columns(Copy(2**20), H200, np.array([h])) for h in (True, False))
    name = "bound missed streamed"
    assert hot[name] < cold[name]
    assert np.exp(cold[name]) == pytest.approx(2**22 / H200.bandwidth * H200.clock_hz)
