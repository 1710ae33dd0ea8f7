"""A server's front: points in one pass against the closed form one by one, and what is best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.cards.engines.card import load_engine_card
from calib.cards.engines.overheads import Overheads, load_overheads
from calib.estimates.serving.apart import apart
from calib.estimates.serving.front import Limits, judged, largest, pareto
from calib.estimates.serving.habits import HABITS
from calib.estimates.serving.kernels import Server, attention, by_token, timed
from calib.estimates.serving.points import Asked, Serving, points
from calib.estimates.serving.steady import Load, Steps, steady
from calib.estimates.stack.formats import Formats
from model.causal_lm import Llama, Qwen3Moe
from model.ops.grids import Sizes
from model.parallel import Layout

CARD, ENGINE = "h200", "vllm"
FP8 = Formats("fp8", "fp8", "bfloat16", "o")


def serving_of(engine: str = ENGINE) -> Serving:
    card = load_engine_card(CARD, engine)
    beside = load_overheads(engine)
    assert beside is not None
    return Serving(card, card.hardware.memory_bytes, HABITS[engine], beside)


def alone(server: Server, serving: Serving, batch: int, isl: int, osl: int) -> tuple[float, float]:
    """(tpot, ttft) of one point without a pipeline, each kernel asked for by itself."""
    beside, habits = serving.beside, serving.habits
    budget = max(habits.tokens - batch, 256)
    pieces = int(np.ceil(isl / budget))
    other = batch if habits.mixed else 0

    def step(count: int) -> float:
        found = timed([server.decode(count, round(isl + osl / 2))], serving.card)  # type: ignore[arg-type]
        told = found.parts["comm"]
        gpu = beside.on_card(found.seconds - told, told, found.launches)
        return float(beside.decode(gpu, beside.host(count))[0])

    def prompt(tokens: int) -> tuple[float, float]:
        found = timed([by_token(server.prompt(tokens))], serving.card)  # type: ignore[arg-type]
        return float(found.seconds[0]), float(found.launches[0])

    decode, half = step(batch), max(batch // 2, 1)
    whole, launches = prompt(round(isl / pieces) + other)
    whole -= prompt(other)[0] if other else 0.0
    seen = timed([attention(server.prompt(isl))], serving.card)  # type: ignore[arg-type]
    seconds = beside.prompts * (pieces * max(whole, 0.0) + float(seen.seconds[0]))
    together = max(batch / max(osl - 1, 1), 1.0)
    every = launches + float(seen.launches[0])
    seconds = max(seconds, pieces * (beside.eager * every - decode) / together)
    slope = (decode - step(half)) / max(batch - half, 1)
    found = steady(
        Steps(decode, seconds, slope, pieces, max(budget / isl, 1.0)), Load(batch, isl, osl)
    )
    return float(found.tpot), float(found.ttft * beside.queue + beside.front_token * isl)


@pytest.mark.parametrize(
    ("model", "layout", "engine"),
    [
        (Llama(), Layout(tp=1), "vllm"),
        (Llama(), Layout(tp=4, dp=2), "trtllm"),
        (Qwen3Moe(), Layout(tp=2, dp=2, ep=4), "sglang"),
    ],
    ids=["one card", "dense, two replicas", "experts"],
)
def test_points_are_the_closed_form_one_by_one(model, layout, engine) -> None:
    serving = serving_of(engine)
    server = Server(model, layout, Formats())
    rows = points([server], serving, Asked([1, 7, 64], [(300, 100), (20_000, 50)]))
    assert len(rows) >= 5
    for row in rows.to_dict("records"):
        batch = row["concurrency"] // layout.dp
        tpot, ttft = alone(server, serving, batch, row["isl"], row["osl"])
        assert row["tpot_s"] == pytest.approx(tpot, rel=1e-6)
        assert row["ttft_s"] == pytest.approx(ttft, rel=1e-6)
        assert row["tpot_low_s"] < row["tpot_s"] < row["tpot_high_s"]


def test_no_interval_reaches_below_a_reading_of_the_weights() -> None:
    """However wide kernels far from the tables make it."""
    serving = serving_of()
    wide = replace(serving, beside=replace(serving.beside, factor=50.0))
    for layout in (Layout(), Layout(tp=8)):
        server = Server(Llama(), layout, Formats())
        (row,) = points([server], wide, Asked([1], [(20_000, 50)])).to_dict("records")
        table = 128256 * 4096 * 2 / layout.tp  # of which a step reads a row
        read_s = (server.weight_bytes() - table) / serving.card.hardware.bandwidth
        assert read_s * 0.99 < row["tpot_low_s"] < row["tpot_s"]
        assert row["decode_low_s"] > read_s * 0.99


def test_many_layouts_at_once_are_each_alone() -> None:
    """Layouts that share kernels, and what they are asked together, change nothing."""
    serving, model = serving_of(), Llama()
    servers = [Server(model, Layout(tp, pp, 1, dp), FP8) for tp, pp, dp in PARTS]
    asked = Asked([1, 3, 50], [(128, 64), (1024, 64)])
    together = points(servers, serving, asked)
    apart = pd.concat([points([s], serving, asked) for s in servers])
    by = ["layout", "isl", "osl", "concurrency"]
    ordered = (rows.sort_values(by).reset_index(drop=True) for rows in (together, apart))
    pd.testing.assert_frame_equal(*ordered)


PARTS = ((1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 2, 2), (2, 1, 1))


def test_a_pipeline_is_no_faster_for_a_user_and_replicas_are_alike() -> None:
    serving, model = serving_of(), Llama()
    one, two, piped = (
        points([Server(model, layout, FP8)], serving, Asked([8], [(512, 256)])).iloc[0]
        for layout in (Layout(), Layout(dp=2), Layout(pp=2))
    )
    assert two["tpot_s"] == pytest.approx(one["tpot_s"])
    assert two["tokens_per_s_card"] == pytest.approx(one["tokens_per_s_card"])
    alone_s = points([Server(model, Layout(), FP8)], serving, Asked([1], [(512, 256)])).iloc[0]
    assert piped["tpot_s"] > 0.8 * alone_s["tpot_s"]
    assert piped["ttft_s"] > one["ttft_s"] * 0.9


def test_what_memory_does_not_hold_is_absent() -> None:
    serving = serving_of()
    small = replace(serving, memory_bytes=22e9)
    server = Server(Llama(), Layout(), Formats())
    batches = [2**i for i in range(12)]
    rows = points([server], small, Asked(batches, [(1000, 1000)]))
    most = (0.9 * 22e9 - 2e9 - server.weight_bytes()) / server.token_bytes()
    assert set(rows["concurrency"]) == {b for b in batches if b * 1500 <= most and most >= 2000}
    assert points([server], replace(serving, memory_bytes=16e9), Asked([1], [(10, 10)])).empty


def test_weights_of_all_cards_are_the_model() -> None:
    model = Qwen3Moe()
    one = Server(model, Layout(), Formats()).weight_bytes()
    assert one == pytest.approx(2 * model.parameters(), rel=1e-6)
    four = Server(model, Layout(tp=2, ep=4, dp=2), Formats()).weight_bytes()
    assert one / 4 < four < one / 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_front_is_what_none_beats(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    on = pareto(x, y)

    def beaten(i: int) -> bool:
        more = (x >= x[i]) & (y >= y[i])
        return bool((more & ((x > x[i]) | (y > y[i]))).any())

    best = {pairs[i] for i in range(len(pairs)) if not beaten(i)}
    assert {pairs[i] for i in np.flatnonzero(on)} == best
    assert on.sum() == len(best)


def test_limits_are_kept_and_tokens_cost() -> None:
    server = Server(Llama(), Layout(), FP8)
    rows = points([server], serving_of(), Asked(range(1, 400, 7), [(512, 256), (4096, 256)]))
    tpot, ttft = float(rows["tpot_s"].median()), float(rows["ttft_s"].median())
    found = judged(rows, Limits(tpot, ttft, 3.6))
    within = (rows["tpot_s"] <= tpot) & (rows["ttft_s"] <= ttft)
    assert (found["within"] == within).all() and within.any() and not within.all()
    assert not (found["front"] & ~found["within"]).any()
    assert found["cost_per_million"].to_numpy() == pytest.approx(
        1e3 / found["tokens_per_s_card"].to_numpy()
    )
    best = largest(found)
    for row in best.to_dict("records"):
        same = found[found["within"] & (found["isl"] == row["isl"])]
        assert row["concurrency"] == same["concurrency"].max()
    assert judged(rows, Limits())["cost_per_million"].isna().all()


def test_sizes_stand_for_a_number_where_layers_are_compared() -> None:
    one, two = Sizes.of([1, 2]), Sizes.of([1, 2])
    table = {one: 1}
    assert one in table and two not in table
    assert ((one * 2) == 4).tolist() == [False, True]


def test_what_ships_of_servers() -> None:
    for engine in ("vllm", "sglang", "trtllm"):
        found = load_overheads(engine)
        assert found is not None and 0.5 < found.kernels < 1.5 and found.factor > 0
    assert load_overheads("torch") is None
    assert Overheads().decode(0.01, 0.0) == pytest.approx(0.01)


def test_apart_nothing_stalls_a_token_and_no_card_is_overrun() -> None:
    serving, model = serving_of(), Llama()
    servers = [Server(model, Layout(tp, 1, 1, dp), FP8) for tp, dp in ((1, 1), (2, 1), (1, 2))]
    rows = points(servers, serving, Asked([1, 8, 64, 256], [(2048, 256)]))
    found = apart(rows, servers, serving, 4)
    assert len(found) and found["cards"].max() <= 4
    for row in found.to_dict("records"):
        prompts, decodes = (name.strip() for name in row["layout"].split("|"))
        mixed = rows[(rows["layout"] == decodes) & (rows["concurrency"] == row["concurrency"])]
        moved = row["tpot_s"] - float(mixed["decode_s"].iloc[0])
        assert 0 < moved * 255 < 0.1
        replicas = int(prompts.partition("dp=")[2] or 1)
        load = row["requests_per_s"] * row["prompt_s"] / replicas
        assert load < 1 and row["ttft_s"] >= row["prompt_s"] * (1 + load / (2 * (1 - load))) * 0.999
        assert row["tokens_per_s_card"] * row["cards"] == pytest.approx(row["requests_per_s"] * 256)
    assert apart(rows, servers, serving, 1).empty
