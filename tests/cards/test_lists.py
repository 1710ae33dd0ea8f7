"""What an operator takes does not hang on what else is asked, nor on how it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from calib.cards.engines.card import load_engine_card
from calib.cards.older.shipped import load_torch
from calib.fit.calibration import Estimates, Estimator
from calib.hardware.datasheet import load_hardware
from model import ops
from model.ops import Operator, grid

DTYPES = ("bfloat16", "float16", "float32")
CUDAS = (None, "12.4", "12.9")


def some() -> list[Operator]:
    """Of each kind several dtypes."""
    found: list[Operator] = [ops.Matmul(16, 512, 512, dtype=dtype) for dtype in (*DTYPES, "int8")]
    found += [ops.Matmul(16, 512, 512, 12, dtype=dtype) for dtype in DTYPES]
    found += [ops.Attention(2, 128, 4096, 12, 12, 80, dtype=dtype) for dtype in DTYPES]
    for dtype in DTYPES:
        found += [ops.Norm(1000, 4096, kind, dtype) for kind in ("rmsnorm", "layernorm")]
        found += [ops.ChannelNorm(2**20, 64, kind, dtype) for kind in ("batchnorm", "groupnorm")]
        found += [ops.Softmax(64, 1024, dtype), ops.Elementwise(2**20, dtype=dtype)]
        found += [ops.Gather(77, 128, dtype), ops.Copy(1000, dtype), ops.Reduction(64, 64, dtype)]
    return found


def loaded(card: str, cuda: str | None) -> Estimator:
    estimator = load_torch(replace(load_hardware(card), cuda=cuda))
    assert estimator is not None
    return estimator


def table(found: Estimates) -> np.ndarray:
    return np.array([found.floor, found.seconds, found.low, found.high])


@pytest.mark.parametrize("cuda", CUDAS)
@pytest.mark.parametrize("card", ["b200", "h200", "rtx5090", "t4"])
def test_alone_as_in_any_list(card: str, cuda: str | None) -> None:
    estimator, asked = loaded(card, cuda), some()
    alone = np.concatenate([table(estimator.estimates(op)) for op in asked], axis=1)
    onwards = table(estimator.estimates(asked))
    backwards = table(estimator.estimates(asked[::-1]))[:, ::-1]
    for told in (onwards, backwards):
        wrong = ~np.isclose(told, alone, rtol=1e-4, atol=0, equal_nan=True).all(axis=0)
        assert not wrong.any(), asked[int(np.flatnonzero(wrong)[0])]


@pytest.mark.parametrize("cuda", CUDAS)
@pytest.mark.parametrize("card", ["b200", "h100", "rtx5090"])
def test_grids_as_lists(card: str, cuda: str | None) -> None:
    """Heads of 80 numbers, too, which are another kernel's by an older CUDA."""
    heads = {"heads": 12, "kv_heads": 12, "head_dim": [64, 80, 128]}
    shape: dict[str, Any] = {"batch": 2, "q_len": 128, "kv_len": 4096, "dtype": "bfloat16", **heads}
    one = grid(ops.Attention, **shape)
    each = [ops.Attention(**shape | {"head_dim": dim}) for dim in (64, 80, 128)]
    estimator = loaded(card, cuda)
    close = np.isclose(table(estimator.estimates(one)), table(estimator.estimates(each)), rtol=1e-4)
    assert close.all()


@pytest.mark.parametrize("cuda", CUDAS)
@pytest.mark.parametrize("card", ["h100", "t4"])
def test_nothing_is_asked(card: str, cuda: str | None) -> None:
    assert len(loaded(card, cuda).estimates([]).seconds) == 0


def test_flags_of_an_engines_operators_are_each_its_own() -> None:
    engine, asked = load_engine_card("h100", "vllm"), [ops.Matmul(8, 4096, 4096)] * 2
    each = [engine.estimates(asked[:1], "", flag).seconds[0] for flag in (True, False)]
    many = grid(ops.Matmul, m=[8, 8], n=4096, k=4096)
    for some in (asked, many):  # an array of flags was refused, a list of them taken for True
        np.testing.assert_allclose(
            engine.estimates(some, "", np.array([True, False])).seconds, each
        )
