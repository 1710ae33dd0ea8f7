"""Runs the analytic report of DeepSeek-OCR from the command line and checks every file it writes.

    python tests/manual/deepseek_ocr/manual_deepseek_ocr_performance_report.py [+hw=rtx5090 ...]

Arguments are overrides of the run. Prints where each file is; ends with status 1 at the first that
is missing or says something else than the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS = ("mode=analytic", "workload=ocr_gundam", "+hw=rtx5090")


def main(overrides: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="calib-deepseek-ocr-")) / "run"
    given = overrides or list(DEFAULTS)
    command = [sys.executable, "-m", "calib.run", *given, f"hydra.run.dir={folder}"]
    print(" ".join(command))
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    try:
        for path, found in artefacts(folder):
            print(f"{path}: {found}")
    except AssertionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def artefacts(folder: Path) -> list[tuple[Path, str]]:
    """Each file and what is in it. Raises ``AssertionError`` for the first that is wrong."""
    report = valid_report(folder)
    operators = pd.read_parquet(existing(folder / "estimates.parquet"))
    modules = pd.read_parquet(existing(folder / "modules.parquet"))
    root = report["module_metrics"][0]
    same(operators["flops"].sum(), root["flops"], "FLOPs of estimates.parquet and report.json")
    same(operators["bytes"].sum(), root["io_bytes"], "bytes of estimates.parquet and report.json")
    text = existing(folder / "report.md").read_text("utf-8")
    assert "Traceback" not in text and "| nan |" not in text, "report.md holds no errors"
    return [
        (folder / "report.json", f"{len(report['modules'])} modules, valid by docs/report.schema"),
        (folder / "report.yaml", "the same fields"),
        (folder / "report.md", f"{len(text.splitlines())} lines"),
        (folder / "estimates.parquet", f"{len(operators)} operators"),
        (folder / "modules.parquet", f"{len(modules)} modules"),
        (existing(folder / "environment.json"), "versions and machine"),
        *((picture, "picture") for picture in sorted(folder.glob("*.png"))),
        *layer_documents(report),
    ]


def valid_report(folder: Path) -> dict[str, Any]:
    """``report.json``, checked against the schema, its shares, and ``report.yaml``."""
    report: dict[str, Any] = json.loads(existing(folder / "report.json").read_text("utf-8"))
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text("utf-8"))
    problems = [e.message for e in Draft202012Validator(schema).iter_errors(report)]
    assert not problems, f"report.json: {problems[:3]}"
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    as_yaml = yaml.load(existing(folder / "report.yaml").read_text("utf-8"), Loader=loader)
    assert as_yaml == report, "report.yaml holds what report.json does"
    assert report["named_share"] >= 0.9, f"named_share = {report['named_share']}"
    for metrics in report["module_metrics"]:
        kinds = metrics["operator_breakdown"]
        same(sum(k["share_of_module_flops"] for k in kinds), 1, f"{metrics['module_id']}: shares")
    return report


def layer_documents(report: dict[str, Any]) -> list[tuple[Path, str]]:
    """The index, and a page for every class that the report names."""
    if report["layer_docs_dir"] is None:
        return []
    folder = Path(report["layer_docs_dir"])
    classes = {n["qualified_class_name"].rsplit(".", 1)[-1] for n in report["modules"][1:]}
    pages = [existing(folder / f"{name}.md") for name in sorted(classes)]
    for page in pages:
        assert "## In this run" in page.read_text("utf-8"), f"{page} has numbers"
    return [(existing(folder / "index.md"), f"{len(pages)} pages of layers")]


def existing(path: Path) -> Path:
    assert path.is_file() and path.stat().st_size, f"{path} is missing or empty"
    return path


def same(found: float, expected: float, what: str) -> None:
    assert abs(found - expected) <= 1e-9 * abs(expected), f"{what}: {found} != {expected}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
