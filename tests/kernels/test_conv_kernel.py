"""Convolutions against torch in float32: both layouts, strides, paddings, groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw

from kernels import conv
from kernels.configs import ways
from kernels.configs.candidates import Tile
from kernels.launch import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("poisoned")

SMALL = Tile(16, 16, 32)
SPLIT_SHAPES = ((2, 8, 7, 5), (6, 8, 3, 3), (12,))
LAYOUTS = [torch.contiguous_format, torch.channels_last]
BF16 = torch.bfloat16
full = pytest.mark.gpu


def check(
    channels: tuple[int, int],
    side: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    groups: int,
    dtype: torch.dtype,
    device: str,
    layout: torch.memory_format,
    tile: Tile | None,
) -> None:
    x = draw(2, channels[0], *side, dtype=dtype, device=device).to(memory_format=layout)
    weight = draw(channels[1], channels[0] // groups, *kernel, dtype=dtype, device=device)
    bias = draw(channels[1], dtype=dtype, device=device)
    got = conv.conv2d(x, weight, bias, stride, padding, groups, tile)
    assert got.is_contiguous(memory_format=layout)
    assert_near(got, conv.conv2d_reference(x, weight, bias, stride, padding, groups))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "channels, kernel, stride, padding, groups",
    [
        ((6, 20), (3, 3), 1, 1, 1),
        ((6, 10), (3, 3), 2, 1, 2),
        ((5, 7), (1, 1), 1, 0, 1),
        ((4, 6), (2, 5), 3, 2, 1),
    ],
)
def test_conv2d(
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    groups: int,
    dtype: torch.dtype,
    layout: torch.memory_format,
    device: str,
) -> None:
    check(channels, (11, 9), kernel, stride, padding, groups, dtype, device, layout, SMALL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_split_over_programs(dtype: torch.dtype, groups: int, device: str) -> None:
    tile, last = replace(SMALL, splits=3), torch.channels_last
    check((8, 10), (11, 9), (3, 3), 2, 1, groups, dtype, device, last, tile)


def test_split_needs_positions_side_by_side(device: str) -> None:
    """Of one image the channels' planes are; of two they are not."""
    plane, tile = torch.contiguous_format, replace(SMALL, splits=3)
    x, weight, bias = (draw(*s, dtype=torch.float16, device=device) for s in SPLIT_SHAPES)
    got = conv.conv2d(x[:1], weight, bias[::2], padding=1, tile=tile)
    assert got.is_contiguous(memory_format=plane)
    assert_near(got, conv.conv2d_reference(x[:1], weight, bias[::2], padding=1))
    with pytest.raises(ValueError, match="expected positions side by side to split"):
        conv.conv2d(x, weight, bias[::2], padding=1, tile=tile)


