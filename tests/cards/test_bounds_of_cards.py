"""What no estimate of a card may be, whatever the card: faster than its memory, faster for more
work, another time for the same bytes at the same rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from calib.cards.older.shipped import load_torch
from calib.fit.calibration import Estimator
from calib.hardware.datasheet import (
    MOST_ABOVE,
    HardwareError,
    hardware_names,
    load_hardware,
    peak,
)
from model import ops

CARDS = [name for name in hardware_names() if name != "cpu"]
LARGE_L2 = ["rtx5090", "rtx_pro_6000", "rtx4090", "l40s", "b200"]
SLACK = 1.05
"""Of what the trees' steps may take back from one size to the next."""


def card(name: str, cuda: str | None = None) -> Estimator:
    found = load_torch(replace(load_hardware(name), cuda=cuda))
    assert found is not None
    return found


STREAMS: dict[str, Callable[[int, str], ops.Operator]] = {
    "sum": lambda n, dtype: ops.Elementwise(n, inputs=2, dtype=dtype),
    "relu": lambda n, dtype: ops.Elementwise(n, dtype=dtype),
    "copy": lambda n, dtype: ops.Copy(n, dtype=dtype),
    "softmax": lambda n, dtype: ops.Softmax(n // 1024, 1024, dtype=dtype),
    "gather": lambda n, dtype: ops.Gather(n // 1024, 1024, dtype=dtype),
    "decode": lambda n, dtype: ops.Attention(1, 1, n // 1024, 8, 8, 128, dtype=dtype),
    "shared": lambda n, dtype: ops.Attention(1, 1, n // 1024, 64, 8, 128, dtype=dtype),
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("stream", STREAMS)
def test_what_is_cold_comes_no_faster_than_main_memory(name: str, stream: str) -> None:
    known = card(name)
    sizes = [2**19, 2**22, 2**24 + 1024, 3 * 2**24, 2**26]
    for dtype in ("bfloat16", "float32"):
        shapes = [STREAMS[stream](n, dtype) for n in sizes]
        found = known.estimate(shapes, hot=False)
        moved = np.array([op.bytes for op in shapes]) / known.hardware.bandwidth
        assert (found["estimate_s"] >= moved * (1 - 1e-9)).all(), dtype
        ends = found[["low_s", "estimate_s", "high_s"]].dropna().to_numpy()
        assert (np.diff(ends) >= 0).all()


@pytest.mark.parametrize("name", CARDS)
def test_products_are_no_faster_than_the_highest_clock(name: str) -> None:
    known = card(name)
    shapes: list[ops.Operator] = []
    for dtype in ("bfloat16", "float16", "float32"):
        shapes += [ops.Matmul(2048, 4096, k, dtype=dtype) for k in (1024, 16384)]
        shapes += [ops.Attention(b, 512, 512, 16, 16, 64, dtype=dtype) for b in (1, 64)]
        shapes += [ops.GroupedMatmul(t, 64, 6, 1792, 2048, dtype=dtype) for t in (64, 4096)]
    for op in shapes:
        try:
            least = op.min_flops / peak(op, known.hardware) / MOST_ABOVE
        except HardwareError:
            continue
        for hot in (False, True):
            assert known.estimate([op], hot=hot)["estimate_s"][0] >= least * (1 - 1e-9), op


@pytest.mark.parametrize("name", LARGE_L2)
@pytest.mark.parametrize("stream", ["sum", "relu", "copy"])
def test_time_does_not_fall_where_a_cache_ends(name: str, stream: str) -> None:
    known = card(name)
    whole = known.hardware.l2_bytes
    for dtype in ("bfloat16", "float32"):
        one = STREAMS[stream](1024, dtype)
        sizes = [
            int(share * whole * 1024 / one.bytes) // 8 * 8 for share in np.geomspace(0.25, 4, 41)
        ]
        for hot in (False, True):
            found = known.estimate([STREAMS[stream](n, dtype) for n in sizes], hot=hot)
            seconds = found["estimate_s"].to_numpy()
            assert (seconds[1:] * SLACK >= seconds[:-1]).all(), (dtype, hot)


HALVES: list[ops.Operator] = [
    ops.Attention(8, 512, 512, 16, 16, 64),
    ops.Attention(8, 1, 4096, 32, 8, 128),
    ops.Conv2d(8, 64, 128, 56, 56, 3, padding=1),
    ops.Norm(4096, 1024, kind="layernorm"),
    ops.Norm(4096, 1024, kind="rmsnorm"),
    ops.Matmul(1024, 1024, 1024),
    ops.Matmul(1, 4096, 4096),
    ops.Matmul(128, 128, 64, batch=64),
    ops.Softmax(4096, 1024),
    ops.Elementwise(2**24, inputs=2),
    ops.Copy(2**22, out_dtype="float32"),
    ops.Gather(1024, 4096),
]


@pytest.mark.parametrize("name", CARDS)
def test_halves_of_one_rate_take_one_time(name: str) -> None:
    """No sample and no table is of float16."""
    known = card(name)

    def rate(op: ops.Operator) -> float | None:
        try:
            return peak(op, known.hardware)
        except HardwareError:
            return None

    pairs = [(op, replace(op, dtype="float16")) for op in HALVES]  # type: ignore[call-arg]
    same = [(a, b) for a, b in pairs if rate(a) is not None and rate(a) == rate(b)]
    assert len(same) >= 5
    brain, half = (known.estimate(list(some), hot=False) for some in zip(*same, strict=True))
    for column in ("floor_s", "estimate_s", "low_s", "high_s"):
        np.testing.assert_array_equal(brain[column], half[column])


def test_a_conversion_between_halves_is_none_of_one_dtype() -> None:
    known = card("rtx5090")
    cast = ops.Copy(2**24, dtype="bfloat16", out_dtype="float16")
    plain = ops.Copy(2**24, dtype="float16")
    assert known.estimate([cast, plain], hot=True)["estimate_s"].nunique() == 2


@pytest.mark.parametrize("name", ["h100", "h200", "h20", "h100_pcie"])
@pytest.mark.parametrize(("q_len", "causal"), [(2048, True), (512, False), (1, False)])
@pytest.mark.parametrize("cuda", [None, "12.4"])
def test_a_longer_head_is_no_faster(name: str, q_len: int, causal: bool, cuda: str | None) -> None:
    heads = [32, 40, 48, 64, 72, 80, 96, 112, 128, 136, 160, 192, 224, 256]
    shapes = [ops.Attention(2, q_len, 2048, 16, 16, head, causal=causal) for head in heads]
    seconds = card(name, cuda).estimate(shapes, hot=False)["estimate_s"].to_numpy()
    assert (seconds[1:] * SLACK >= seconds[:-1]).all()
