"""Floors by hand, cards' files against what they must hold, and errors that say what is wrong."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calib.checkout import CONF
from calib.errors import CalibError
from calib.hardware.datasheet import (
    Hardware,
    arithmetic_intensity,
    bound,
    floor,
    floors,
    hardware_from_config,
    hardware_names,
    load_hardware,
    peak,
)
from model.ops import Attention, Conv2d, Copy, Elementwise, Matmul, Norm, Other, grid, grid_points

CARDS = [name for name in hardware_names() if name != "cpu"]
ROUND = Hardware(
    name="round",
    device_names=("Round Numbers",),
    compute_capability="9.0",
    sm_count=10,
    clock_hz=1e9,
    peak_flops={"bfloat16": 1e12, "float32": 1e11},
    cuda_core_flops=1e11,
    bandwidth=1e10,
    memory_bytes=10**10,
    l2_bytes=10**6,
)


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "hw" / f"{name}.yaml").read_text("utf-8"))


def test_floor_of_a_product_bound_by_arithmetic() -> None:
    """2 * 512^3 = 268,435,456 FLOP at 1e12/s; 3 * 512^2 * 2 bytes = 1,572,864 at 1e10/s."""
    op = Matmul(512, 512, 512)
    assert floors(op, ROUND) == (268_435_456 / 1e12, 1_572_864 / 1e10)
    assert floor(op, ROUND) == 268_435_456 / 1e12
    assert bound(op, ROUND) == "compute"


def test_floor_of_a_product_bound_by_memory() -> None:
    """[1, 512] x [512, 512]: (512 + 512^2 + 512) * 2 = 526,336 bytes."""
    op = Matmul(1, 512, 512)
    assert floor(op, ROUND) == 526_336 / 1e10
    assert bound(op, ROUND) == "memory"
    assert arithmetic_intensity(op) == 2 * 512**2 / 526_336


def test_float32_products_run_on_cuda_cores() -> None:
    assert floor(Matmul(1024, 1024, 1024, dtype="float32"), ROUND) == 2 * 1024**3 / 1e11


def test_floor_leaves_out_masked_work() -> None:
    """Of 1000 x 1000 scores a causal mask leaves 500,500, at 4 * 64 FLOP each."""
    op = Attention(1, 1000, 1000, 1, 1, 64, causal=True)
    assert floor(op, ROUND) == max(500_500 * 256 / 1e12, 4 * 1000 * 64 * 2 / 1e10)
    heavy = replace(op, q_len=100_000, kv_len=100_000)
    assert floor(heavy, ROUND) == 100_000 * 100_001 // 2 * 256 / 1e12


def test_pointwise_work_runs_on_cuda_cores_whatever_its_dtype() -> None:
    op = Elementwise(1000, flops_per_element=1000)
    assert floors(op, ROUND) == (1e6 / 1e11, 4000 / 1e10)
    assert bound(op, ROUND) == "compute"
    assert floor(Norm(10, 100), ROUND) == (2 * 10 * 100 + 100) * 2 / 1e10


def test_a_grid_equals_its_points() -> None:
    many = grid(Matmul, m=np.array([1, 7, 512, 8192]), n=512, k=np.array([64, 512, 512, 512]))
    points = list(grid_points(many))
    for function in (floor, bound):
        assert list(function(many, ROUND)) == [function(p, ROUND) for p in points]
    assert list(arithmetic_intensity(many)) == [arithmetic_intensity(p) for p in points]


def test_nothing_moved_has_no_intensity() -> None:
    nothing = Other("nothing")
    assert floor(nothing, ROUND) == 0
    assert bound(nothing, ROUND) == "memory"
    assert math.isnan(arithmetic_intensity(nothing))


@given(st.sampled_from(CARDS), *[st.integers(1, 10_000)] * 3, st.integers(1, 1000))
def test_floor_grows_with_every_dimension(name: str, m: int, n: int, k: int, more: int) -> None:
    hardware = load_hardware(name)
    least = floor(Matmul(m, n, k), hardware)
    for larger in (Matmul(m + more, n, k), Matmul(m, n + more, k), Matmul(m, n, k + more)):
        assert floor(larger, hardware) > least > 0


@given(st.floats(1.01, 100.0), st.integers(1, 10**9))
def test_floor_of_a_copy_scales_with_bandwidth(faster: float, elements: int) -> None:
    quick = replace(ROUND, bandwidth=ROUND.bandwidth * faster)
    assert floor(Copy(elements), quick) * faster == pytest.approx(floor(Copy(elements), ROUND))


def test_a_dtype_without_a_peak_is_refused() -> None:
    op = Matmul(64, 64, 64, dtype="bool")
    with pytest.raises(ValueError, match=r"'bool'.*'a100'.*bfloat16, float16, tf32"):
        floor(op, load_hardware("a100"))


@pytest.mark.parametrize(
    ("card", "dtype", "like", "times"),
    [
        ("h100", "float8_e5m2", "float8_e4m3fn", 1.0),
        ("h100", "uint8", "int8", 1.0),
        ("h100", "int4", "int8", 1.0),
        ("a100", "float8_e4m3fn", "bfloat16", 1.0),  # unpacked: no units of its own
        ("h100", "float4_e2m1fn", "float8_e4m3fn", 1.0),
        ("h100", "complex64", "float32", 0.25),
        ("h100", "complex32", "float16", 0.25),
        ("rtx4090", "float64", "float32", 1 / 64),
        ("rtx4090", "complex128", "float32", 1 / 256),
        ("a100", "int64", "float32", 1.0),
        ("p100", "int8", "bfloat16", 1.0),
    ],
)
def test_a_dtype_without_a_line_takes_the_way_of_a_library(
    card: str, dtype: str, like: str, times: float
) -> None:
    hardware = load_hardware(card)
    assert peak(Matmul(8, 8, 8, dtype=dtype), hardware) == times * hardware.peak_flops[like]


def test_a_cpu_multiplies_half_as_many_float64() -> None:
    cpu = replace(ROUND, compute_capability=None, peak_flops={"float32": 8.0}, cuda_core_flops=8.0)
    assert peak(Matmul(8, 8, 8, dtype="float64"), cpu) == 4.0
    assert peak(Matmul(8, 8, 8, dtype="int8"), cpu) == 8.0


def test_a_cpu_has_no_floor_before_it_is_probed() -> None:
    with pytest.raises(ValueError, match=r"'cpu'.*peak_flops.*bandwidth.*not probed"):
        floor(Copy(10), load_hardware("cpu"))


# The files of conf/hw


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_complete_and_each_figure_has_a_source(name: str) -> None:
    hardware = load_hardware(name)
    assert hardware.name == name
    assert not hardware.unprobed
    assert {"bfloat16", "float16", "float32"} <= set(hardware.peak_flops)
    figures = set(config(name)) - {"name", "device_names", "compute_capability", "sources"}
    assert figures - {"measured", "provenance"} <= set(hardware.sources)
    for source in hardware.sources.values():
        assert source.startswith(("datasheet: ", "derived: ", "seen: ")), source


OLD = ("p100", "p4", "t4", "v100_16gb", "v100_32gb", "v100_pcie_32gb")
"""Cards without a matrix unit for bfloat16."""


@pytest.mark.parametrize("name", sorted(set(CARDS) - set(OLD)))
def test_rates_of_a_card_agree_with_one_another(name: str) -> None:
    """Half the bits, twice the rate; 16-bit types alike; figures of a file that is in SI units."""
    peaks = load_hardware(name).peak_flops
    assert peaks["bfloat16"] == peaks["float16"]
    assert peaks["bfloat16"] / peaks["tf32"] == pytest.approx(2, rel=0.02)
    assert peaks["int8"] / peaks["bfloat16"] in (
        pytest.approx(2, rel=0.02),
        pytest.approx(4, rel=0.02),  # GeForce: float32 accumulation at half rate, int8 at full
        pytest.approx(1 / 16, rel=0.1),  # Blackwell Ultra: int8 gave its place to float4
    )
    assert 5e10 < load_hardware(name).bandwidth < 1e13
    assert 1e13 < load_hardware(name).cuda_core_flops < peaks["bfloat16"] < 1e16


@pytest.mark.parametrize("name", OLD)
def test_cards_without_a_bfloat16_unit_multiply_it_on_the_cuda_cores(name: str) -> None:
    card = load_hardware(name)
    assert card.peak_flops["bfloat16"] == card.cuda_core_flops == card.peak_flops["float32"]
    assert card.peak_flops["float16"] >= card.cuda_core_flops
    assert "tf32" not in card.peak_flops
    assert 1e11 < card.bandwidth < 1e12 < card.cuda_core_flops < 2e13


def test_no_two_cards_share_a_device_name() -> None:
    names = [d for card in hardware_names() for d in load_hardware(card).device_names]
    assert len(names) == len(set(names)) == len(CARDS)


def test_published_figures() -> None:
    """A few figures as anyone can look them up, against slips in the files."""
    assert load_hardware("h200").bandwidth == 4.8e12
    assert load_hardware("h100").peak_flops["bfloat16"] == 989e12
    assert load_hardware("rtx5090").peak_flops["bfloat16"] == 209.5e12
    assert load_hardware("rtx5090").cuda_core_flops == 104.8e12
    assert load_hardware("rtx5090").shared_memory_per_block == 99 * 1024
    assert load_hardware("a100").l2_bytes == 40 * 2**20
    assert load_hardware("b200").threads_per_sm == 2048
    assert load_hardware("v100_32gb").peak_flops["float16"] == 125e12
    assert load_hardware("t4").power_w == 70
    assert load_hardware("h20").peak_flops["float8_e4m3fn"] == 296e12
    assert load_hardware("a40").bandwidth == 696e9
    assert load_hardware("gb300").compute_capability == "10.3"


def test_published_ceilings_keep_their_source() -> None:
    measured = load_hardware("rtx5090").measured["peak_flops.bfloat16"]
    assert (measured["low"], measured["high"]) == (253e12, 255e12)
    assert "published" in measured["source"]


def test_a_hardware_becomes_plain_data() -> None:
    plain = asdict(load_hardware("rtx4090"))
    assert hardware_from_config(plain) == load_hardware("rtx4090")


# Bad input


def test_an_unknown_card_lists_what_exists() -> None:
    with pytest.raises(
        CalibError, match=r"hw = 'rtx6090': expected one of a10, .*b200, .*cpu, .*l40s"
    ):
        load_hardware("rtx6090")


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("bandwidth", 0, r"a positive number \[bytes/s\]"),
        ("bandwidth", -1e12, "a positive number"),
        ("bandwidth", "4.8e12", "a positive number"),
        ("bandwidth", math.inf, "a positive number"),
        ("bandwidth", math.nan, "a positive number"),
        ("bandwidth", None, "a positive number"),
        ("bandwidth", "probed", "a positive number"),
        ("clock_hz", True, r"a positive number \[Hz\]"),
        ("sm_count", 1.5, "a positive whole number"),
        ("sm_count", 0, "a positive whole number"),
        ("power_w", -1, r"a positive number \[W\], or null"),
        ("cuda", "12", "a version of CUDA with both parts"),
        ("compute_capability", 9.0, 'a quoted "major.minor"'),
        ("compute_capability", "sm_90", 'a quoted "major.minor"'),
        ("device_names", "NVIDIA H200", "a list of names"),
        ("peak_flops", {}, "a mapping from dtype"),
        ("peak_flops", 989e12, "a mapping from dtype"),
        ("provenance", "guessed", "one of datasheet, derived, probed"),
        ("measured", {"bandwidth": {"low": 2.0, "high": 1.0, "source": "x"}}, "low <= high"),
        ("measured", {"bandwidth": 4.3e12}, "low, high"),
        ("sources", ["a datasheet"], "a mapping from figure"),
        ("bandwith", 4.8e12, "one of the keys name, device_names"),
        ("sm_count", 1e300, r"a positive whole number; from 1 to 100000"),
        ("clock_hz", 1980, r"a positive number \[Hz\]; from 1e\+06 to 1e\+12"),
        ("measured", {"bandwidth": {"low": "x", "high": 1.0, "source": "x"}}, "a positive number"),
    ],
)
def test_a_wrong_figure_is_named(key: str, value: object, accepted: str) -> None:
    with pytest.raises(CalibError, match=rf"^hw\.{key}[.\w]* = .*: expected .*{accepted}"):
        hardware_from_config({**config("h200"), key: value})


def test_a_wrong_peak_is_named() -> None:
    with pytest.raises(CalibError, match=r"hw\.peak_flops\.tf32 = -1: expected a positive number"):
        hardware_from_config({**config("h200"), "peak_flops": {"bfloat16": 1e12, "tf32": -1}})
    with pytest.raises(CalibError, match=r"hw\.peak_flops = 'fp8': expected dtypes out of"):
        hardware_from_config({**config("h200"), "peak_flops": {"fp8": 1e12}})


def test_a_missing_figure_is_named() -> None:
    incomplete = config("h200")
    del incomplete["l2_bytes"]
    with pytest.raises(CalibError, match=r"hw\.l2_bytes is missing: expected a positive whole"):
        hardware_from_config(incomplete)


def test_what_is_not_known_of_a_card_may_be_null() -> None:
    assert hardware_from_config({**config("h200"), "power_w": None}).power_w is None


def test_float32_on_a_card_is_multiplied_as_torch_does_by_default():
    """Products with their factors whole, outside the matrix units; convolutions cut to tf32."""
    card = load_hardware("h200")
    product = Matmul(64, 64, 64, dtype="float32")
    convolution = Conv2d(1, 64, 64, 8, 8, 3, dtype="float32")
    assert peak(product, card) == card.peak_flops["float32"] == card.cuda_core_flops
    assert peak(convolution, card) == card.peak_flops["tf32"]
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
