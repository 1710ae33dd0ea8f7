"""The three pictures: whole, in bounds, told apart by the colour-blind, without a display."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_record import RUNS, run

from calib.checkout import ROOT
from calib.report.pictures.accuracy import against_the_clock, by_kind
from calib.report.pictures.canvas import DPI, KINDS, WIDTH
from calib.report.pictures.components import components_picture, luminance
from calib.report.pictures.of_run import distinct_operators, draw_pictures
from calib.report.pictures.roofline import roofline_picture

SECOND = {"measured": "accuracy.png", "predicted": "kinds.png"}
"""What no clock stands beside shows no accuracy."""


def pictures(name: str) -> list[Any]:
    record = run(name)
    distinct = distinct_operators(record.operators)
    second = against_the_clock(distinct) if record.measured else by_kind(distinct)
    drawn = (roofline_picture(record, distinct), second, components_picture(record))
    return [figure for figure, _ in drawn]


@pytest.mark.parametrize("name", RUNS)
def test_three_files(name: str, tmp_path: Path) -> None:
    drawn = draw_pictures(run(name), tmp_path)
    assert [file for file, _ in drawn] == ["roofline.png", SECOND[name], "components.png"]
    for file, caption in drawn:
        content = (tmp_path / file).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", content[16:20])[0] == int(WIDTH * DPI)
        assert len(content) < 200_000
        assert caption.endswith(".") and len(caption) > 20


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_cut_off_or_overlaps(name: str) -> None:
    """Every text lies inside its figure, and no text of one panel covers another."""
    for figure in pictures(name):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            texts = [t for t in axes.texts if t.get_text()]
            ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
            labels = [axes.xaxis.label, axes.yaxis.label]
            boxes = {}
            for text in (*texts, *labels, *(t for t in ticks if t.get_visible())):
                if text.get_text():
                    box = text.get_window_extent(renderer)
                    inside = box.x0 >= 0 and box.y0 >= 0
                    inside &= box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
                    assert inside or text in ticks, text
                    boxes[text] = box
            for i, one in enumerate(texts):
                for other in texts[i + 1 :]:
                    assert not boxes[one].overlaps(boxes[other]), (one, other)


@pytest.mark.parametrize("name", RUNS)
def test_the_legend_of_the_components_covers_nothing(name: str) -> None:
    figure = pictures(name)[2]
    figure.canvas.draw()
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    legend = axes.get_legend().get_window_extent(renderer)
    for artist in (*axes.patches, *axes.texts):
        assert not legend.overlaps(artist.get_window_extent(renderer)), artist


def test_ticks_that_are_drawn_lie_inside() -> None:
    """Names of kinds are long: the margin on the left must hold them."""
    figure = pictures("predicted")[1]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for label in figure.axes[0].get_yticklabels():
        assert label.get_window_extent(renderer).x0 >= 0, label.get_text()


def test_bars_are_the_components() -> None:
    figure = pictures("measured")[2]
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    parts = run("measured").components.iloc[:-1]
    columns = ["roofline_s", "estimate_s", "measured_s"]
    expected = [float(v) for column in columns for v in parts[column]]
    assert widths == pytest.approx(expected)  # the longest is above a second: the unit is s
    assert len(pictures("predicted")[2].axes[0].patches) == 2 * len(parts)


def test_points_lie_under_the_roof() -> None:
    """In the prediction by roofline every operator sits on its roof, none above."""
    record = run("predicted")
    figure, _ = roofline_picture(record, distinct_operators(record.operators))
    points = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    bandwidth, peak = record.hardware["bandwidth"], record.hardware["peak_flops"]["bfloat16"]
    roof = np.minimum(points[:, 0] * bandwidth, peak)
    assert (points[:, 1] <= roof * 1.001).all()
    low, high = figure.axes[0].get_ylim()
    assert ((points[:, 1] > low) & (points[:, 1] < high)).all()


def test_distinct_operators_are_sums() -> None:
    operators = run("measured").operators
    distinct = distinct_operators(operators)
    assert len(distinct) < 0.2 * len(operators)
    for column in ("count", "flops", "estimate_s", "measured_s"):
        assert distinct[column].sum() == pytest.approx(operators[column].sum())


def test_an_unknown_interval_is_none() -> None:
    record = run("predicted")
    operators = record.operators.assign(low_s=np.nan, high_s=None)
    distinct = distinct_operators(operators)
    assert distinct["low_s"].tolist() == pytest.approx(distinct["estimate_s"].tolist())
    figure, _ = by_kind(distinct)
    assert not figure.axes[0].containers[1:], "no whiskers where there is no interval"
    total = record.components.assign(low_s=np.nan, high_s=np.nan)
    figure, caption = components_picture(replace(record, components=total))
    assert "whisker" not in caption


def test_what_the_clock_missed_is_left_out(tmp_path: Path) -> None:
    """Operators without a measured time, and a kind that has no colour of its own."""
    operators = run("measured").operators.copy()
    operators.loc[operators.index[::3], "measured_s"] = None
    operators.loc[operators["kind"] == "norm", "kind"] = "attention_backward"
    drawn = dict(draw_pictures(replace(run("measured"), operators=operators), tmp_path))
    assert "nan" not in " ".join(drawn.values())
    seen = operators[operators["measured_s"].notna()]
    shapes = seen.groupby(["phase", "kind", "shape", "dtype"]).ngroups
    assert f"of {shapes} distinct operators" in drawn["accuracy.png"]


def test_kinds_differ_in_colour_and_shape() -> None:
    colours, markers = zip(*KINDS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(KINDS)
    assert luminance((1.0, 1.0, 1.0)) == pytest.approx(1)
    assert luminance((0.0, 0.0, 0.0)) < 0.01


def test_no_display_and_no_global_state(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.path.insert(0, 'tests/report')\nfrom pathlib import Path\n"
        "from report_record import run\nfrom calib.report.pictures.of_run import draw_pictures\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"draw_pictures(run('measured'), Path({str(tmp_path)!r}))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr
