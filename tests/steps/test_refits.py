"""Fits beside a card: what each found, when, and after how long a kind was known well enough."""

from __future__ import annotations

import json
import math
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from calib.steps.card import refits
from calib.steps.card.refits import PACE, Refits, in_words, reached, read_trail, with_pace
from model import ops

H200 = load_hardware("h200")


def products(count, noise=0.0):
    rng = np.random.default_rng(0)
    found = []
    for m, n, k in rng.integers(64, 4096, (count, 3)):
        op = ops.Matmul(int(m), int(n), int(k))
        seconds = (4e-6 + 1.3 * float(floor(op, H200))) * np.exp(noise * rng.standard_normal())
        found.append(Sample(op, [seconds], "h200", "torch", origin="design"))
    return found


class Later(Executor):
    """Executes when it is told to."""

    def __init__(self):
        self.asked = []

    def submit(self, function, /, *arguments, **more):
        future = Future()
        self.asked.append((future, function, arguments))
        return future

    def finish(self):
        future, function, arguments = self.asked[-1]
        future.set_result(function(*arguments))


def test_one_fit_at_a_time_and_what_it_found_is_kept(tmp_path):
    executor, samples = Later(), products(120)
    some = Refits(H200, executor, spent_s=lambda s: len(s) / 10)
    assert not some.good(samples[:40]) and not executor.asked, "too few for a fit"
    assert not some.good(samples[:60]) and not some.good(samples)
    assert len(executor.asked) == 1, "one at a time"
    pending = some(samples)
    assert not pending.ready() and len(executor.asked) == 1
    executor.finish()
    spread = pending.result()([ops.Matmul(100, 100, 100), ops.Gather(9, 9)])
    assert 0 < spread[0] < 0.5 and spread[1] == 1.0
    assert some.good(samples), "a law without noise is known at once"
    (first,) = some.trail
    assert first["elapsed_s"] == 6.0 and first["errors"]["matmul bfloat16"] < 0.05
    executor.finish()
    some.close(tmp_path)
    assert [one["elapsed_s"] for one in read_trail(tmp_path)] == [6.0, 12.0]
    Refits(H200, executor, spent_s=len, trail=[first]).close(tmp_path)
    assert len(read_trail(tmp_path)) == 3, "beside what an earlier sweep left"
    assert json.loads((tmp_path / PACE).read_text("utf-8"))


def test_a_fit_in_another_process_comes_back_whole(tmp_path):
    some = Refits(H200, refits.one_process(), spent_s=len)
    some(products(30))
    some.close(tmp_path)
    (only,) = read_trail(tmp_path)
    assert only["errors"]["matmul bfloat16"] < 0.2


TRAIL = [
    {"elapsed_s": 30.0, "errors": {"matmul": 0.04, "norm": 0.2, "copy": 0.03}},
    {"elapsed_s": 10.0, "errors": {"matmul": 0.09, "norm": 0.2}},
    {"elapsed_s": 20.0, "errors": {"matmul": 0.05, "norm": 0.04, "copy": 0.04}},
]


def test_a_kind_is_known_when_it_stays_known():
    assert reached(TRAIL) == {"matmul": 20.0, "norm": math.inf, "copy": 20.0}
    text = in_words(TRAIL)
    assert text == (
        "held-out median error within 5%: matmul after 20 s, copy after 20 s; not yet: norm"
    )
    assert "no kind" in in_words([])


def test_the_table_of_fits_says_after_how_long(tmp_path):
    fits = pd.DataFrame({"kind": ["matmul", "sort"], "dtype": ["bfloat16", "int64"]})
    assert with_pace(fits, tmp_path) is fits
    (tmp_path / PACE).write_text(
        json.dumps([{"elapsed_s": 7.0, "errors": {"matmul bfloat16": 0.01}}]), "utf-8"
    )
    after = with_pace(fits, tmp_path)["known_after_s"].tolist()
    assert after[0] == 7.0 and math.isnan(after[1])


def test_torch_alone_is_fitted():
    mixed = [*products(60), *(replace(s, implementation="triton") for s in products(60))]
    assert {key[0] for key in refits.fit_torch(mixed, H200).kinds} == {"torch"}


@pytest.mark.parametrize(("value", "text"), [(7.2, "7 s"), (math.inf, "not yet"), (math.nan, "-")])
def test_seconds_in_the_report(value, text):
    from calib.report.document.write import known_after
    from calib.report.units import UNKNOWN

    assert known_after(value) == text.replace("-", UNKNOWN)
