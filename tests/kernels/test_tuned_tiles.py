"""Choices that were timed on a card: asked by class of shapes, kept on disk, never timed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from triton.runtime.errors import OutOfResources

from kernels.configs import pick, pick_heads, timing, tuned, ways
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
    tiles = pick.contenders(SHAPE, CARD)
    best = next(t for t in tiles if t != model)
    seen, clock = clock_that_likes(best)
    (race,) = timing.tune(ask, clock, rounds=3)
    assert (race.question.key, race.best) == ("linear 2x1x512x2048x8192", best)
    assert seen[: 3 * len(tiles)] == list(tiles) * 3  # each once to compile, then two rounds
    assert seen[3 * len(tiles) :] == [best]  # the others, at twice its time, are far behind
    assert ask() == best
    assert [p.name[:17] for p in folder.iterdir()] == ["nvidia-test-80gb-"]


def test_a_choice_outlives_the_process_and_is_not_timed_again() -> None:
    best = pick.contenders(SHAPE, CARD)[-1]
    timing.tune(ask, clock_that_likes(best)[1])
    tuned.choices.cache_clear()
    assert ask() == best
    seen, clock = clock_that_likes(TILE)
    assert timing.tune(ask, clock) == [] and not seen


def test_a_class_is_many_shapes_and_kernels_do_not_share_it() -> None:
    best = pick.contenders(SHAPE, CARD)[-1]
    timing.tune(ask, clock_that_likes(best)[1])
    assert pick.pick_linear(replace(SHAPE, m=270, k=5000), CARD) == best
    for other in (replace(SHAPE, m=700), replace(SHAPE, item=4), replace(SHAPE, kernel="conv2d")):
        assert pick.pick_linear(other, CARD) == pick.model_linear(other, CARD)


def test_a_tile_that_does_not_run_is_left_out() -> None:
    """The arithmetic lets a tile pass, the compiler then wants more memory than there is."""
    first, second, *_ = pick.contenders(SHAPE, CARD)

    def clock(run: object) -> float:
        if ask() == first:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return 1.0 if ask() == second else 2.0

    (race,) = timing.tune(ask, clock)
    assert race.best == second
    assert race.refused.keys() == {first} and "OutOfResources" in race.refused[first]


def test_a_tile_that_is_wrong_or_does_not_compile_is_left_out() -> None:
    first, second, third, *_ = pick.contenders(SHAPE, CARD)

    def check(question: tuned.Question, tile: Tile) -> str:
        assert ask() == tile and question.key == "linear 2x1x512x2048x8192"
        if tile == second:
            raise RuntimeError("PassManager::run failed")
        return "3 of 9 elements are wrong" if tile == first else ""

    (race,) = timing.tune(ask, clock_that_likes(first)[1], check=check)
    assert race.refused == {
        first: "3 of 9 elements are wrong",
        second: "RuntimeError: PassManager::run failed",
    }
    assert race.best == third


def test_what_ships_answers_after_the_user_and_before_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tuned.store(
        tmp_path / "ships" / "sm_90.json",
        {"source": {"card": "NVIDIA Test"}, "tiles": {"linear 2x1x512x2048x8192": TILE}},
    )
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "ships")
    tuned.shipped.cache_clear()
    try:
        assert ask() == TILE
        absent = ARCHITECTURES["sm_90"]  # a compilation ahead takes what a card would
        assert pick.pick_linear(SHAPE, absent) == TILE
        mine = pick.contenders(SHAPE, CARD)[-1]
        timing.tune(ask, clock_that_likes(mine)[1])
        assert ask() == mine
        assert pick.pick_linear(SHAPE, ARCHITECTURES["sm_100"]) != TILE
    finally:
        tuned.shipped.cache_clear()


def test_no_table_ships_that_no_card_has_written() -> None:
    """Where one does, it names the card, the versions and the command."""
    for path in tuned.SHIPPED.glob("*.json"):
        source = json.loads(path.read_text("utf-8"))["source"]
        assert {"card", "triton", "torch", "date", "command"} <= source.keys()
        assert path.stem in ARCHITECTURES and tuned.read(path)


def test_what_ships_is_a_way_that_there_is() -> None:
    """And the best of those that were timed; of others, that are gone, the seconds are kept."""
    known = {"", ways.PERSISTENT, ways.DESCRIBED, ways.JOINED, ways.HEADS, ways.ATOMIC}
    known |= {ways.SHARED, ways.LAGGED, ways.WINDOWS, ways.TAPS, ways.STRIPS}
    for path in tuned.SHIPPED.glob("*.json"):
        raced = json.loads(path.read_text("utf-8"))["raced"]
        for key, tile in tuned.read(path).items():
            seconds = raced[key]["seconds"]
            ours = {t: s for t, s in seconds.items() if not t.split()[-1].isalpha()}
            ours |= {t: s for t, s in seconds.items() if t.split()[-1] in known}
            assert tile.way in known and seconds[str(tile)] == min(ours.values())


def test_a_sum_of_a_larger_shape_has_no_more_parts_than_a_wave() -> None:
    """283 and 493 rows are one class; of the latter 8 parts would be 160 programs."""
    tile = Tile(128, 256, 64, 8, 4, splits=8)
    with tuned.forced("linear 2x1x512x2048x8192", tile):
        assert ask() == tile
        larger = pick.pick_linear(replace(SHAPE, m=493), CARD)
        assert larger.splits == 6 and SHAPE.tiles(tile) == 15


def test_what_another_process_chose_is_kept() -> None:
    timing.tune(ask, clock_that_likes(TILE)[1])
    tuned.keep(CARD.card, {"linear 2x1x1x1x1": TILE})
    assert len(tuned.read(tuned.file_of(CARD.card))) == 2


def test_without_a_device_nothing_is_tuned(folder: Path) -> None:
    """A compilation for a card that is not there must not depend on this machine's files."""
    seen, clock = clock_that_likes(TILE)
    assert timing.tune(lambda: pick.pick_linear(SHAPE, ARCHITECTURES["sm_90"]), clock) == []
    assert not seen and not list(folder.iterdir())


def test_attention_asks_too() -> None:
    with tuned.overheard() as heard:
        pick_heads.pick_attention(1000, 1000, 128, 40, 2, CARD)
    assert [(q.key, q.card) for q in heard] == [("attention 2x64x1024x1024x128", CARD.card)]
    assert len(heard[0].tiles) > 1


def test_a_file_that_holds_no_tiles_is_named() -> None:
    path = tuned.file_of(CARD.card)
    odd_way = '{"tiles": {"linear 2": {"m": 64, "n": 64, "way": 3}}}'
    odd_size = '{"linear 2": {"m": "64", "n": 64}}'
    for text in ("{", '{"linear 2": {"rows": 3}}', odd_size, odd_way, "[1]"):
        path.write_text(text, "utf-8")
        tuned.choices.cache_clear()
        with pytest.raises(ValueError, match=r"nvidia-test-80gb.*expected"):
            ask()
    path.write_text(json.dumps({"linear 2x1x512x2048x8192": {"m": 64, "n": 64, "k": 64}}), "utf-8")
    tuned.choices.cache_clear()
    assert ask() == Tile(64, 64, 64)
