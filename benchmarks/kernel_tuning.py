"""The tiles and ways of our kernels timed by class of shapes on the card at hand, in a set time.

    python -m benchmarks.kernels --tune --budget 300 --out outputs/kernels
    python -m benchmarks.kernels --tune --again linear decode --out outputs/kernels

Every case of the benchmark asks which tile its class gets; what comes into question is compiled
ahead in processes, checked against the reference, and timed in turns (``kernels.configs.timing``).
After each class ``<out>/<architecture>.json`` is written: the table that ships once it is copied to
``kernels/configs/tiles``, with its source, the seconds of every contender and what the model would
have taken. A second call with the same card and versions goes on where the first ended, or where
the table ends that ships; ``--again`` times some classes once more, by the beginnings of their
names. A tile that took the card away from its process is not tried again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from math import exp, log
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.kernel_cases import Case, Run, cases, model_operators
from kernels.configs import timing, tuned
from kernels.configs.candidates import Tile
from kernels.configs.timing import Race
from kernels.configs.tuned import Question
from kernels.launch import Architecture, Launch, recorded
from model import ops

Clock = Callable[[Run], float]
Judge = Callable[[Run, Any], str]
"""Says why a run is wrong beside its reference, or nothing."""
COMMAND = "python -m benchmarks.kernels --tune"


def in_order(operators: Iterable[ops.Operator]) -> list[ops.Operator]:
    """The widest gap first (``docs/gpu.md``), so that a short loan leaves out the end."""
    kinds = (ops.Matmul, ops.Attention, ops.Norm, ops.Conv2d)

    def place(op: ops.Operator) -> tuple[int, bool]:
        place = next((i for i, kind in enumerate(kinds) if isinstance(op, kind)), len(kinds))
        return place, isinstance(op, ops.Matmul) and op.m == 1

    return sorted(operators, key=place)


@dataclass
class Table:
    """What ships, and what it was chosen from, by class."""

    path: Path
    source: dict[str, str]
    tiles: dict[str, Tile] = field(default_factory=dict)
    raced: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    """Tiles that took the card away, by class."""
    trying: tuple[str, str] | None = None
    left: list[str] = field(default_factory=list)
    earlier: dict[str, Tile] = field(default_factory=dict)
    """Choices that stand until their classes, which are timed again, have had their turn."""

    def store(self) -> None:
        tiles = self.earlier | self.tiles
        record = {"source": self.source, "tiles": tiles, "raced": self.raced}
        tuned.store(self.path, record | {"lost": self.lost, "trying": self.trying})

    def add(self, case: Case, race: Race, model: Tile) -> None:
        key = race.question.key
        self.tiles[key] = race.best
        self.raced[key] = {
            "shape": f"{case.kind} {case.shape}",
            "model": str(model),
            "seconds": {str(tile): race.median(tile) for tile in race.seconds},
            "refused": {str(tile): why for tile, why in race.refused.items()},
        }
        self.store()


def source_of(architecture: Architecture) -> dict[str, str]:
    return {
        "card": architecture.card,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "command": COMMAND,
    }


def resumed(path: Path, source: dict[str, str], again: Sequence[str] = ()) -> Table:
    """The table of an earlier call on the same card with the same versions, or else the one that
    ships if that was so, or an empty one; the choices of classes to be timed ``again`` apart."""
    table = Table(path, source)
    for earlier in (path, tuned.SHIPPED / path.name):
        record = json.loads(earlier.read_text("utf-8")) if earlier.exists() else {}
        was = record.get("source", {})
        if all(was.get(key) == source[key] for key in ("card", "triton", "torch")):
            table.tiles, table.raced = tuned.read(earlier), record["raced"]
            table.lost = record["lost"]
            if record["trying"]:
                key, tile = record["trying"]
                table.lost.setdefault(key, []).append(tile)
            break
    table.earlier = {k: t for k, t in table.tiles.items() if k.startswith(tuple(again))}
    table.tiles = {k: t for k, t in table.tiles.items() if k not in table.earlier}
    return table


def contest(
    device: str,
    clock: Clock,
    judge: Judge,
    architecture: Architecture,
    table: Table,
    budget_s: float,
    pool: Executor | None = None,
    now: Callable[[], float] = time.monotonic,
    recover: Callable[[], None] = lambda: None,
) -> Table:
    """Fill ``table`` in the order of :func:`in_order` until ``budget_s`` are over.

    ``recover`` raises ``DeviceLost`` where the card no longer answers; it is asked after a tile
    that failed, and ``table`` then holds on disk which one it was.
    """
    start = now()
    mine = tuned.choices(architecture.card)
    mine.clear()  # an earlier tuning may not have known all of today's contenders
    mine.update(table.tiles)
    ahead = compiled_ahead(pool, architecture, table) if pool else {}
    for i, case in enumerate(cases(in_order(model_operators()), device)):
        if now() - start > budget_s:
            table.left.append(f"{case.kind} {case.shape}")
            continue
        for future in ahead.get(i, ()):
            future.exception()  # waits; what was refused is refused again, and told
        hold(case, clock, judge, table, recover)
    return table


def hold(case: Case, clock: Clock, judge: Judge, table: Table, recover: Callable[[], None]) -> None:
    """The races of one case, if its classes have no choice yet."""
    asked = [q for q in timing.questions_of(case.ours) if q.key not in table.tiles]
    if not asked:
        return
    reference = case.reference()

    def check(question: Question, tile: Tile) -> str:
        if str(tile) in table.lost.get(question.key, ()):
            return "took the card away from its process"
        table.trying = (question.key, str(tile))
        table.store()
        why = judge(case.ours, reference)
        if why:
            recover()
        table.trying = None
        return why

    models = {q.key: q.untuned for q in asked}
    for race in timing.tune(case.ours, clock, check=check):
        table.add(case, race, models[race.question.key])


@cache
def without_memory(architecture: Architecture) -> list[Case]:
    """The cases on torch's ``meta`` device, once a process."""
    with recorded(architecture):
        return list(cases(in_order(model_operators()), "meta"))


