"""Products of narrow factors on a card: timed as they are, by wider ones, and what lies beside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.card import Card
from calib.cards.shipped import load_card
from calib.cards.tables.figures import Figures
from calib.cards.tables.stand_ins import ANOTHER_KERNEL
from calib.fit.calibration import TRANSFERRED
from calib.fit.fitting import fit
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from model.ops import REST, GroupedMatmul, Matmul, MoeMlp, Operator, Other, grid

H200 = load_hardware("h200")
FLOAT8 = {"dtype": "float8_e4m3fn", "out_dtype": "bfloat16"}


def sample(op: Operator, implementation: str, share: float) -> Sample:
    seconds = 3e-6 + float(floor(op, H200)) / share
    return Sample(op, (seconds,), "h200", implementation, cache="hot")


@pytest.fixture(scope="module")
def figures() -> Figures:
    """Plain products reach 80% of both peaks, those of float8 40%, expert layers 50%."""
    rng, samples = np.random.default_rng(3), []
    for m, n, k in np.exp(rng.uniform(np.log(16), np.log(8192), (60, 3))).astype(int).tolist():
        samples.append(sample(Matmul(m, n, k), "vllm", 0.8))
        samples.append(sample(Matmul(m, n, k, **FLOAT8), "vllm/cutlass_scaled_mm", 0.4))
    for tokens in np.geomspace(1, 4096, 24).astype(int).tolist():
        for hidden in (1024, 4096):
            samples.append(sample(MoeMlp(tokens, 16, 2, hidden, 1024), "vllm/triton_experts", 0.5))
    disagree = {"matmul float8_e4m3fn": 0.5}
    return Figures("h200", fit(samples, H200).kinds, {}, disagree, {})


def test_engines_float8_is_their_table_and_torchs_a_product_of_as_many_bytes(
    figures: Figures,
) -> None:
    """Tables hold what makes the activations narrow besides; for torch that is another kernel."""
    op = Matmul(2000, 2000, 2000, **FLOAT8)
    card = Card(H200, figures)
    of_engine, of_kernel = (
        card.estimate([op], name).iloc[0] for name in ("vllm", "vllm/cutlass_scaled_mm")
    )
    assert of_engine["estimate_s"] == of_kernel["estimate_s"]
    row, half = card.estimate([op, Matmul(2000, 2000, 1000)]).to_dict("records")
    assert row["estimate_s"] == pytest.approx(half["estimate_s"], rel=0.02)
    assert of_engine["estimate_s"] > 1.3 * row["estimate_s"]
    assert row["provenance"] == TRANSFERRED
    assert row["high_s"] / row["estimate_s"] >= np.exp(ANOTHER_KERNEL)


def test_a_float8_product_does_not_say_what_it_is_written_in(figures: Figures) -> None:
    card = Card(H200, figures)
    ops = [Matmul(300, 300, 300, **FLOAT8), Matmul(300, 300, 300, dtype="float8_e4m3fn")]
    first, second = card.estimate(ops)["estimate_s"]
    assert first == pytest.approx(second, rel=0.05)


def test_narrow_experts_without_a_table_are_those_of_bfloat16_by_the_floors(
    figures: Figures,
) -> None:
    card = Card(H200, figures)
    wide, narrow = MoeMlp(64, 16, 2, 4096, 1024), MoeMlp(64, 16, 2, 4096, 1024, "float8_e4m3fn")
    table = card.estimate([wide, narrow])
    ratio = float(floor(narrow, H200)) / float(floor(wide, H200))
    assert table["estimate_s"][1] == pytest.approx(ratio * table["estimate_s"][0])
    assert table["provenance"][1] == TRANSFERRED
    assert table["high_s"][1] / table["estimate_s"][1] >= np.exp(ANOTHER_KERNEL)
    of_experts = [GroupedMatmul(64, 16, 2, 2048, 4096, **more) for more in ({}, FLOAT8)]
    wide_s, narrow_s = card.estimate(of_experts)["estimate_s"]
    assert narrow_s < 0.6 * wide_s


def test_what_lies_beside_a_product_has_no_launch(figures: Figures) -> None:
    row = Card(H200, figures).estimate([Other(REST, 4800)]).iloc[0]
    assert row["estimate_s"] == pytest.approx(4800 / H200.bandwidth)
    assert row["low_s"] < row["estimate_s"] < row["high_s"]


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "int8", "float8_e4m3fn"])
@pytest.mark.parametrize(("card", "m"), [("a100", 1), ("b200", 4096)])
def test_every_narrow_type_has_a_time_on_every_card(dtype: str, card: str, m: int) -> None:
    """An A100 gains by fewer bytes alone."""
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    ops = [Matmul(m, 8192, 8192, dtype=d, out_dtype="bfloat16") for d in ("bfloat16", dtype)]
    wide, narrow = shipped.estimate(ops, hot=False)["estimate_s"]
    assert 0 < narrow < wide


REFUSED = [("float8_e4m3fn", "a100"), ("float8_e5m2", "rtx3090"), ("float4_e2m1fn", "h100")]


@pytest.mark.parametrize(("dtype", "name"), REFUSED)
@pytest.mark.parametrize("like", [Matmul(64, 512, 512), GroupedMatmul(64, 8, 2, 512, 512)])
def test_what_torch_refuses_on_a_card_is_its_roofline(
    dtype: str, name: str, like: Matmul | GroupedMatmul
) -> None:
    """As any product is that a card has no units for: no time of another kernel, no interval."""
    card = load_card(load_hardware(name))
    assert card is not None
    plain, op = Matmul(64, 512, 512), replace(like, dtype=dtype)
    found, alone = card.estimate([plain, op]), card.estimate([plain])
    assert list(found["provenance"]) == [alone["provenance"][0], "roofline"]
    assert found["estimate_s"][1] == floor(op, card.hardware)
    assert np.isnan(found["high_s"][1])
    assert found["estimate_s"][0] == alone["estimate_s"][0]
    assert (card.estimate(grid(Matmul, m=[8, 64], n=9, k=9, dtype=dtype))["high_s"].isna()).all()


@pytest.mark.parametrize("name", ["l4", "h100", "b200"])
def test_what_it_does_not_refuse_is_told(name: str) -> None:
    card = load_card(load_hardware(name))
    assert card is not None
    assert "roofline" not in set(card.estimate([Matmul(64, 512, 512, **FLOAT8)])["provenance"])