def test_conv2d_as_picked(device: str) -> None:
    check((17, 33), (9, 7), (3, 3), 1, 1, 1, torch.float16, device, torch.channels_last, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("multiple", [1, 2])
def test_depthwise(
    multiple: int, dtype: torch.dtype, layout: torch.memory_format, device: str
) -> None:
    tile = Tile(16, 4)
    check((6, 6 * multiple), (7, 9), (3, 3), 2, 1, 6, dtype, device, layout, tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size, kernel, stride, padding",
    [
        ((6, 10), (3, 3), 1, 1),
        ((6, 10), (3, 3), 2, 1),
        ((9, 6), (2, 5), 3, 2),
        ((4, 8), (1, 1), 2, 0),
    ],
)
def test_windows(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dtype: torch.dtype,
    device: str,
) -> None:
    """Two images; windows of one row of 16 positions, beyond the sides; channels in two steps."""
    tile = Tile(16, 16, 8, stages=2, way=ways.WINDOWS)
    last = torch.channels_last
    x = draw(2, 16, *size, dtype=dtype, device=device).to(memory_format=last)
    weight = draw(21, 16, *kernel, dtype=dtype, device=device).to(memory_format=last)
    bias = draw(21, dtype=dtype, device=device)
    assert conv.window_of(x, weight, stride, ARCHITECTURES["sm_90"], 8) is not None
    got = conv.conv2d(x, weight, bias, stride, padding, tile=tile)
    assert_near(got, conv.conv2d_reference(x, weight, bias, stride, padding))


def test_windows_of_several_rows(device: str) -> None:
    tile = Tile(32, 16, 16, way=ways.WINDOWS)
    last = torch.channels_last
    x, weight = (
        draw(*s, dtype=torch.float16, device=device) for s in ((1, 16, 5, 20), (16, 16, 3, 3))
    )
    got = conv.conv2d(x.to(memory_format=last), weight, padding=1, tile=tile)
    assert_near(got, conv.conv2d_reference(x, weight, padding=1))


def test_what_no_window_fetches_goes_the_plain_way(device: str) -> None:
    """A side that the stride does not divide, channels that are no whole steps, groups."""
    last, sm_90 = torch.channels_last, ARCHITECTURES["sm_90"]
    tile = Tile(16, 16, 16, way=ways.WINDOWS)
    for channels, size, groups in ((16, (7, 8), 1), (20, (8, 8), 1), (32, (8, 8), 2)):
        x = draw(1, channels, *size, dtype=torch.float16, device=device).to(memory_format=last)
        weight = draw(16, channels // groups, 3, 3, dtype=torch.float16, device=device)
        weight = weight.to(memory_format=last)
        assert conv.window_of(x, weight, 2, sm_90, tile.k) is None
        got = conv.conv2d(x, weight, None, 2, 1, groups, tile=tile)
        assert_near(got, conv.conv2d_reference(x, weight, None, 2, 1, groups))


@full
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tile", ways.CONV, ids=str)
def test_windows_full_size(tile: Tile, stride: int, device: str) -> None:
    check((256, 512), (64, 64), (3, 3), stride, 1, 1, BF16, device, torch.channels_last, tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", [ways.TAPS, ways.STRIPS])
def test_depthwise_ways(way: str, stride: int, dtype: torch.dtype, device: str) -> None:
    """A 3 x 2 kernel; blocks of 4 columns and 2 rows that divide no side; two outputs a channel."""
    tile = Tile(4, 8, way=way)
    layout = torch.channels_last
    check((3, 6), (5, 7), (3, 2), stride, 1, 3, dtype, device, layout, tile)


@full
@pytest.mark.parametrize("tile", ways.DEPTHWISE, ids=str)
def test_depthwise_ways_full_size(tile: Tile, device: str) -> None:
    check((96, 96), (56, 57), (7, 7), 1, 3, 96, BF16, device, torch.channels_last, tile)


def test_depthwise_as_picked(device: str) -> None:
    check((5, 5), (8, 6), (3, 3), 1, 1, 5, torch.float16, device, torch.contiguous_format, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_patch_embed(dtype: torch.dtype, device: str) -> None:
    """A side that the patch does not divide: what is left over is not read."""
    x = draw(2, 3, 13, 16, dtype=dtype, device=device)
    weight, bias = (draw(*s, dtype=dtype, device=device) for s in ((20, 3, 4, 4), (20,)))
    got = conv.patch_embed(x, weight, bias, SMALL)
    assert_near(got, conv.conv2d_reference(x, weight, bias, stride=4).flatten(2).mT)


def test_bad_input_is_named(device: str) -> None:
    x, weight = (draw(*s, dtype=BF16, device=device) for s in ((1, 4, 5, 5), (6, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"weight: \(6, 3, 3, 3\), groups = 1"):
        conv.conv2d(x, weight)
    with pytest.raises(ValueError, match="stride = 0"):
        conv.conv2d(x, weight, stride=0)
    with pytest.raises(ValueError, match="expected no smaller than the kernel"):
        conv.conv2d(x[:, :3, :2], weight)


@full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "channels, side, kernel, stride, padding",
    [((768, 256), 64, 1, 1, 0), ((256, 256), 64, 3, 1, 1), ((512, 1024), 32, 3, 2, 1)],
)
def test_conv2d_full_size(
    channels: tuple[int, int],
    side: int,
    kernel: int,
    stride: int,
    padding: int,
    layout: torch.memory_format,
    device: str,
) -> None:
    sides, kernels = (side, side), (kernel, kernel)
    check(channels, sides, kernels, stride, padding, 1, BF16, device, layout, None)


@full
@pytest.mark.parametrize("layout", LAYOUTS)
def test_depthwise_full_size(layout: torch.memory_format, device: str) -> None:
    check((256, 256), (65, 63), (3, 3), 1, 1, 256, BF16, device, layout, None)


@full
def test_patch_embed_full_size(device: str) -> None:
    x = draw(2, 3, 1024, 1024, dtype=BF16, device=device)
    weight = draw(768, 3, 16, 16, dtype=BF16, device=device)
    got = conv.patch_embed(x, weight)
    assert_near(got, conv.conv2d_reference(x, weight, stride=16).flatten(2).mT)
