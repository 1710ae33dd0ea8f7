"""The table in ``docs/analytic.md``: current, and without a difference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model.architectures import ARCHITECTURES, build

DOCUMENT = Path(__file__).parents[2] / "docs" / "analytic.md"
COUNT = re.compile(r"^\| ([^|]+) \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| (-?[\d,]+) \|$")


def rows() -> list[tuple[str, str, int, int]]:
    found = [COUNT.match(line) for line in DOCUMENT.read_text().splitlines()]
    return [
        (m[1], m[2], int(m[3].replace(",", "")), int(m[4].replace(",", ""))) for m in found if m
    ]


def test_no_count_differs_from_the_counter() -> None:
    assert len(rows()) == 70
    assert all(ours == counted for _, _, ours, counted in rows())


def test_the_table_shows_what_the_model_counts_today() -> None:
    model = build("deepseek_ocr")
    current = {
        ("SAM", f"{side} px"): model.vision_tower(1, side).sam_encoder
        for side in (512, 640, 1024, 1280)
    }
    current |= {("prefill", f"{n} tokens"): model.prefill_layer(n) for n in (83, 493, 1213)}
    current |= {("decode step", f"{n} keys"): model.decode_layer(n) for n in (84, 494, 1214)}
    for rows_, columns in ((1, 2), (2, 3), (3, 3)):
        shape = f"1024 px + {rows_} x {columns} tiles of 640"
        current["vision", shape] = model.vision_layer(1024, (rows_, columns))
    table = {(component, shape): ours for component, shape, ours, _ in rows()}
    for key, layer in current.items():
        assert table[key] == layer.forward_tensor_core_flops(), key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_shows_the_parameters_of_every_model(architecture: str) -> None:
    assert f"**{build(architecture).parameters():,}**" in DOCUMENT.read_text()


def test_a_count_that_differs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from benchmarks import analytic_counts

    wrong = {"ViT-L/16": [analytic_counts.Row("classifier", "224 px", 3, 4)]}
    monkeypatch.setattr(analytic_counts, "sections", lambda: wrong)
    assert analytic_counts.main(["--out", str(tmp_path / "analytic.md")]) == 1
    assert "classifier at 224 px: ours 3, counted 4" in capsys.readouterr().err
    assert "**1 of 1 differ.**" in (tmp_path / "analytic.md").read_text()
