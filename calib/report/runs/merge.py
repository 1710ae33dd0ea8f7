"""What a sweep of runs adds up to: one row a run, and a picture of what they cost.

The rows are read from the runs' own ``report.json``, so a run that was made on another machine, or
yesterday, counts as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import FAILED
from calib.report.runs.grid import with_keys
from calib.report.runs.table import runs_table
from calib.report.write import merge_estimates, renamed_at_the_end

if TYPE_CHECKING:
    import pandas as pd


Stamps = Mapping[Path, int]
TABLE, PICTURE = "runs.parquet", "cost.png"


def stamps(folder: Path) -> Stamps:
    """What runs below ``folder`` have left there, and when it was written."""
    files = [f for name in (FAILED, "estimates.parquet") for f in folder.glob(f"*/{name}")]
    return {file: file.stat().st_mtime_ns for file in files}


def outcome(folder: Path, before: Stamps | None = None) -> tuple[list[Path], dict[str, str]]:
    """The runs below ``folder`` that have estimates, and of those that failed the reason.

    ``before``: ``stamps`` of the folder as the sweep found it; what is as it was is of another.
    """
    new = [file for file, at in stamps(folder).items() if (before or {}).get(file) != at]
    failed = sorted((f.parent for f in new if f.name == FAILED), key=_in_order)
    done = {f.parent for f in new} - set(failed)
    runs = sorted(done, key=_in_order)
    common = set[str].intersection(*map(set, map(_asked, [*runs, *failed]))) if failed else set()
    reasons = {}
    for run in failed:
        own = [word for word in _asked(run) if word not in common]
        name = f"{run.name} ({' '.join(own)})" if own else run.name
        reasons[name] = _last_line(run / FAILED)
    return runs, reasons


def _asked(run: Path) -> list[str]:
    """The overrides of a run, where Hydra has noted them."""
    import yaml

    try:
        words = yaml.safe_load((run / "config" / "overrides.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return []
    return [str(word) for word in words or ()]


def asked_of(run: Path) -> dict[str, str]:
    """The overrides of a run by key, in the order given; a text may stand in quotes."""
    pairs = (word.lstrip("+").partition("=") for word in _asked(run))
    return {key: value for key, _, value in pairs}


def _last_line(path: Path) -> str:
    return (path.read_text("utf-8").strip().splitlines() or ["no reason was noted"])[-1]


def merge_runs(
    folder: Path, runs: Sequence[Path], pictures: bool = True
) -> tuple[list[Path], pd.DataFrame]:
    """``runs`` as one in ``folder``: ``estimates.parquet``, ``runs.parquet``, ``cost.png``.

    Returns the paths written and the table of runs. Raises ``ReportError`` where there is no run,
    or for a file that cannot be read or written.
    """
    written = [merge_estimates(runs, folder / "estimates.parquet")]
    table = with_keys(runs_table(runs), [asked_of(run) for run in runs])
    with renamed_at_the_end(folder) as (staging, moved):
        table.to_parquet(staging / TABLE, index=False)
        if pictures:
            from calib.report.runs.picture import cost_picture

            cost_picture(table).savefig(staging / PICTURE, dpi=120)
    return written + moved, table


def _in_order(run: Path) -> tuple[int, str]:
    """10 comes after 9."""
    return (int(run.name) if run.name.isdigit() else -1, run.name)
