"""Products by CUDA 12.9: what tables of them tell, and what of all else nobody does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.older_products import rows_of
from calib.cards.asked import OTHER_WAY
from calib.cards.build.older_products import fit_products, products_cards, read_products
from calib.cards.older.shipped import about_older, load_torch
from calib.fit.calibration import TRANSFERRED
from calib.hardware.datasheet import load_hardware
from calib.hardware.versions import is_older, tells_products
from calib.steps.notes import cuda_notes
from model import ops

SMALL, LARGE = ops.Matmul(64, 1024, 1024), ops.Matmul(8192, 8192, 8192)
OTHERS = [ops.Attention(1, 4096, 4096, 16, 16, 128), ops.Norm(5000, 1024, "layernorm")]


def said(name: str, cuda: str | None, some: list[ops.Operator]) -> np.ndarray:
    """[3, n] seconds and the ends of the interval."""
    estimator = load_torch(replace(load_hardware(name), cuda=cuda))
    assert estimator is not None
    found = estimator.estimates(some, "torch")
    return np.array([found.seconds, found.low, found.high])


@pytest.mark.parametrize(
    ("cuda", "told"),
    [(None, False), ("12.4", False), ("12.7", False), ("12.8", True), ("12.9", True)]
    + [("12.10", False), ("13.0", False)],
)
def test_which_cuda_tells_of_products(cuda: str | None, told: bool) -> None:
    assert tells_products(cuda) == told
    assert not (told and is_older(cuda))


def test_a_start_is_found_whatever_else_is_noise() -> None:
    rng = np.random.default_rng(0)
    newer = np.exp(rng.uniform(np.log(2e-6), np.log(1e-3), 2000))
    older = (newer + 1.3e-6) * np.exp(rng.normal(0, 0.04, 2000))
    rows = read_products().head(2000).assign(newer=newer, older=older)
    record = fit_products("b200", rows)
    assert record.start == pytest.approx(1.3e-6, rel=0.05)
    assert record.spread == pytest.approx(1.645 * 0.04, rel=0.1)


def test_halves_share_no_group() -> None:
    table = read_products()
    assert products_cards() == ["b200", "gb200", "h100", "h200", "l40s"]
    groups = [set(zip(t["n"], t["k"], strict=True)) for _, t in table.groupby("is_learned")]
    assert not groups[0] & groups[1] and min(map(len, groups)) > 200


def test_the_half_that_told_nothing_is_told() -> None:
    found = {row["rows"]: row for row in rows_of(read_products())}
    for card, before in (("b200", 0.09), ("gb200", 0.11)):
        assert found[card]["today"]["median"] > before and found[card]["12.9"]["median"] < 0.045
    for card in ("b200", "gb200", "h100", "h200", "l40s"):
        assert found[card]["12.9"]["held"] > 0.9
        assert abs(found[card]["12.9"]["late_s"]) < 0.5e-6


@pytest.mark.parametrize("cuda", ["12.8", "12.9"])
def test_a_b200s_products_are_a_start_later_and_nothing_else_is(cuda: str) -> None:
    today, older = (said("b200", c, [SMALL, LARGE]) for c in (None, cuda))
    np.testing.assert_allclose((older - today)[0], 0.86e-6, atol=1e-8)
    assert np.all(older[2] / older[1] > today[2] / today[1] * 0.9)
    np.testing.assert_array_equal(said("b200", None, OTHERS), said("b200", cuda, OTHERS))


def test_outside_the_matrix_units_nothing_is_known() -> None:
    scalar = [replace(SMALL, dtype="float32")]
    np.testing.assert_array_equal(said("b200", None, scalar), said("b200", "12.9", scalar))


def test_a_list_of_both_and_a_grid() -> None:
    estimator = load_torch(replace(load_hardware("b200"), cuda="12.9"))
    assert estimator is not None
    mixed = estimator.estimates([OTHERS[0], SMALL, OTHERS[1]], "torch")
    assert mixed.known_as[1] == TRANSFERRED
    sizes = np.array([64, 8192])
    grid = estimator.estimates(ops.Matmul(sizes, sizes, sizes), "torch")
    listed = estimator.estimates([ops.Matmul(int(n), int(n), int(n)) for n in sizes], "torch")
    np.testing.assert_allclose(grid.seconds, listed.seconds)
    np.testing.assert_allclose(mixed.seconds[1], said("b200", "12.9", [SMALL])[0, 0])


def test_what_a_run_says_of_it() -> None:
    def note(name: str, cuda: str) -> str:
        return " ".join(cuda_notes(replace(load_hardware(name), cuda=cuda)))

    assert "0.9 microseconds longer each than by 13" in note("b200", "12.9")
    assert "nearest known" in note("b200", "12.8") and "nearest" not in note("b200", "12.9")
    assert "as long as by 13" in note("h800", "12.8") and "tables of h100" in note("h800", "12.8")
    assert "of whose kernels nothing is known" in note("h100", "12.6")
    assert "of whose kernels nothing is known" in note("rtx5090", "12.9")
    assert about_older(replace(load_hardware("rtx5090"), cuda="12.9")) is None


def test_tf32_may_take_longer_where_units_read_along_the_depth_alone() -> None:
    """A linear layer is told; of the other layout only the upper end knows."""
    cut = replace(LARGE, dtype="tf32")
    for name, more in (("h100", True), ("h200", True), ("b200", False), ("a100", False)):
        (seconds,), (low,), (high,) = said(name, None, [cut])
        below, above = np.log(seconds / low), np.log(high / seconds)
        assert above == pytest.approx(np.hypot(below, OTHER_WAY) if more else below, rel=0.02)
    plain = said("h100", None, [LARGE])[:, 0]
    assert plain[2] / plain[0] == pytest.approx(plain[0] / plain[1], rel=0.02)
