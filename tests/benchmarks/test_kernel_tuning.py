"""Tuning without a card: what is asked, compiled ahead, timed, written, and taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import kernel_cases, kernel_tuning
from benchmarks import kernels as bench
from benchmarks.kernel_tuning import Table
from calib.errors import DeviceLost
from kernels import launch
from kernels.configs import tuned
from kernels.launch import ARCHITECTURES
from model import ops

CARD = replace(ARCHITECTURES["sm_90"], card="NVIDIA Test", sms=3)
SMALL = [ops.Matmul(12, 16, 2048, bias=True), ops.Matmul(11, 15, 2048), ops.Norm(3, 40)]
KEY = "linear 2x1x16x16x2048"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choices in a folder of their own, a card of three SMs, and four small operators."""
    monkeypatch.setenv("CALIB_TILES", str(tmp_path / "tiles"))
    monkeypatch.setattr(kernel_cases, "DTYPE", torch.float16)
    for name in ("cases", "model_operators"):
        monkeypatch.setattr(
            kernel_tuning, name, {"cases": few, "model_operators": SMALL.copy}[name]
        )
    described = launch.described
    monkeypatch.setattr(launch, "described", lambda _: CARD)
    for memory in (tuned.choices, tuned.shipped, kernel_tuning.without_memory):
        memory.cache_clear()
    yield
    monkeypatch.setattr(launch, "described", described)
    for memory in (tuned.choices, tuned.shipped, kernel_tuning.without_memory):
        memory.cache_clear()


def few(operators: list[ops.Operator], device: str) -> Iterator[kernel_cases.Case]:
    for op in operators:
        if isinstance(op, ops.Matmul):
            yield kernel_cases.linear_case(op, device)
        elif isinstance(op, ops.Norm):
            yield kernel_cases.norm_case(op, device)


def table(tmp_path: Path) -> Table:
    return kernel_tuning.resumed(tmp_path / "sm_90.json", kernel_tuning.source_of(CARD))


def likes_ways(run: object) -> float:
    """A clock by which each tile of a joined sum is the faster, the lower it is."""
    (tile,) = tuned._FORCED.values()
    return (1e-6 if tile.way == "joined" else 1e-3) * (1 + tile.m)


def contest(device: str, into: Table, budget_s: float = 1e9, **more: object) -> Table:
    return kernel_tuning.contest(device, likes_ways, bench.refusal, CARD, into, budget_s, **more)  # type: ignore[arg-type]


def test_a_contest_writes_the_table_that_ships(tmp_path: Path, device: str) -> None:
    done = contest(device, table(tmp_path))
    record = json.loads((tmp_path / "sm_90.json").read_text("utf-8"))
    assert record["source"]["card"] == "NVIDIA Test" and "--tune" in record["source"]["command"]
    assert done.tiles[KEY].way == record["tiles"][KEY]["way"] == "joined"
    raced = record["raced"][KEY]
    assert raced["model"] in raced["seconds"] and len(raced["seconds"]) > 4
    assert raced["shape"] == "linear, few rows m=12 n=16 k=2048" and not raced["refused"]
    assert tuned.read(tmp_path / "sm_90.json") == done.tiles
    assert f"| linear | {sum(k.startswith('linear') for k in done.tiles)} | " in (
        kernel_tuning.gains(done)
    )


def test_it_goes_on_where_it_ended(tmp_path: Path, device: str) -> None:
    first = table(tmp_path)
    times = iter([0.0, 0.0, 9.0, 9.0, 9.0])
    contest(device, first, 5.0, now=lambda: next(times))
    assert list(first.tiles) == [KEY]
    assert first.left == ["linear, few rows m=11 n=15 k=2048", "norm rmsnorm 3 x 40"]
    again = table(tmp_path)
    assert again.tiles == first.tiles

    def unasked(run: object) -> float:
        raise AssertionError("a class that has a choice is not timed again")

    kernel_tuning.hold(next(few(SMALL, device)), unasked, bench.refusal, again, lambda: None)
    other = kernel_tuning.source_of(CARD) | {"triton": "0.0"}
    assert not kernel_tuning.resumed(tmp_path / "sm_90.json", other).tiles


def test_some_classes_are_timed_again_and_what_ships_is_gone_on_from(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the same card and versions is kept but for those; of another card, nothing is."""
    contest(device, table(tmp_path))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path)
    source = kernel_tuning.source_of(CARD)
    new = tmp_path / "out" / "sm_90.json"
    again = kernel_tuning.resumed(new, source, ["linear"])
    assert set(again.raced) > set(again.tiles) and "linear" not in str(again.tiles.keys())
    again.store()  # no time for any: the earlier choices stand
    assert tuned.read(new) == table(tmp_path).tiles and not table(tmp_path).earlier
    done = contest(device, again)
    assert done.tiles == table(tmp_path).tiles and tuned.read(new) == done.tiles
    assert not kernel_tuning.resumed(new, source | {"card": "another"}).tiles


def test_a_tile_that_lost_the_card_is_not_tried_again(tmp_path: Path, device: str) -> None:
    tried: list[str] = []

    def judge(run: kernel_cases.Run, reference: object) -> str:
        tried.append(str(next(iter(tuned._FORCED.values()))))
        return "CUDA error: an illegal memory access" if len(tried) == 3 else ""

    def recover() -> None:
        raise DeviceLost("the card is lost to this process")

    with pytest.raises(DeviceLost):
        kernel_tuning.contest(
            device, likes_ways, judge, CARD, table(tmp_path), 1e9, recover=recover
        )
    again = table(tmp_path)
    assert again.lost == {KEY: [tried[2]]}
    contest(device, again)
    assert again.raced[KEY]["refused"] == {tried[2]: "took the card away from its process"}


def test_what_is_compiled_ahead_is_what_is_timed(tmp_path: Path) -> None:
    """Every contender of every class once, though two cases share kernels."""

    class Listed:
        def __init__(self) -> None:
            self.calls: list[tuple[object, ...]] = []

        def submit(self, call: object, *arguments: object) -> object:
            self.calls.append(arguments)
            return len(self.calls)

    pool = Listed()
    ahead = kernel_tuning.compiled_ahead(pool, CARD, table(tmp_path))  # type: ignore[arg-type]
    kernels = [
        tuple(launch.variant for launch in kernel_tuning.launches_of(*arguments))  # type: ignore[arg-type]
        for arguments in pool.calls
    ]
    assert len(set(kernels)) == len(kernels) > 6
    names = {variant[0] for variants in kernels for variant in variants}
    assert {"linear_kernel", "joined_kernel"} <= names  # too few rows for the other ways
    assert ahead[0]


def test_matrices_come_first() -> None:
    norm, one, many = ops.Norm(3, 40), ops.Matmul(1, 8, 8), ops.Matmul(8, 8, 8)
    assert kernel_tuning.in_order([norm, one, many]) == [many, one, norm]
