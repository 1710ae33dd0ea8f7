"""One folder a run: every file is written under a temporary name, and all are renamed at the end.

A folder that cannot be written, or a disk that is full, ends in one ``ReportError``; the files
that were there before are then as they were.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.report.document.write import report_markdown
from calib.report.layers.analytic_report import AnalyticModelReport
from calib.report.layers.build import build_report, plain
from calib.report.layers.tree import branches
from calib.report.page.sums import distinct
from calib.report.record import RunRecord
from calib.report.trace_file import chrome_trace
from model.architectures import ARCHITECTURES

if TYPE_CHECKING:
    import pandas as pd

LAYERS = "layers"
OUTPUTS = (
    *("estimates.parquet", "modules.parquet", "report.json", "report.yaml", "report.md"),
    *("report.html", "trace.json", "roofline.png", "accuracy.png", "kinds.png", "components.png"),
    *("environment.json", "config.yaml", "front.parquet", "front.md", "front.png"),
    "front.html",
)
"""All that a run may write, beside the pages of :data:`LAYERS`."""


class ReportError(CalibError, OSError):
    """A report that cannot be written; says where and why."""


def write_report(
    record: RunRecord,
    folder: Path | str,
    pictures: bool = True,
    layers: bool | None = None,
    config: Mapping[str, str] | None = None,
    html: bool = True,
) -> list[Path]:
    """Write all files of one run into ``folder`` and return their paths.

    ``layers``: whether to write the layer documents; by default where there are pictures, and in
    mode ``analytic``. ``config``: files of what was asked, by name, with their text. ``html``:
    whether to write the page.

    Raises ``ReportError``, an ``OSError``, naming the folder; nothing is then half-written. Where a
    picture, a text or a page cannot be made, for a package that is missing or a fault of ours, all
    that can be is written before that is raised: what was measured stands in the tables.
    """
    target, faults = Path(folder), list[Exception]()
    documents = layers if layers is not None else pictures or record.mode == "analytic"
    documents = documents and record.architecture in ARCHITECTURES  # others have no formulas
    with renamed_at_the_end(target) as (staging, written):
        write_tables(record, staging)
        images: list[tuple[str, str]] = []
        if pictures and record.timed:
            with put_off(faults):
                images = _draw(record, staging)
        tree = branches(record)
        report = build_report(record, tree, target / LAYERS if documents else None)
        write_data(report, staging)
        (staging / "environment.json").write_text(_json(plain(record.environment)), "utf-8")
        write_config(config or {}, staging)
        operators = distinct(record)
        with put_off(faults):
            text = report_markdown(record, tree, images, LAYERS if documents else None, operators)
            (staging / "report.md").write_text(text, encoding="utf-8")
        with put_off(faults):
            write_trace(record, staging)
        if html:
            with put_off(faults):
                from calib.report.page.write import write_page

                write_page(record, tree, staging, operators)
        if documents:
            with put_off(faults):
                from calib.report.layers.pages import write_layer_docs

                write_layer_docs(report, staging / LAYERS)
    forget(target, written)
    if faults:
        raise faults[0]
    return written


def write_asked(config: Mapping[str, str], folder: Path) -> None:
    """What was asked, of a run that has no report. Raises ``ReportError``."""
    with renamed_at_the_end(folder) as (staging, _):
        write_config(config, staging)


def write_config(config: Mapping[str, str], folder: Path) -> None:
    """What was asked, by the names of its files below ``folder``."""
    for name, text in config.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@contextmanager
def put_off(faults: list[Exception]) -> Iterator[None]:
    """Keep an error of the block for later, but for one of the disk, after which nothing stands."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        faults.append(error)


def write_trace(record: RunRecord, folder: Path) -> None:
    """``trace.json``, where the launches were laid out."""
    if record.launches is not None:
        trace = chrome_trace(record.launches, record.hardware["name"], passes(record))
        (folder / "trace.json").write_text(json.dumps(trace), encoding="utf-8")


def passes(record: RunRecord) -> dict[str, int]:
    """How often each phase runs."""
    rows = [] if record.timeline is None else record.timeline.to_dict("records")
    return {str(row["phase"]): int(row["passes"]) for row in rows}


def forget(folder: Path, kept: Iterable[Path] = ()) -> None:
    """Remove what an earlier run left in its ``folder``, but for the files that are ``kept``."""
    stale = {*(folder / name for name in OUTPUTS), *(folder / LAYERS).glob("*.md")} - set(kept)
    for path in stale:
        with suppress(OSError):
            path.unlink()


def write_tables(record: RunRecord, folder: Path) -> None:
    record.operators.to_parquet(folder / "estimates.parquet", index=False)
    record.modules.to_parquet(folder / "modules.parquet", index=False)


def write_data(report: AnalyticModelReport, folder: Path) -> None:
    """``report.json`` and ``report.yaml``, the same fields in both."""
    import yaml

    fields = asdict(report)
    (folder / "report.json").write_text(_json(fields), encoding="utf-8")
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    with (folder / "report.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(fields, file, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _draw(record: RunRecord, folder: Path) -> list[tuple[str, str]]:
    from calib.report.pictures.of_run import draw_pictures

    return draw_pictures(record, folder)


def merge_estimates(folders: Iterable[Path | str], target: Path | str) -> Path:
    """``estimates.parquet`` of several runs as one file, each row with its run's folder as ``run``.

    Raises ``ReportError`` where a folder holds none, or ``target`` cannot be written.
    """
    import pandas as pd

    path = Path(target)
    tables = [_estimates(Path(folder)) for folder in folders]
    if not tables:
        raise ReportError(f"{path}: there are no runs to merge: expected at least one folder")
    with renamed_at_the_end(path.parent) as (staging, _):
        pd.concat(tables, ignore_index=True).to_parquet(staging / path.name, index=False)
    return path


def _estimates(folder: Path) -> pd.DataFrame:
    import pandas as pd

    path = folder / "estimates.parquet"
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}): expected a run's estimates")
    return table.assign(run=folder.name)


@contextmanager
def renamed_at_the_end(target: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A staging folder inside ``target``; its files move to ``target`` when the block ends well.

    The list that is yielded with it then holds their paths. Raises ``ReportError`` for any
    ``OSError`` within.
    """
    existed, written = target.exists(), list[Path]()
    try:
        target.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=target))
        try:
            yield staging, written
            written += _move(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if not existed and not written:
                with suppress(OSError):
                    target.rmdir()
    except ReportError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ReportError(
            f"{target}: the report cannot be written ({reason}): expected a folder that can be "
            "written to, with some megabytes free"
        ) from error


def _move(staging: Path, target: Path) -> list[Path]:
    """Every file of ``staging`` renamed to the same place under ``target``."""
    moved = []
    for path in sorted(p for p in staging.rglob("*") if p.is_file()):
        final = target / path.relative_to(staging)
        final.parent.mkdir(exist_ok=True)
        moved.append(path.replace(final))
    return moved
