"""What came of a mutant of a trace: refused or remarked upon, right, or silently wrong."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hardening.made_trace import Made, Subject
from calib.compare.clock.recorded import Recording, read_trace
from calib.compare.clock.traced import compare_recorded
from calib.errors import CalibError
from calib.report.layers.build import plain
from calib.report.measurement import fact_cells, how, phase_cells
from calib.steps.notes import trace_notes

ALIKE = 0.01
"""Figures that differ by less are the same."""
HANG_S = 60.0


@dataclass(frozen=True)
class Mutant:
    """``truth`` None: no figure of it may be taken for that of ``asked``."""

    content: bytes
    asked: Subject
    truth: Made | None


def judge(mutant: Mutant, path: Path) -> tuple[str, str]:
    """What came of it: clear, right, traceback, silently_wrong or hang; and what was said."""
    path.write_bytes(mutant.content)
    begin = time.monotonic()
    try:
        result = _read(mutant, path)
    except CalibError as error:
        result = ("clear" if "\n" not in str(error) else "silently_wrong", str(error))
    except Exception as error:
        result = ("traceback", f"{type(error).__name__}: {error}")
    took = time.monotonic() - begin
    return result if took < HANG_S else ("hang", f"{took:.0f} s")


def _read(mutant: Mutant, path: Path) -> tuple[str, str]:
    asked = mutant.asked
    recording = read_trace(path, asked.modules, asked.repeat, asked.workload, asked.hardware)
    operators, _, components, about = compare_recorded(
        asked.operators, asked.modules, asked.components, recording
    )
    phases = about["coverage"]["phases"].values()
    said = [*recording.notes, *trace_notes(about)]
    said += ["operators matched"] * any(p["matched"] < p["operators"] for p in phases)
    for text in (how(about), *_cells(about)):
        if "<script" in text or "\n" in text or "](http" in text:
            return "silently_wrong", f"shown as it came: {text!r}"
    json.dumps(plain(about), allow_nan=False)
    shown = dict(_figures(operators, components, about))
    if mutant.truth is None:
        right, text = not shown, "; ".join(f"{k} {v:g}" for k, v in shown.items())
        return ("clear" if right or remarked(about, recording) else "silently_wrong"), text
    wrong = [f"{k} {v:g}, not {w:g}" for k, v, w in _against(shown, mutant.truth)]
    if not wrong:
        return "right", ""
    return ("clear" if said else "silently_wrong"), "; ".join(wrong)


def remarked(about: dict[str, Any], recording: Recording) -> bool:
    """Whether a reader is told that it may be of something else."""
    return bool(about["refused"] or about["remarks"])


def _cells(about: dict[str, Any]) -> Iterator[str]:
    tables = (phase_cells(about), fact_cells(about))
    yield from (cell for table in tables for row in table.rows for cell in row)


def _figures(operators: Any, components: Any, about: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """All that is shown as measured."""
    for clock in about["clocks"]:
        if clock["measured_s"]:
            yield f"{clock['what']} {clock['phase']}", clock["measured_s"]
    for name, seconds in zip(components["component"], components["measured_s"], strict=True):
        if not math.isnan(seconds):
            yield f"component {name}", seconds
    known = operators[operators["measured_s"].notna()]
    whole = known.groupby(["phase", "kind"])["measured_s"].sum()
    for phase, kind in whole.index:
        rows = operators[(operators["phase"] == phase) & (operators["kind"] == kind)]
        if rows["measured_s"].notna().all():
            yield f"kind {phase} {kind}", float(whole[phase, kind])


def _against(shown: dict[str, float], truth: Made) -> Iterator[tuple[str, float, float]]:
    """Figures that are shown and are not those of the healthy trace."""
    expected = {f"operators {p}": sum(kinds.values()) for p, kinds in truth.kernels.items()}
    expected |= {f"wall {p}": s for p, s in truth.walls.items()}
    expected |= {f"component {p}": s for p, s in truth.walls.items()}
    expected["component total"] = sum(truth.walls.values())
    expected |= {f"kind {p} {k}": s for p, kinds in truth.kernels.items() for k, s in kinds.items()}
    for name, value in shown.items():
        if abs(value / expected[name] - 1) > ALIKE:
            yield name, value, expected[name]
