"""How a table's kernel becomes an operator of torch's."""

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.card import Card
from calib.cards.corrected import Carried, Taught
from calib.cards.correcting import correct
from calib.cards.shipped import load_card
from calib.cards.stored import StoredError, read_record, write_record
from calib.cards.tables.cold import Caches, fit_caches, hot_to_cold, resident_bytes
from calib.cards.tables.figures import Figures
from calib.cards.tables.stand_ins import stand_in
from calib.fit.fitting import fit
from calib.hardware.datasheet import floor, load_hardware
from calib.hardware.device import clocked, published_clock_ratio
from calib.samples.sample import Sample
from model import ops

H200, L40S = load_hardware("h200"), load_hardware("l40s")


@pytest.fixture(scope="module")
def figures():
    """A made-up H200: 3 microseconds and 80% of both peaks, for products and pointwise kernels."""
    rng, samples = np.random.default_rng(3), []
    for m, n, k in np.exp(rng.uniform(np.log(16), np.log(8192), (60, 3))).astype(int):
        work = ops.Matmul(int(m), int(n), int(k))
        samples.append(sample(work, "vllm"))
    for elements in np.geomspace(64, 1e9, 40).astype(int):
        work = ops.Elementwise(int(elements), out_dtype="float8_e4m3fn")
        samples.append(sample(work, "vllm/static_scaled_fp8_quant"))
    caches = {"matmul": Caches(0.8, 20.0, 1 / 6)}
    return Figures("h200", fit(samples, H200).kinds, caches, {"matmul": 0.1}, {})


def sample(op, implementation):
    seconds = 3e-6 + float(floor(op, H200)) / 0.8
    return Sample(op, [seconds], "h200", implementation, cache="hot")


@pytest.fixture(scope="module")
def card(figures):
    return Card(H200, figures, {"summary": "made up"})


def test_a_product_keeps_its_provenance_and_everything_else_is_transferred(card):
    table = card.estimate(
        [ops.Matmul(500, 500, 500), ops.Norm(64, 64), ops.Matmul(500, 500, 500, 2)]
    )
    assert list(table["provenance"]) == ["interpolated", "transferred", "transferred"]


def test_the_engines_disagreement_widens_the_interval(card, figures):
    op = [ops.Matmul(500, 500, 500)]
    narrow = Card(H200, replace(figures, disagreement={})).estimate(op).iloc[0]
    wide = card.estimate(op).iloc[0]
    assert wide["estimate_s"] == narrow["estimate_s"]
    half = [np.log(t["high_s"] / t["estimate_s"]) for t in (narrow, wide)]
    assert half[1] == pytest.approx(np.hypot(half[0], 0.1))


def test_a_kind_without_a_table_is_the_roofline(card):
    row = card.estimate([ops.Attention(1, 64, 64, 8, 8, 64)]).iloc[0]
    assert row["provenance"] == "roofline" and row["estimate_s"] == row["floor_s"]
    assert np.isnan(row["high_s"])
    assert card.estimate([ops.Matmul(8, 8, 8)], "triton").iloc[0]["provenance"] == "roofline"


def test_an_engine_is_asked_by_its_own_name(card):
    table = card.estimate([ops.Matmul(500, 500, 500)], "vllm")
    assert table.iloc[0]["provenance"] == "interpolated"


def test_a_grid_equals_a_list(card):
    grid = ops.grid(ops.Norm, rows=[1, 64, 999], cols=512, kind="layernorm")
    gridded, listed = card.estimate(grid), card.estimate(list(ops.grid_points(grid)))
    np.testing.assert_allclose(gridded["estimate_s"], listed["estimate_s"])
    assert list(gridded["provenance"]) == list(listed["provenance"])


def test_streams_of_as_many_bytes_take_as_long(card):
    same = [ops.Copy(30_000), ops.Softmax(100, 300), ops.Elementwise(30_000)]
    seconds = card.estimate(same)["estimate_s"].to_numpy()
    np.testing.assert_allclose(seconds, seconds[0], rtol=1e-9)


def test_an_rmsnorm_is_the_eight_kernels_that_models_start():
    parts = stand_in(ops.Norm(1000, 128)).ops
    assert len(parts) == 8
    moved = sum(p.bytes for p in parts)
    by_hand = 1000 * 128 * (6 + 8 + 4 + 8 + 6 + 4) + 2 * 1000 * 8
    assert moved == pytest.approx(by_hand, abs=3 * 8)
    assert len(stand_in(ops.Norm(10, 128, kind="layernorm")).ops) == 1


def test_the_smallest_kernels_take_a_latency_and_no_more(card):
    tiny = [ops.Elementwise(1), ops.Other("scatter", written=8, dtype="int64"), ops.Elementwise(40)]
    table = card.estimate(tiny)
    assert table["estimate_s"].nunique() == 1
    assert (table["high_s"] < 4 * table["estimate_s"]).all()


