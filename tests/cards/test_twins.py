"""Convolutions of float32, columns, pools and scans: by what was timed of their like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.card import UNTOLD
from calib.cards.corrected import NORMAL
from calib.cards.shipped import load_card
from calib.cards.tables.stand_ins import ANOTHER_KERNEL, as_cut, stand_in
from calib.fit.calibration import TRANSFERRED, Estimates
from calib.hardware.datasheet import floor, load_hardware, peak
from model.ops import ChannelNorm, Conv2d, Convolution, Matmul, Operator, Other, grid

FLAT = Conv2d(4, 64, 128, 56, 56, 3, padding=1, dtype="float32", planar=True)
LONG = Convolution(8, 64, 128, 65536, 65534, 3, dtype="float32")
FEW = Conv2d(8, 3, 64, 224, 224, 7, stride=2, padding=3, dtype="float32")


def told(card: str, *ops: Operator, hot: bool = False) -> Estimates:
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    return shipped.estimates(list(ops), "torch", [hot] * len(ops))


@pytest.mark.parametrize("op", [FLAT, LONG], ids=["2d", "1d"])
def test_convolutions_of_any_form_cut_float32_to_tf32(op: Conv2d | Convolution) -> None:
    h100, v100 = load_hardware("h100"), load_hardware("v100_16gb")
    assert peak(op, h100) == h100.peak_flops["tf32"]
    assert peak(op, v100) == v100.cuda_core_flops
    assert peak(Matmul(8, 8, 8, dtype="float32"), h100) == h100.cuda_core_flops


@pytest.mark.parametrize("card", ["h100", "h200", "a10g"])
@pytest.mark.parametrize("op", [FLAT, LONG], ids=["2d", "1d"])
def test_a_float32_convolution_is_one_of_bfloat16_over_twice_the_maps(
    op: Conv2d | Convolution, card: str
) -> None:
    twin = replace(op, dtype="bfloat16", batch=2 * op.batch, one_way=True)
    one, two = told(card, op), told(card, twin)
    assert one.seconds[0] == pytest.approx(two.seconds[0], rel=1e-4)
    assert one.known_as[0] == TRANSFERRED and one.floor[0] == floor(op, load_hardware(card))
    assert np.log(one.high[0] / one.seconds[0]) >= ANOTHER_KERNEL
    # Beside others it is the same, and so are they.
    product = Matmul(512, 512, 512)
    mixed = told(card, product, op, product)
    assert mixed.seconds[1] == pytest.approx(one.seconds[0], rel=1e-4)
    assert mixed.known_as[0] == told(card, product).known_as[0]
    several = told_grid(card, replace(op, batch=np.array([op.batch, 2 * op.batch])))
    assert several.seconds[0] == pytest.approx(one.seconds[0], rel=1e-4)


def told_grid(card: str, op: Operator) -> Estimates:
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    return shipped.estimates(grid(type(op), **vars(op)), "torch", False)


def test_the_result_of_tf32_is_not_moved_back_but_of_a_gradient() -> None:
    """By as much as it is longer than the map, a convolution moves less than a transposed one."""
    h100 = load_hardware("h100")
    for op in (FLAT, LONG):
        twin = as_cut(op, set(), h100)
        assert isinstance(twin, Conv2d | Convolution) and twin.one_way
    turned = as_cut(replace(LONG, transposed=True), set(), h100)
    assert isinstance(turned, Convolution) and not turned.one_way
    widened = replace(LONG, out_channels=1024)
    both = replace(widened, dtype="bfloat16", batch=2 * LONG.batch)
    one, two = told("h100", widened).seconds[0], told("h100", both).seconds[0]
    assert two - one > both.bytes_written / h100.bandwidth


def test_how_products_carry_does_not_tell_how_convolutions_do() -> None:
    shipped = load_card(load_hardware("h100"))
    assert shipped is not None
    product, convolution = (shipped._away([op]) for op in (Matmul(512, 512, 512), FLAT))
    assert convolution.width >= UNTOLD / NORMAL > product.width
    assert convolution.share == 1.0 > product.share


def test_matrix_units_of_another_capability_convolve_by_kernels_of_their_own() -> None:
    """Scalar arithmetic is the same kernel anywhere; where no product stands in, it is that which
    is corrected."""
    shipped = load_card(load_hardware("a100"))
    assert shipped is not None
    assert shipped._away([FLAT, FEW, LONG]).share.tolist() == [0, 1, 1]
    sizes = replace(FLAT, in_channels=np.array([64, 3]))
    assert shipped._away(grid(Conv2d, **vars(sizes))).share.tolist() == [0, 1]


def test_few_channels_are_scalar_arithmetic_of_either_dtype() -> None:
    h100 = load_hardware("h100")
    twin = as_cut(FEW, set(), h100)
    assert twin == replace(FEW, dtype="bfloat16")
    assert as_cut(FEW, {("conv2d", "float32")}, h100) is FEW  # somebody timed it
    assert as_cut(FLAT, set(), load_hardware("v100_16gb")) is FLAT  # no unit for tf32
    by_channel = replace(FLAT, out_channels=64, groups=64)
    assert as_cut(by_channel, set(), h100) is by_channel
    half = replace(FLAT, dtype="float16")
    assert as_cut(half, set(), h100) is half


@pytest.mark.parametrize("card", ["h200", "h100_pcie", "a10g", "l40s"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_product_with_one_column_is_that_with_one_row(card: str, dtype: str) -> None:
    """As many sums of rows that lie alike; 2048 of a million numbers are read at no less than half
    of the bandwidth."""
    column = Matmul(2048, 1, 1 << 20, dtype=dtype)
    row = Matmul(1, 2048, 1 << 20, dtype=dtype)
    one, two = told(card, column), told(card, row)
    assert one.seconds[0] == pytest.approx(two.seconds[0])
    assert one.floor[0] < one.seconds[0] < 2 * one.floor[0]


@pytest.mark.parametrize("card", ["a100", "h200"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_column_among_the_points_of_a_grid_is_as_in_a_list(card: str, dtype: str) -> None:
    n = np.array([1, 2, 64])
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    points = shipped.estimates(grid(Matmul, m=512, n=n, k=4096, dtype=dtype), "torch", False)
    listed = told(card, *(Matmul(512, int(size), 4096, dtype=dtype) for size in n))
    np.testing.assert_allclose(points.seconds, listed.seconds, rtol=1e-6)


def pool(results: int, window: int, dtype: str = "float32") -> Other:
    """Overlapping windows: as many numbers are read."""
    return Other("avg_pool2d", 4 * results, 4 * results, window * results, dtype=dtype)


def test_a_pool_takes_longer_the_wider_its_window_whatever_the_bandwidth() -> None:
    small, wide, wider = (pool(1 << 28, n) for n in (1, 64, 256))
    for card in ("h200", "h100", "a10g"):
        found = told(card, small, wide, wider).seconds
        assert found[0] < found[1] < found[2]
    h200, h100 = (told(card, wider).seconds[0] for card in ("h200", "h100"))
    assert h200 == pytest.approx(h100, rel=0.05)  # as many multiprocessors at the same clock


def test_the_pools_of_the_record_are_met() -> None:
    """Of a ResNet-50's 64 maps of 112 x 112, windows of 3 x 3 two apart, on an H200."""
    results = 64 * 56 * 56
    for batch, seconds in ((1, 5.1e-6), (32, 107.2e-6)):
        many = batch * results
        op = Other("max_pool2d_with_indices", 2 * 4 * many, (2 + 8) * many, 9 * many)
        assert told("h200", op, hot=True).seconds[0] == pytest.approx(seconds, rel=0.25)


