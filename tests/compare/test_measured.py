"""Joining on the path: hand-made tables, so that every expected number can be read off."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from calib.compare.clock.measured import join_modules, join_operators, phase_gaps
from calib.errors import CalibError
from calib.measure.reference.measurement import Measurement
from calib.measure.reference.tables import MODULE_COLUMNS, OPERATOR_COLUMNS

LAYER = "model.layers.0"


def measured(operators: list[tuple[Any, ...]], modules: list[tuple[Any, ...]] = ()) -> Measurement:
    """``operators``: phase, path, aten, kind, seconds; ``modules``: phase, path, seconds."""
    rows = [
        (phase, path, 0, order, aten, kind, "", "", seconds, 0, [seconds, seconds])
        for order, (phase, path, aten, kind, seconds) in enumerate(operators)
    ]
    calls = [(phase, path, "Layer", 1, seconds) for phase, path, seconds in modules]
    return Measurement(
        workload={},
        device="cpu",
        phases={"prefill": [5.0, 6.0, 9.0], "decode": [80.0, 60.0, 70.0]},
        hooked={},
        repeat={"prefill": 1, "decode": 10},
        modules=pd.DataFrame(calls, columns=list(MODULE_COLUMNS)),
        operators=pd.DataFrame(rows, columns=list(OPERATOR_COLUMNS)),
        experts_touched={},
        decoder_layers=1,
        parameters=1,
        memory_bytes=1,
        threads=1,
        overheads={
            "event_s": 0.25,
            "profiled": {
                "prefill": {"seconds": [8.0, 9.0], "events": 6, "operators": 2},
                "decode": {"seconds": [5.0, 5.0], "events": 2, "operators": 2},
            },
        },
        versions={},
    )


def estimated(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """``rows``: phase, path, kind, count, launches, estimate."""
    columns = ["phase", "path", "kind", "count", "launches", "estimate_s"]
    return pd.DataFrame(rows, columns=columns)


def test_equally_long_sequences_are_matched_by_order() -> None:
    """A norm of three launches, then two equal products; the path of another is left alone."""
    measurement = measured(
        [
            ("prefill", LAYER, "pow", "elementwise", 1.0),
            ("prefill", LAYER, "mean", "other", 2.0),
            ("prefill", "lm_head", "mm", "matmul", 64.0),
            ("prefill", LAYER, "mul", "elementwise", 4.0),
            ("prefill", LAYER, "mm", "matmul", 8.0),
            ("prefill", LAYER, "mm", "matmul", 16.0),
        ]
    )
    table = estimated(
        [
            ("prefill", LAYER, "norm", 1, 3, 14.0),
            ("prefill", LAYER, "matmul", 2, 1, 12.0),
            ("prefill", "lm_head", "matmul", 1, 1, 64.0),
        ]
    )
    joined, coverage = join_operators(table, measurement)
    assert joined["measured_s"].tolist() == [7.0, 24.0, 64.0]
    assert joined["error"].tolist() == [1.0, -0.5, 0.0]
    assert coverage["share"] == 1.0
    assert coverage["unmatched"] == []
    assert coverage["phases"]["prefill"]["kinds_differ"] == 0
    assert "measured_s" not in table


def test_a_decode_step_counts_as_often_as_it_is_repeated() -> None:
    measurement = measured([("decode", "lm_head", "mm", "matmul", 3.0)])
    joined, coverage = join_operators(
        estimated([("decode", "lm_head", "matmul", 1, 1, 60.0)]), measurement
    )
    assert joined["measured_s"].tolist() == [30.0]
    assert joined["error"].tolist() == [1.0]
    assert coverage["phases"]["decode"]["operators_s"] == 30.0


def test_where_lengths_differ_kinds_decide() -> None:
    """The extra copy is theirs alone; the extra softmax is ours alone and stays null."""
    measurement = measured(
        [
            ("prefill", LAYER, "clone", "copy", 1.0),
            ("prefill", LAYER, "mm", "matmul", 2.0),
            ("prefill", LAYER, "add", "elementwise", 4.0),
        ]
    )
    table = estimated(
        [
            ("prefill", LAYER, "matmul", 1, 1, 2.0),
            ("prefill", LAYER, "softmax", 1, 1, 9.0),
            ("prefill", LAYER, "softmax", 1, 1, 9.0),
            ("prefill", LAYER, "elementwise", 1, 1, 4.0),
        ]
    )
    joined, coverage = join_operators(table, measurement)
    assert joined["measured_s"].fillna(-1).tolist() == [2.0, -1, -1, 4.0]
    assert joined["error"].isna().tolist() == [False, True, True, False]
    assert coverage["share"] == pytest.approx(6 / 7)
    assert coverage["unmatched_s"] == 1.0
    assert coverage["unmatched"] == [
        {"phase": "prefill", "path": LAYER, "aten": "clone", "count": 1, "seconds": 1.0}
    ]
    assert coverage["phases"]["prefill"]["rows_unmatched"] == 2


def test_a_row_that_lacks_a_launch_is_null_and_its_operators_are_unmatched() -> None:
    measurement = measured(
        [
            ("prefill", LAYER, "mm", "matmul", 1.0),
            ("prefill", LAYER, "mm", "matmul", 2.0),
            ("prefill", LAYER, "mul", "elementwise", 4.0),
        ]
    )
    table = estimated(
        [
            ("prefill", LAYER, "matmul", 3, 1, 9.0),
            ("prefill", LAYER, "elementwise", 1, 1, 4.0),
        ]
    )
    joined, coverage = join_operators(table, measurement)
    assert joined["measured_s"].fillna(-1).tolist() == [-1, 4.0]
    assert coverage["unmatched_s"] == 3.0
    assert coverage["phases"]["prefill"]["matched"] == 1


def test_a_path_that_one_side_lacks_is_reported() -> None:
    measurement = measured([("decode", "", "argmax", "other", 1.0)])
    joined, coverage = join_operators(
        estimated([("decode", "lm_head", "matmul", 1, 1, 1.0)]), measurement
    )
    assert joined["measured_s"].isna().all()
    assert coverage["share"] == 0.0
    assert coverage["unmatched"][0]["aten"] == "argmax"
    json.dumps(coverage)


def test_matching_by_order_tells_that_kinds_differ() -> None:
    measurement = measured([("prefill", LAYER, "topk", "other", 1.0)])
    _, coverage = join_operators(estimated([("prefill", LAYER, "matmul", 1, 1, 1.0)]), measurement)
    assert coverage["phases"]["prefill"]["kinds_differ"] == 1


def test_a_slower_machine_is_taken_out_of_the_error_only() -> None:
    measurement = measured([("prefill", "lm_head", "mm", "matmul", 4.0)])
    table = estimated([("prefill", "lm_head", "matmul", 1, 1, 2.0)]).assign(estimate_unseen_s=3.0)
    joined, _ = join_operators(table, measurement, {"prefill": 2.0})
    assert joined["measured_s"].tolist() == [4.0]
    assert joined["error"].tolist() == [0.0]
    assert joined["error_unseen"].tolist() == [0.5]


def test_the_row_index_of_the_estimates_does_not_matter() -> None:
    measurement = measured([("prefill", "lm_head", "mm", "matmul", 4.0)])
    table = estimated([("prefill", "lm_head", "matmul", 1, 1, 2.0)])
    table.index = pd.Index([17])
    joined, _ = join_operators(table, measurement)
    assert joined.loc[17, "measured_s"] == 4.0


def test_a_missing_column_is_named() -> None:
    table = estimated([("prefill", "lm_head", "matmul", 1, 1, 2.0)]).drop(columns="launches")
    with pytest.raises(CalibError, match="column launches is missing"):
        join_operators(table, measured([("prefill", "lm_head", "mm", "matmul", 4.0)]))


def test_modules_get_median_and_quartiles() -> None:
    measurement = measured([], [("decode", LAYER, [1.0, 2.0, 3.0, 4.0, 8.0])])
    modules = pd.DataFrame({"phase": ["decode"], "path": [LAYER], "estimate_s": [15.0]})
    row = join_modules(modules, measurement).iloc[0]
    assert (row["measured_q1_s"], row["measured_s"], row["measured_q3_s"]) == (20.0, 30.0, 40.0)
    assert row["error"] == -0.5
    assert row["steady_s"] == row["measured_s"]
    slowed = join_modules(modules, measurement, {"decode": 4.0}).iloc[0]
    assert (slowed["error"], slowed["steady_s"], slowed["measured_s"]) == (1.0, 7.5, 30.0)


def test_the_root_is_the_phase_and_a_container_the_sum_of_what_it_holds() -> None:
    measurement = measured(
        [],
        [
            ("prefill", LAYER, [1.0, 2.0]),
            ("prefill", f"{LAYER}.mlp", [0.5, 0.5]),
            ("prefill", "model.layers.1", [3.0, 4.0]),
            ("prefill", "model.layers_norm", [100.0, 100.0]),
        ],
    )
    modules = pd.DataFrame(
        {"phase": "prefill", "path": ["", "model.layers", "nowhere"], "estimate_s": 5.0}
    )
    joined = join_modules(modules, measurement)
    assert joined["measured_s"].tolist()[:2] == [6.0, 5.0]
    assert math.isnan(joined["measured_s"].iloc[2])


def test_a_phase_that_was_not_measured_is_null() -> None:
    modules = pd.DataFrame({"phase": ["vision"], "path": [""], "estimate_s": [1.0]})
    assert join_modules(modules, measured([])).isna()["measured_s"].all()


def test_gaps_are_what_no_operator_explains() -> None:
    """Prefill: median 6, operators 1 + 2. Profiled: 8.5 - 3 - (6 events - 0 nested) / 4 = 4."""
    measurement = measured(
        [
            ("prefill", LAYER, "mm", "matmul", 1.0),
            ("prefill", LAYER, "mul", "elementwise", 2.0),
            ("decode", "lm_head", "mm", "matmul", 3.0),
        ]
    )
    gaps = phase_gaps(measurement).set_index("phase")
    assert gaps.loc["prefill", "gap_s"] == 3.0
    assert gaps.loc["prefill", "gap_per_operator_s"] == 1.5
    assert gaps.loc["prefill", "profiled_gap_s"] == 4.0
    assert gaps.loc["decode", "operators"] == 10
    assert gaps.loc["decode", "gap_s"] == 40.0
    assert gaps.loc["decode", "profiled_gap_s"] == 10 * (5 - 3 - 2 * 0.25)
