"""Choices that were timed on a card: asked by class of shapes, kept on disk, never timed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from triton.runtime.errors import OutOfResources

from kernels.configs import pick, tuned
from kernels.configs.candidates import Tile
from kernels.configs.pick import Product
from kernels.launch import ARCHITECTURES

CARD = replace(ARCHITECTURES["sm_90"], card="NVIDIA Test 80GB")
SHAPE = Product("linear", 300, 1280, 6848, 2, can_split=True)
TILE = Tile(64, 64, 64, 4, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CALIB_TILES", str(tmp_path))
    tuned.choices.cache_clear()
    yield tmp_path
    tuned.choices.cache_clear()


def ask() -> Tile:
    return pick.pick_linear(SHAPE, CARD)


def clock_that_likes(best: Tile) -> tuple[list[Tile], object]:
    """Seconds by tile: what ``ask`` answers is what a launch would be compiled with."""
    seen: list[Tile] = []

    def clock(run: object) -> float:
        seen.append(ask())
        return 1.0 if seen[-1] == best else 2.0

    return seen, clock


def test_a_tuned_choice_stands_above_the_model(folder: Path) -> None:
    model = ask()
    tiles = pick.product_tiles(SHAPE, CARD)
    best = next(t for t in tiles if t != model)
    seen, clock = clock_that_likes(best)
    assert tuned.tune(ask, clock, rounds=3) == {"linear 2x1x512x2048x8192": best}
    assert seen == list(tiles) * 4  # each once to compile, then three rounds in turn
    assert ask() == best
    assert [p.name[:17] for p in folder.iterdir()] == ["nvidia-test-80gb-"]


def test_a_choice_outlives_the_process_and_is_not_timed_again() -> None:
    best = pick.product_tiles(SHAPE, CARD)[-1]
    tuned.tune(ask, clock_that_likes(best)[1])
    tuned.choices.cache_clear()
    assert ask() == best
    seen, clock = clock_that_likes(TILE)
    assert tuned.tune(ask, clock) == {} and not seen


def test_a_class_is_many_shapes_and_kernels_do_not_share_it() -> None:
    best = pick.product_tiles(SHAPE, CARD)[-1]
    tuned.tune(ask, clock_that_likes(best)[1])
    assert pick.pick_linear(replace(SHAPE, m=270, k=5000), CARD) == best
    for other in (replace(SHAPE, m=700), replace(SHAPE, item=4), replace(SHAPE, kernel="conv2d")):
        assert pick.pick_linear(other, CARD) == pick.model_linear(other, CARD)


def test_a_tile_that_does_not_run_is_left_out() -> None:
    """The arithmetic lets a tile pass, the compiler then wants more memory than there is."""
    first, second, *_ = pick.product_tiles(SHAPE, CARD)

    def clock(run: object) -> float:
        if ask() == first:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return 1.0 if ask() == second else 2.0

    assert list(tuned.tune(ask, clock).values()) == [second]


def test_what_another_process_chose_is_kept() -> None:
    tuned.tune(ask, clock_that_likes(TILE)[1])
    tuned.keep(CARD.card, {"linear 2x1x1x1x1": TILE})
    assert len(tuned.read(tuned.file_of(CARD.card))) == 2


def test_without_a_device_nothing_is_tuned(folder: Path) -> None:
    """A compilation for a card that is not there must not depend on this machine's files."""
    seen, clock = clock_that_likes(TILE)
    assert tuned.tune(lambda: pick.pick_linear(SHAPE, ARCHITECTURES["sm_90"]), clock) == {}
    assert not seen and not list(folder.iterdir())


def test_attention_asks_too() -> None:
    with tuned.overheard() as heard:
        pick.pick_attention(1000, 1000, 128, 40, 2, CARD)
    assert [(q.key, q.card) for q in heard] == [("attention 2x64x1024x1024x128", CARD.card)]
    assert len(heard[0].tiles) > 1


def test_a_file_that_holds_no_tiles_is_named() -> None:
    path = tuned.file_of(CARD.card)
    for text in ("{", '{"linear 2": {"rows": 3}}', '{"linear 2": {"m": "64", "n": 64}}', "[1]"):
        path.write_text(text, "utf-8")
        tuned.choices.cache_clear()
        with pytest.raises(ValueError, match=r"nvidia-test-80gb.*expected"):
            ask()
    path.write_text(json.dumps({"linear 2x1x512x2048x8192": {"m": 64, "n": 64, "k": 64}}), "utf-8")
    tuned.choices.cache_clear()
    assert ask() == Tile(64, 64, 64)