def test_one_busy_kernel_takes_cycles_and_not_bandwidth() -> None:
    """A scan of many bytes: on an H200 what its record says of scans; on a card of a sixth of its
    bytes a cycle nothing beyond the bytes. Of few it is a kernel's latency on any card."""
    many = Other("cumsum", 1 << 32, 1 << 32, 1 << 30, dtype="float32")
    few = replace(many, read=512, written=512, arithmetic=128)
    for card, passes in (("h200", 2.0), ("a10g", 1.0)):
        once, few_once = (told(card, replace(op, name="once")).seconds[0] for op in (many, few))
        assert told(card, many).seconds[0] / once == pytest.approx(passes, rel=0.2)
        assert told(card, few).seconds[0] > 1.7 * few_once
    again = told("a10g", replace(many, name="cumprod")).seconds[0]
    assert again == pytest.approx(told("a10g", many).seconds[0])


def test_a_norm_by_group_reads_its_elements_twice_and_writes_them_once() -> None:
    op = ChannelNorm(1 << 28, 64, "groupnorm", "float32", 2)
    moved = sum(float(o.bytes) for o in stand_in(op).ops)
    assert moved == pytest.approx(1.5 * float(op.bytes), rel=1e-3)


@pytest.mark.parametrize("hot", [False, True])
def test_a_die_with_slower_memory_multiplies_float32_no_faster(hot: bool) -> None:
    """Only an H200's samples hold torch's float32; an H100 runs the same kernels on the same die,
    and had been told halfway to bfloat16's. Far from the samples each card is by its own tables."""
    ops = [Matmul(m, 1024, 1024, dtype="float32") for m in (1, 2, 4, 8, 16, 32, 64, 128, 512)]
    h100, h200 = (told(name, *ops, hot=hot).seconds for name in ("h100", "h200"))
    assert (h100 > 0.94 * h200).all()
    assert np.median(h100 / h200) < 4.8 / 3.35  # of the bandwidths


@pytest.mark.parametrize(("card", "published"), [("h100", 6.42e-3), ("h100_pcie", 7.69e-3)])
def test_what_odd_rows_cost_bfloat16_they_do_not_cost_float32(card: str, published: float) -> None:
    """KernelBench's product of odd sizes, which had been told three to four times too slow."""
    found = told(card, Matmul(8205, 5921, 2949, dtype="float32"))
    assert found.seconds[0] == pytest.approx(published, rel=0.3)
