"""torch by an older CUDA: what traces of one card tell, there and on its like."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from benchmarks.older_torch import CARD, TRACES, by_models, read_traces, samples_of
from calib.cards.build.older_samples import FILE
from calib.cards.older.shipped import about_older, load_torch, teacher_of
from calib.cards.shipped import FOLDER, load_card
from calib.fit.calibration import TRANSFERRED
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import cuda_version, is_older
from calib.samples.files import read_samples
from model import ops

SMALL = ops.Matmul(200, 768, 768, bias=True)
LONG = ops.Attention(1, 8192, 8192, 16, 16, 128)
SHAPES = [SMALL, LONG, ops.Norm(5000, 1024, "layernorm"), ops.Elementwise(5_000_000, inputs=2)]


def hardware(name: str, cuda: str | None = "12.4") -> Hardware:
    return replace(load_hardware(name), cuda=cuda)


def seconds(of: Hardware, shapes: list[ops.Operator] = SHAPES) -> np.ndarray:
    estimator = load_torch(of)
    assert estimator is not None
    return estimator.estimate(shapes, "torch")["estimate_s"].to_numpy()


@pytest.mark.parametrize(
    ("cuda", "older"), [(None, False), ("12.4", True), ("11.8", True), ("12.8", False)]
)
def test_which_cuda_is_older(cuda: str | None, older: bool) -> None:
    assert is_older(cuda) == older


@pytest.mark.parametrize("cuda", ["12", "twelve", "12.4.1", "", "-1.0", "12.4 "])
def test_what_is_no_version(cuda: str) -> None:
    with pytest.raises(ValueError, match="version of CUDA"):
        cuda_version(cuda)


@pytest.mark.parametrize("cuda", [None, "12.6", "13.0", "13.1"])
def test_any_other_cuda_is_what_ships(cuda: str | None) -> None:
    card = load_card(load_hardware(CARD))
    assert card is not None
    known = card.estimate(SHAPES, "torch")["estimate_s"].to_numpy()
    np.testing.assert_array_equal(seconds(hardware(CARD, cuda)), known)


def test_small_products_and_attention_take_longer() -> None:
    older, today = seconds(hardware(CARD)), seconds(hardware(CARD, None))
    assert older[0] > 1.3 * today[0]
    assert older[1] > 1.4 * today[1]
    np.testing.assert_allclose(older[2:], today[2:], rtol=0.15)


def test_kernels_that_both_take_and_halves_of_one_rate() -> None:
    """float32's attention is the same kernel by both; float16's products are as bfloat16's."""
    whole = replace(LONG, dtype="float32")
    known = seconds(hardware(CARD, None), [whole])
    np.testing.assert_array_equal(seconds(hardware(CARD), [whole]), known)
    half = [replace(op, dtype="float16") for op in (SMALL, LONG)]
    np.testing.assert_array_equal(
        seconds(hardware(CARD), half), seconds(hardware(CARD), SHAPES[:2])
    )


def test_what_small_products_showed_is_no_factor_of_large_ones() -> None:
    large = [ops.Matmul(4, 128_256, 4096), ops.Matmul(8192, 8192, 8192, bias=True)]
    older, today = seconds(hardware(CARD), large), seconds(hardware(CARD, None), large)
    np.testing.assert_allclose(older, today, rtol=0.15)


def test_a_card_alike_borrows_and_is_less_sure() -> None:
    there = load_torch(hardware("h200"))
    here = load_torch(hardware(CARD))
    assert there is not None and here is not None
    known, lent = (e.estimate([SMALL], "torch").iloc[0] for e in (here, there))
    assert lent["estimate_s"] > 1.2 * seconds(hardware("h200", None), [SMALL])[0]
    assert lent["high_s"] / lent["low_s"] > known["high_s"] / known["low_s"]
    assert lent["provenance"] == TRANSFERRED


@pytest.mark.parametrize("name", ["a100", "rtx5090", "p100"])
def test_of_a_card_that_is_not_alike_nothing_is_known(name: str) -> None:
    assert teacher_of(hardware(name)) is None and about_older(hardware(name)) is None
    np.testing.assert_array_equal(seconds(hardware(name)), seconds(hardware(name, None)))


def test_no_card_no_kernels() -> None:
    assert load_torch(hardware("cpu")) is None


def test_what_the_build_learns_from_is_what_the_traces_say() -> None:
    stored = read_samples(TRACES / FILE, CARD)
    read = samples_of(read_traces())
    assert [(s.op, s.cache, list(s.seconds)) for s in stored] == [
        (s.op, s.cache, list(s.seconds)) for s in read
    ]
    assert (FOLDER / "older" / f"{CARD}.npz").exists()


def test_a_model_is_foretold_from_the_others() -> None:
    rows = list(islice(by_models(read_traces(), load_hardware(CARD)), 2))
    assert [r["model"].partition("_")[0] for r in rows] == ["Falconsai", "Qwen"]
    older, today = (np.mean([abs(r[way]) for r in rows]) for way in ("older", "today"))
    assert older < today / 2