def test_a_product_of_another_dtype_stands_on_equal_floors():
    op = ops.Matmul(256, 512, 1024, dtype="tf32")
    (twin,) = stand_in(op).ops
    assert twin == ops.Matmul(256, 512, 2048)
    assert float(twin.flops) / H200.peak_flops["bfloat16"] == pytest.approx(
        float(op.flops) / H200.peak_flops["tf32"]
    )


@pytest.mark.parametrize("m, n, k", [(8205, 5921, 2949), (343, 163, 14720), (64, 1, 3)])
def test_rows_of_float32_that_are_no_whole_loads_slow_no_core(m, n, k):
    made = stand_in(ops.Matmul(m, n, k, dtype="float32"))
    (twin,) = made.ops
    assert twin.n % 8 == twin.k % 8 == 0 and n <= twin.n < n + 8 and k <= twin.k / 2 < k + 4
    assert made.scale(ops.Matmul(m, n, k, dtype="float32"), H200) == pytest.approx(
        made.scale(ops.Matmul(m, twin.n, twin.k // 2, dtype="float32"), H200)
    )
    grid = stand_in(ops.grid(ops.Matmul, m=[m, 1], n=[n, n], k=[k, k], dtype="float32"))
    assert grid.ops[0].n.tolist() == [twin.n, n]


def test_a_convolution_is_its_implicit_product():
    op = ops.Conv2d(2, 32, 64, 28, 28, kernel=3, padding=1)
    (twin,) = stand_in(op).ops
    assert twin.flops == op.flops and (twin.n, twin.k) == (64, 32 * 9)


def test_a_grouped_product_has_its_share_of_the_layer():
    op = ops.GroupedMatmul(1, 64, 6, 1792, 1280)
    made = stand_in(op)
    (layer,) = made.ops
    assert layer.flops * 2 / 3 == op.flops
    assert made.scale(op, H200) == pytest.approx(2 / 3, rel=0.01)


CACHES = Caches(cold_share=0.8, hot_per_clock=5.0, resident_share=1 / 6)
"""On an L40S: 0.6912 TB/s from memory, 1.789 TB/s from the L2, 16 MiB of it for one operator."""


def test_hot_to_cold_by_hand():
    op = ops.Matmul(1, 1024, 1024)  # 2 MiB of weights, memory bound
    weights = 2 * 1024 * 1024
    missing = weights * (1 / (0.8 * 864e9) - 1 / (5.0 * 2.52e9 * 142))
    assert CACHES.missing_seconds(op, L40S) == pytest.approx(missing)
    ends = [np.array([s]) for s in (4e-6, 3e-6, 5e-6)]
    seconds, low, high = hot_to_cold(*ends, op, L40S, CACHES)
    assert seconds[0] == pytest.approx(4e-6 + missing, rel=1e-2)
    assert low[0] == 3e-6 and high[0] == pytest.approx(5e-6 + missing)


def test_what_does_not_fit_is_cold_already():
    assert CACHES.missing_seconds(ops.Matmul(1, 8192, 8192), L40S) == 0.0
    slow = replace(CACHES, hot_per_clock=1.0)
    assert slow.missing_seconds(ops.Matmul(1, 1024, 1024), L40S) == 0.0
    assert resident_bytes(ops.Copy(100), 1e3) == 200  # no weights: the input,
    assert resident_bytes(ops.Copy(100), 399) == 0  # where input and output fit


def test_compute_hides_what_memory_misses():
    def added(m):
        hot = np.ones(1)
        return hot_to_cold(hot, hot, hot, ops.Matmul(m, 2800, 2800), L40S, CACHES)[0][0] - 1

    assert 0 < added(65536) < 0.3 * added(1)


def test_caches_are_read_off_a_table_with_a_known_law():
    bytes_, hot_rate, cold_rate = np.geomspace(2**14, 2**31, 120), 2e12, 0.6e12
    grid = ops.grid(ops.Matmul, m=1, n=np.maximum(bytes_ / 2 / 512, 1).astype(int), k=512)
    weights = np.asarray(grid.weight_bytes_read)
    rate = np.where(weights <= L40S.l2_bytes / 6, hot_rate, cold_rate)
    found = fit_caches(grid, 2e-6 + np.asarray(grid.bytes) / rate, L40S, 1 / 6)
    assert found.cold_share == pytest.approx(cold_rate / L40S.bandwidth, rel=0.05)
    assert found.hot_per_clock == pytest.approx(hot_rate / (2.52e9 * 142), rel=0.05)
    few = ops.grid(ops.Matmul, m=1, n=[8, 16], k=512)
    assert fit_caches(few, np.ones(2), L40S, 1 / 6) is None


def test_a_cold_product_is_slower_than_a_replayed_one(card):
    op = [ops.Matmul(1, 1280, 1280)]
    hot, cold = (card.estimate(op, hot=h).iloc[0] for h in (True, False))
    missing = float(card.figures.caches["matmul"].missing_seconds(op[0], H200))
    assert cold["estimate_s"] - hot["estimate_s"] == pytest.approx(missing, rel=0.01)
    assert missing > 0


def test_a_card_clocks_above_its_rating_where_a_ceiling_is_published():
    hardware = load_hardware("rtx5090")
    ratio = published_clock_ratio(hardware)
    assert ratio == pytest.approx(254.0 / 209.5)
    assert clocked(hardware, ratio).peak_flops["bfloat16"] == pytest.approx(254e12)
    assert clocked(hardware, ratio).bandwidth == hardware.bandwidth
    assert published_clock_ratio(load_hardware("rtx4090")) == 1.0
    assert published_clock_ratio(H200) == 1.0  # what one card reached is no ceiling


def test_the_engine_is_asked_of_kinds_that_it_has_no_table_of(card, figures):
    """By its own name its interval is not widened by how engines differ."""
    asked = [ops.Norm(64, 64)]
    torch, vllm = (card.estimate(asked, name).iloc[0] for name in ("torch", "vllm"))
    assert vllm["provenance"] == "transferred" and vllm["estimate_s"] == torch["estimate_s"]
    wide = Card(H200, replace(figures, disagreement={"elementwise": 1.0}))
    assert wide.estimate(asked, "vllm").iloc[0]["high_s"] == vllm["high_s"]
    assert wide.estimate(asked).iloc[0]["high_s"] > vllm["high_s"]


def test_torchs_samples_of_one_card_correct_another(card, figures):
    """Twice the table's time on an H200: a share of it on an L40S, and wider."""
    shapes = [ops.Matmul(2**i, 512, 2**j) for i in range(5, 11) for j in range(6, 9)]
    noise = np.exp(np.random.default_rng(1).normal(0, 0.02, len(shapes)))
    seconds = card.estimate(shapes, hot=False)["estimate_s"] * 2 * noise
    timed = [Sample(op, [s], "h200", "torch") for op, s in zip(shapes, seconds, strict=True)]
    own = fit(timed, H200)
    over = correct(card, own, timed)
    taught = Taught("h200", own.kinds, over.blends, {("", "matmul"): Carried(0.5, 0.3)})
    here, there = (
        Card(device, figures, taught=taught).estimate(shapes, hot=False) for device in (H200, L40S)
    )
    assert np.median(here["estimate_s"] / card.estimate(shapes, hot=False)["estimate_s"]) > 1.8
    plain = Card(L40S, figures).estimate(shapes, hot=False)
    assert 1.1 < np.median(there["estimate_s"] / plain["estimate_s"]) < 2.2
    width = [np.median(np.log(t["high_s"] / t["low_s"])) for t in (here, there)]
    assert width[1] > 2 * width[0]
    assert set(there["provenance"]) <= {"transferred", "interpolated", "extrapolated"}


def test_a_broken_card_or_one_of_another_name_is_one_error(tmp_path, figures):
    path = write_record(tmp_path / "h200.npz", figures)
    with pytest.raises(StoredError, match=r"h200\.json is no data card"):
        load_card(H200, tmp_path)
    (tmp_path / "h200.json").write_text('{"summary": "made up"}')
    assert load_card(H200, tmp_path).figures.disagreement == {"matmul": 0.1}
    path.rename(tmp_path / "l40s.npz")
    with pytest.raises(StoredError, match="is of 'h200': expected 'l40s'"):
        load_card(L40S, tmp_path)
    path.write_bytes(b"PK cut short")
    with pytest.raises(StoredError, match="not a whole record"):
        load_card(H200, tmp_path)


def test_storing_changes_no_estimate(tmp_path, figures, card):
    back = read_record(write_record(tmp_path / "h200.npz", figures), Figures)
    some = [ops.Matmul(64, n, 1280, bias=True) for n in (16, 300, 9000)] + [ops.Norm(64, 1280)]
    before, after = (c.estimate(some) for c in (card, Card(H200, back)))
    np.testing.assert_allclose(after["estimate_s"], before["estimate_s"], rtol=1e-3)
    np.testing.assert_allclose(after["high_s"], before["high_s"], rtol=1e-2)


def test_what_touches_no_byte_starts_no_kernel() -> None:
    """An empty cache is cast and joined without one."""
    card = load_card(load_hardware("h200"))
    assert card is not None
    asked = [ops.Other("_to_copy"), ops.Other("empty"), ops.Other("zeros", written=64)]
    nothing, empty, zeros = card.estimate(asked, "torch")["estimate_s"]
    assert max(nothing, empty) < 1e-8 and zeros > 1e-7
