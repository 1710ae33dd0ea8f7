"""The other ways of a linear layer: the same result as the plain one, however the tiles fall."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw

from kernels import mlp
from kernels.configs import pick, ways
from kernels.configs.candidates import Tile
from kernels.configs.footprint import fits
from kernels.configs.pick import Product
from kernels.launch import ARCHITECTURES
from kernels.mlp import persistent, stream_k

pytestmark = pytest.mark.usefixtures("poisoned")

SM_90, SM_120 = ARCHITECTURES["sm_90"], ARCHITECTURES["sm_120"]
WAYS = (ways.PERSISTENT, ways.SPECIALISED, ways.STREAM)
EVERY = pytest.mark.parametrize("way", WAYS)
full = pytest.mark.gpu


def linear(m: int, n: int, k: int, tile: Tile, sms: int, **options: object) -> torch.Tensor:
    """Near the reference on a card of ``sms``: few, so that a program has several tiles."""
    options = {"dtype": torch.float16, "device": "cpu", "activation": None} | options
    kind = {"dtype": options["dtype"], "device": options["device"]}
    x, weight, bias = (draw(*s, **kind) for s in ((m, k), (n, k), (n,)))  # type: ignore[arg-type]
    o = torch.empty(m, n, **kind)  # type: ignore[call-overload]
    launches = mlp.product.linear_launches(
        x, weight, bias, o, options["activation"], replace(SM_90, sms=sms), tile
    )
    for launch in (*launches, *launches):  # a launch can be run again: counts are as they were
        launch.run()
    assert_near(o, mlp.linear_reference(x, weight, bias, options["activation"]))
    return o


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, k", [(45, 71), (48, 72)])  # by pointers; by descriptor
def test_every_way(way: str, dtype: torch.dtype, n: int, k: int, device: str) -> None:
    linear(33, n, k, Tile(16, 32, 16, way=way), 2, dtype=dtype, device=device, activation="gelu")


@pytest.mark.parametrize("sms", [1, 2, 4, 5, 132])
@pytest.mark.parametrize("m", [64, 130])  # 5 or 15 tiles of 7 steps, by 2 programs an SM
def test_stretches_fall_anywhere(sms: int, m: int, device: str) -> None:
    linear(m, 80, 104, Tile(64, 16, 16, way=ways.STREAM), sms, device=device)


def test_halves_of_a_wide_tile(device: str) -> None:
    linear(20, 264, 40, Tile(16, 128, 16, way=ways.PERSISTENT), 2, device=device)


@EVERY
def test_the_user_names_a_way(way: str, device: str) -> None:
    x, weight = (draw(*s, dtype=torch.float16, device=device) for s in ((3, 7, 72), (45, 72)))
    got = mlp.linear(x, weight, tile=Tile(16, 32, 16, way=way))
    assert_near(got, mlp.linear_reference(x, weight))


def test_few_rows_are_the_columns_of_the_instruction() -> None:
    low, high = (Tile(m, 128, 64, way=ways.STREAM) for m in (16, 64))
    assert ways.is_swapped(low, SM_90) and not ways.is_swapped(high, SM_90)
    assert not ways.is_swapped(low, SM_120)


@pytest.mark.parametrize("card", ARCHITECTURES)
@pytest.mark.parametrize("m", [8, 283, 4096])
def test_ways_fit_and_the_model_takes_none(card: str, m: int) -> None:
    architecture = ARCHITECTURES[card]
    product = Product("linear", m, 4096, 4096, 2, can_split=True)
    found = ways.linear_ways(m, 2, architecture)
    assert found
    assert all(fits(t, ways.way_footprint(t, 2, architecture), architecture) for t in found)
    assert set(found) < set(pick.contenders(product, architecture))
    assert not pick.pick_linear(product, architecture).way


def test_specialised_warps_make_their_descriptors_on_hopper() -> None:
    x, o = (torch.empty(512, 512, dtype=torch.bfloat16, device="meta") for _ in "xo")
    tile = Tile(128, 256, 64, 4, 3, way=ways.SPECIALISED)
    launch = persistent.persistent_launch(x, x, None, o, None, SM_90, tile)
    assert launch.needs_scratch and launch.arguments["SPECIALISED"]
    launch = persistent.persistent_launch(x, x, None, o, "gelu", SM_90, tile)
    assert not launch.arguments["SPECIALISED"]  # it would spill
    odd = x.as_strided((512, 512), (513, 1))
    launch = persistent.persistent_launch(x, odd, None, o, None, SM_90, tile)
    assert not launch.needs_scratch and not launch.arguments["SPECIALISED"]
    assert launch.warps == 8  # one group in the place of two


def test_a_stretch_a_program_covers_every_step_once() -> None:
    """By the closed form that the kernel computes with, on numbers."""
    for tiles, steps, programs in ((5, 8, 4), (1, 3, 2), (7, 1, 5), (300, 64, 132)):
        share, extra = divmod(tiles * steps, programs)
        starts = [p * share + min(p, extra) for p in range(programs + 1)]
        assert starts[0] == 0 and starts[-1] == tiles * steps
        assert all(0 <= b - a - share <= 1 for a, b in pairwise(starts))
    two, one = (Tile(64, n, 64, 4, 4, way=ways.STREAM) for n in (128, 256))
    assert stream_k.programs_of(two, 2, SM_90) == 2 * SM_90.sms
    assert stream_k.programs_of(one, 2, SM_90) == SM_90.sms


@full
@EVERY
@pytest.mark.parametrize("m, n, k", [(8, 1280, 6848), (283, 1792, 1280), (2048, 4096, 4096)])
def test_full_size(way: str, m: int, n: int, k: int, device: str) -> None:
    """Every tile of the way that this card would be timed with."""
    x, weight = (draw(*s, dtype=torch.bfloat16, device=device) for s in ((m, k), (n, k)))
    bias = draw(n, dtype=torch.bfloat16, device=device)
    want = mlp.linear_reference(x, weight, bias)
    for tile in ways.linear_ways(m, 2, mlp.product.architecture_of(x.device)):
        if tile.way == way:
            assert_near(mlp.linear(x, weight, bias, tile=tile), want)