def launches_of(index: int, key: str, tile: Tile, architecture: Architecture) -> list[Launch]:
    """What a case launches where a class gets this tile."""
    case = without_memory(architecture)[index]
    with recorded(architecture) as launches, tuned.forced(key, tile):
        case.ours()
    return [launch for launch in launches if all(launch.grid)]


def compile_one(index: int, key: str, tile: Tile, architecture: Architecture) -> int:
    """In a worker: into triton's cache on disk, which the process that times reads."""
    from kernels.resources import compile_for

    launches = launches_of(index, key, tile, architecture)
    for launch in launches:
        compile_for(launch, architecture)
    return len(launches)


def compiled_ahead(
    pool: Executor, architecture: Architecture, table: Table
) -> dict[int, list[Future[int]]]:
    """The compilations of each case, those that an earlier one has in hand among them."""
    begun: dict[Any, Future[int]] = {}
    ahead: dict[int, list[Future[int]]] = {}
    for i, case in enumerate(without_memory(architecture)):
        with recorded(architecture):
            asked = timing.questions_of(case.ours)
        for question in asked:
            for tile in question.tiles if question.key not in table.tiles else ():
                launches = launches_of(i, question.key, tile, architecture)
                what = tuple(launch.variant for launch in launches)
                if what not in begun:
                    begun[what] = pool.submit(compile_one, i, question.key, tile, architecture)
                ahead.setdefault(i, []).append(begun[what])
    return ahead


def gains(table: Table) -> str:
    """A line a kernel: how many classes, what the model's tile took over what the best one takes,
    and which ways won."""
    lines = ["| kernel | classes | model over best | best is |", "|---|---|---|---|"]

    def kernel(key: str) -> str:
        return key.rpartition(" ")[0]

    for name, keys in groupby(sorted(table.tiles, key=kernel), kernel):
        ratios, best = [], []
        for key in keys:
            seconds = table.raced[key]["seconds"]
            chosen = str(table.tiles[key])
            best.append(table.tiles[key].way or "plain")
            if table.raced[key]["model"] in seconds:
                ratios.append(seconds[table.raced[key]["model"]] / seconds[chosen])
        mean = exp(sum(map(log, ratios)) / len(ratios)) if ratios else float("nan")
        counts = ", ".join(f"{way}: {best.count(way)}" for way in dict.fromkeys(best))
        lines.append(f"| {name} | {len(best)} | {mean:.2f} | {counts} |")
    return "\n".join(lines) + f"\n{len(table.left)} shapes left for want of time\n"


def tune_card(
    clock: Clock, judge: Judge, out: Path, budget_s: float, again: Sequence[str] = ()
) -> Table:
    """On the current card, compiling in as many processes as it has cores to spare."""
    from calib.measure.cuda.ahead import processes
    from calib.measure.cuda.stream import TorchStream
    from kernels.launch import described

    architecture = described(torch.device("cuda", torch.cuda.current_device()))
    table = resumed(out / f"{architecture.name}.json", source_of(architecture), again)
    recover = TorchStream("cuda", 0).recover
    pool = processes()
    try:
        contest("cuda", clock, judge, architecture, table, budget_s, pool, recover=recover)
    finally:
        pool.shutdown(cancel_futures=True)
    table.store()
    sys.stdout.write(gains(table) + f"{table.path}: copy it to kernels/configs/tiles to ship it\n")
    return table
