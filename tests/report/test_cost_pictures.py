"""The picture of a sweep: lines over a number that varies, else a bar a run."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from calib.report.pictures.canvas import INK
from calib.report.runs.picture import cost_picture, varied


def table(*runs: dict[str, Any]) -> pd.DataFrame:
    """A sweep as ``runs_table`` gives it; what a run does not say is the same for all."""
    alike = {"model": "deepseek_ocr", "hardware": "h200", "execution": "eager", "logits": "all"}
    alike |= {"implementation": "torch", "workload": "ocr_tiny", "provenance": "transferred"}
    costs = {"flops": 383e9, "io_bytes": 28e9, "wall_s": 0.1, "predicted_s": 0.05}
    numbers = {"tokens": 83, "batch": 1, "decode_steps": 16, **costs}
    rows = [{**alike, **numbers, "run": str(i), **run} for i, run in enumerate(runs)]
    found = pd.DataFrame(rows)
    return found.assign(wall_low_s=0.7 * found["wall_s"], wall_high_s=1.5 * found["wall_s"])


CARDS = table(
    {"hardware": "a100", "wall_s": 0.105},
    {"hardware": "b200", "wall_s": 0.101},
    {"hardware": "l4", "wall_s": 0.122, "provenance": "roofline"},
)


def test_cards_alone_are_bars_by_time_with_their_intervals() -> None:
    (axes,) = cost_picture(CARDS).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["l4", "a100", "b200"]  # b200 on top
    ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
    assert max(ends) == pytest.approx(122)
    low, high = axes.get_xlim()
    assert low == 0 and 1.5 * 105 < high < 2 * 122 * 1.5
    whiskers = axes.containers[-1].lines[2][0].get_segments()
    assert [(s[0][0], s[1][0]) for s in whiskers] == [
        pytest.approx((0.7 * t, 1.5 * t)) for t in (105, 101)
    ]  # a lower bound has no interval
    texts = [t.get_text() for t in axes.texts]
    assert texts == ["122 ms, a lower bound", "105 ms", "101 ms"]
    (title,) = axes.figure.texts
    assert title.get_text() == "deepseek_ocr, ocr_tiny, eager, batch 1, 383 GFLOP, 28.0 GB"


def test_cards_far_apart_are_points_on_decades() -> None:
    far = table({"hardware": "cpu", "wall_s": 3.0}, {"hardware": "b200", "wall_s": 0.05})
    (axes,) = cost_picture(far).axes
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert 0 < low < 0.05 * 0.7 and high < 3 * 1.5 * 3


def test_models_of_a_sweep_without_times_are_compared_by_bytes_and_flops() -> None:
    unknown = {"wall_s": float("nan"), "predicted_s": float("nan")}
    costs = table({"model": "a", "tokens": 10, **unknown}, {"model": "b", "tokens": 83, **unknown})
    panels = cost_picture(costs).axes
    assert [axes.get_xlabel() for axes in panels] == ["bytes moved [GB]", "FLOPs [GFLOP]"]
    assert varied(costs) == ["model", "tokens"]


def sweep(*tokens: int) -> pd.DataFrame:
    return table(
        *(
            {"hardware": h, "batch": b, "tokens": t, "wall_s": f * b * t, "flops": 1e9 * b * t}
            for h, f in (("h200", 1e-3), ("a100", 2e-3))
            for b in (1, 8)
            for t in tokens
        )
    )


def test_lines_of_a_cost_that_nothing_else_changes_are_one() -> None:
    """FLOPs know no card; time does. Limits lie close around the points."""
    of_time, _, of_flops = cost_picture(sweep(83, 283)).axes
    assert len(of_time.lines) == 4
    assert {line.get_label() for line in of_flops.lines} == {"batch 1", "batch 8"}
    assert {to_hex(line.get_color()) for line in of_flops.lines} == {INK}
    for axes in (of_time, of_flops):
        values = [y for line in axes.lines for y in line.get_ydata()]
        low, high = axes.get_ylim()
        assert low > min(values) / 3 and high < max(values) * 3
        assert list(axes.get_xticks()) == [83, 283]


def test_series_look_different() -> None:
    of_time = cost_picture(sweep(83, 283, 903)).axes[0]
    looks = {(to_hex(x.get_color()), x.get_marker(), x.get_linestyle()) for x in of_time.lines}
    assert len(looks) == len(of_time.lines) == 4


def test_where_the_page_is_the_same_the_batch_is_the_axis() -> None:
    axes = cost_picture(table({"batch": 1}, {"batch": 4, "wall_s": 0.2})).axes[-1]
    assert axes.get_xlabel() == "batch"
    assert list(axes.lines[0].get_xdata()) == [1, 4]


def test_a_run_that_does_not_fit_is_marked() -> None:
    cards = CARDS.assign(fits=[True, False, None])
    texts = [text.get_text() for text in cost_picture(cards).axes[0].texts]
    assert [("does not fit" in text) for text in texts if "ms" in text].count(True) == 1
    lines = sweep(83, 283, 903)
    figure = cost_picture(lines.assign(fits=[i != 2 for i in range(len(lines))]))
    assert figure.axes[-1].get_xlabel().endswith("(hollow: does not fit)")
    assert len(figure.axes[0].lines) == len(cost_picture(lines).axes[0].lines) + 1


def test_a_key_that_no_column_shows_tells_runs_apart() -> None:
    layers = table({"model.layers": 4}, {"model.layers": 8})
    layers.attrs["swept"] = ["model.layers"]
    assert varied(layers) == ["model.layers"]


def test_what_has_no_time_since_it_does_not_fit_is_named_and_not_drawn() -> None:
    times = ["wall_s", "wall_low_s", "wall_high_s", "predicted_s"]
    cards = CARDS.assign(fits=[True, False, True])
    cards.loc[1, times] = float("nan")
    axes = cost_picture(cards).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("does not fit") == 1 and len(texts) == len(cards)
    assert max(axes.get_xlim()) < float("inf")
