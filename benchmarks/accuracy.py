"""How accurate calib is on held-out shapes and cards, beside what others do on the same rows.

    python -m benchmarks.accuracy                    development groups, one seed
    python -m benchmarks.accuracy --only gemm-h200   cases whose name contains it
    python -m benchmarks.accuracy --final            final groups, five seeds, docs/accuracy.md
    python -m benchmarks.accuracy --final --stored   the report of what such a run has scored so far

Needs the public tables (``make public``). Rows of a case are kept in the work folder under a
fingerprint of the code that made them, so a run that was stopped goes on where it was. The last
line printed is one JSON object with all figures.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.scoring import report
from benchmarks.scoring.cases import CASES, Case
from benchmarks.scoring.score import Setting, baseline_scores, calib_scores, disagreement, setting
from benchmarks.scoring.splits import DEVELOPMENT_SEEDS, FINAL_SEEDS
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.samples.public_tables import TABLES

Scores = Callable[[Setting], Iterator[dict[str, Any]]]
_SCORING = tuple(f"benchmarks/scoring/{n}.py" for n in ("baselines", "rows", "score", "splits"))
PARTS: dict[str, tuple[Scores, tuple[str, ...]]] = {
    "baselines": (baseline_scores, (*_SCORING, "calib/samples/public*.py")),
    "calib": (
        calib_scores,
        (
            *_SCORING,
            "calib/fit/**/*.py",
            "calib/hardware/*.py",
            "calib/measure/sweep/choice.py",
            "calib/samples/*.py",
        ),
    ),
}
"""Part of a case -> what scores it, and the files that its rows depend on."""


def fingerprint(case: Case, patterns: Iterable[str]) -> str:
    """Of the code and the data that the rows of a case depend on, cards and formulas included."""
    operator = TABLES[case.table].operator
    cards = [load_hardware(card) for card in (case.card, *case.donors)]
    digest = hashlib.sha256(repr((case, cards)).encode())
    digest.update(inspect.getsource(operator).encode())
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def score(
    case: Case, final: bool, work: Path, seeds: tuple[int, ...], stored: bool = False
) -> list[pd.DataFrame]:
    """All methods on all seeds of a case; what the work folder holds is not computed again.

    ``stored``: and what it does not hold is left out.
    """
    parts = []
    for seed in seeds:
        for part, (scores, files) in PARTS.items():
            path = work / f"{case.name}-{seed}-{part}-{fingerprint(case, files)}.parquet"
            if stored and not path.exists():
                continue
            if not path.exists():
                start = time.perf_counter()
                rows = pd.DataFrame(scores(setting(case, seed, final)))
                rows["part_s"] = time.perf_counter() - start
                _write(rows, path)
                print(_line(rows, part), file=sys.stderr, flush=True)
            parts.append(pd.read_parquet(path))
    return parts


def _units(cases: Iterable[Case], seeds: tuple[int, ...]) -> list[tuple[Case, tuple[int, ...]]]:
    """What one process does at a time, the longest last: a seed of a case.

    Without a sample of the card all seeds share one fit, so they stay together.
    """
    units = [
        (case, some)
        for case in cases
        for some in ([seeds] if case.budget == 0 else [(seed,) for seed in seeds])
    ]
    return sorted(units, key=lambda unit: (bool(unit[0].donors and unit[0].budget), unit[1][0]))


def _write(rows: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    rows.to_parquet(temporary)
    temporary.replace(path)


def _line(rows: pd.DataFrame, part: str) -> str:
    first = rows.iloc[0]
    figures = (f"{r['method']} {r['selection']} {100 * r['mean']:.1f}%" for _, r in rows.iterrows())
    head = f"{first['case']} seed {first['seed']} {part} ({first['part_s']:.0f} s)"
    return f"{head}: {'; '.join(figures)}"


def run(only: str, final: bool, work: Path, jobs: int, stored: bool = False) -> pd.DataFrame:
    """One row a case, seed, method and selection."""
    from joblib import Parallel, delayed

    wanted = [case for case in CASES if only in case.name]
    if not wanted:
        names = ", ".join(case.name for case in CASES)
        raise CalibError(f"--only = {only!r}: expected a part of one of {names}")
    seeds = FINAL_SEEDS if final else DEVELOPMENT_SEEDS
    folder = work / ("final" if final else "development")
    units = _units(wanted, seeds)
    parts = Parallel(n_jobs=jobs)(delayed(score)(c, final, folder, s, stored) for c, s in units)
    rows = [rows for unit in parts for rows in unit]
    if not rows:
        raise CalibError(f"--stored: {folder} holds no score of this code: expected a run before")
    return pd.concat(rows, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KeepLines)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--final", action="store_true", help="the final groups, five seeds")
    parser.add_argument("--stored", action="store_true", help="score nothing, report what there is")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "accuracy")
    parser.add_argument("--out", type=Path, help="default: docs with --final, else the work folder")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--variants", default="not stated", help="how many models were tried")
    options = parser.parse_args()
    try:
        stored = options.stored
        scores = run(options.only, options.final, options.work, options.jobs, stored)
        noise = disagreement(options.final)
    except CalibError as error:
        sys.exit(str(error))
    out = options.out or (ROOT / "docs" if options.final else options.work)
    report.write(scores, noise, out, final=options.final, variants=options.variants)
    print(json.dumps(report.figures(scores, noise, options.final)))


class _KeepLines(argparse.RawDescriptionHelpFormatter):
    """The commands of the docstring stay commands."""


if __name__ == "__main__":
    main()
