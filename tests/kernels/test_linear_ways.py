"""The other ways of a linear layer: the same result as the plain one, however the tiles fall."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw

from kernels import mlp
from kernels.configs import pick, ways
from kernels.configs.candidates import Tile
from kernels.configs.footprint import fits
from kernels.configs.pick import Product
from kernels.launch import ARCHITECTURES, counters
from kernels.mlp import persistent

pytestmark = pytest.mark.usefixtures("poisoned")

SM_90 = ARCHITECTURES["sm_90"]
WAYS = (ways.PERSISTENT, ways.DESCRIBED, ways.JOINED)
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
    tile = Tile(16, 32, 16, splits=3 if way == ways.JOINED else 1, way=way)
    linear(33, n, k, tile, 2, dtype=dtype, device=device, activation="gelu")


@pytest.mark.parametrize("splits", [2, 3, 7, 9])
def test_parts_are_joined_by_who_comes_last(splits: int, device: str) -> None:
    """Seven steps of 16: of nine parts two have none. Counts are zero again after each launch."""
    tile = Tile(16, 16, 16, splits=splits, way=ways.JOINED)
    got = linear(17, 20, 104, tile, 2, device=device)
    assert torch.equal(got, linear(17, 20, 104, tile, 2, device=device))
    assert not counters(torch.device(device), 4, "linear").any()


@EVERY
def test_a_sum_of_nothing(way: str, device: str) -> None:
    linear(5, 20, 0, Tile(16, 16, 16, splits=2 if way == ways.JOINED else 1, way=way), 2)


@pytest.mark.parametrize("way", [ways.PERSISTENT, ways.DESCRIBED])
@pytest.mark.parametrize("n", [45, 48, 104])  # a tile and its rest, cut in the rest, in the tile
def test_a_width_of_two_blocks(way: str, n: int, device: str) -> None:
    """48 columns as 32 and 16, as 192 are 128 and 64."""
    linear(33, n, 72, Tile(16, 48, 16, way=way), 2, device=device, activation="silu")
    assert ways.widths(Tile(128, 192)) == (128, 64) and ways.widths(Tile(128, 256)) == (256, 0)


def test_halves_of_a_wide_tile(device: str) -> None:
    linear(20, 264, 40, Tile(16, 128, 16, way=ways.PERSISTENT), 2, device=device)


@EVERY
def test_the_user_names_a_way(way: str, device: str) -> None:
    x, weight = (draw(*s, dtype=torch.float16, device=device) for s in ((3, 7, 72), (45, 72)))
    got = mlp.linear(x, weight, tile=Tile(16, 32, 16, way=way))
    assert_near(got, mlp.linear_reference(x, weight))


@pytest.mark.parametrize("card", ARCHITECTURES)
@pytest.mark.parametrize("m", [8, 283, 4096])
def test_ways_fit(card: str, m: int) -> None:
    """And of what is timed, only sums that are split are joined."""
    architecture = ARCHITECTURES[card]
    product = Product("linear", m, 4096, 2048, 2, can_split=True)
    found = ways.linear_ways(m, 2, architecture)
    assert found
    assert all(fits(t, ways.way_footprint(t, 2, architecture), architecture) for t in found)
    timed = pick.contenders(product, architecture)
    assert {t for t in found if t.way != ways.JOINED} <= set(timed)
    assert all(t.splits > 1 for t in timed if t.way == ways.JOINED)
    longer = pick.contenders(replace(product, k=4096), architecture)
    assert min(t.m for t in longer) == (128 if m > ways.SOME else min(t.m for t in timed))


def test_the_model_lets_wide_tiles_stay_on_hopper() -> None:
    product = Product("linear", 4096, 4096, 4096, 2, can_split=True)
    wide = Tile(128, 256, 64, 8, 4)
    assert pick.model_linear(product, SM_90) == replace(wide, way=ways.PERSISTENT)
    assert pick.model_linear(product, ARCHITECTURES["sm_100"]) == wide
    assert pick.model_linear(replace(product, by_element=True), SM_90).way == ""


def test_as_many_programs_stay_as_an_sm_holds() -> None:
    x, o = (torch.empty(8192, 8192, dtype=torch.bfloat16, device="meta") for _ in "xo")
    for tile, programs in (
        (Tile(128, 256, 64, 8, 4, way=ways.PERSISTENT), SM_90.sms),
        (Tile(128, 128, 64, 8, 3, way=ways.PERSISTENT), 2 * SM_90.sms),
        (Tile(128, 128, 64, 4, 3, way=ways.PERSISTENT), 2 * SM_90.sms),
        (Tile(128, 128, 64, 8, 3, way=ways.DESCRIBED), 64 * 64),
    ):
        launch = persistent.persistent_launch(x, x, None, o, None, SM_90, tile)
        assert launch.grid == (programs,)


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
            parts = replace(tile, splits=3 if way == ways.JOINED else 1)
            assert_near(mlp.linear(x, weight, bias, tile=parts), want)
