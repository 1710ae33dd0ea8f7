"""The report of ``ocr_base`` against one that was read by eye: every figure that is exact.

Times come from peaks and fits and are not in it. After a change of the model that is meant, write
the file again, and read what changed:

    python tests/report/test_golden_report.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from calib.checkout import ROOT

GOLDEN = Path(__file__).parents[1] / "data" / "ocr_base.md"
COSTS = ("flops", "io_bytes", "weight_bytes", "activation_bytes", "kv_cache_bytes")


def test_report_is_the_one_that_was_read(tmp_path: Path) -> None:
    expected = GOLDEN.read_text("utf-8").splitlines()
    found = written(analytic_report(tmp_path / "run")).splitlines()
    changed = [pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]]
    assert (changed[:5], len(found)) == ([], len(expected))


def analytic_report(folder: Path) -> dict[str, Any]:
    """What the command line writes, without a card."""
    asked = ["mode=analytic", "workload=ocr_base", f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "calib.run", *asked]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def written(report: dict[str, Any]) -> str:
    """Its exact figures as Markdown: the whole by kind of operator, then every module."""
    metrics = report["module_metrics"]
    kinds = sorted(metrics[0]["operator_breakdown"], key=lambda k: str(k["category_id"]))
    by_kind = [
        (k["category_id"], k["calls"], *(round(k[c]) for c in ("flops", "io_bytes"))) for k in kinds
    ]
    modules = [
        (
            node["module_id"],
            node["qualified_class_name"].rsplit(".", 1)[-1],
            node["repetition_count"] or 1,
            found["calls"],
            *(round(found[cost]) for cost in COSTS),
        )
        for node, found in zip(report["modules"], metrics, strict=True)
    ]
    return (
        "# ocr_base: the exact figures\n\n"
        "FLOPs (a multiply-add is 2) and bytes; those of routed experts are expectations, rounded. "
        "Written by `python tests/report/test_golden_report.py`.\n\n"
        f"{table(('kind', 'calls', 'flops', 'io_bytes'), by_kind)}\n\n"
        f"{table(('module', 'class', 'instances', 'calls', *COSTS), modules)}\n"
    )


def table(headers: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(written(analytic_report(Path(folder) / "run")), encoding="utf-8")
