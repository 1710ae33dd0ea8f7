"""torch by an older CUDA on an H100: six public traces, each foretold from the other five.

The traces are read as ``samples.traces`` reads one: each call is asked what operator it is. Of a
model that is asked, no operator was learned from. ``--write`` writes what the build of cards learns
from. The last line is one JSON object.

    python -m benchmarks.older_torch
    python -m benchmarks.older_torch --write && python -m calib.cards.build older:h100
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recorded.text import lines, percent
from calib.cards.build.older_samples import FILE, RECORDS, fit_older
from calib.cards.older.shipped import taught_by
from calib.cards.shipped import FOLDER, load_card
from calib.estimates.tables import found_in_cache
from calib.fit.calibration import Estimator
from calib.hardware.datasheet import Hardware, floor, load_hardware
from calib.hardware.versions import OLDER
from calib.samples.files import write_samples
from calib.samples.sample import COLD, HOT, Sample
from calib.trace.profiled.called import Called, rows_of
from calib.trace.rules.table import calls_of

CARD = "h100"
TRACES = RECORDS / f"{CARD}_traces"
"""``kernels.csv``: a row an operator of a trace, and how it was read; ``samples.parquet``."""


def read_traces(path: Path = TRACES / "kernels.csv") -> pd.DataFrame:
    """Columns model, op, count and seconds of a call's kernels."""
    hardware, found = load_hardware(CARD), []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            calls = list(calls_of(rows_of(called(row))))
            if len(calls) != 1 or calls[0].count != 1:
                raise ValueError(f"{path}: {row['name']} of {row['model']} is no one operator")
            op, seconds = calls[0].op, float(row["kernel_us"]) / 1e6
            hot = found_in_cache(op, hardware)
            found.append((row["model"], op, int(row["count"]), seconds, hot))
    return pd.DataFrame(found, columns=["model", "op", "count", "seconds", "hot"])


def called(row: dict[str, str]) -> Called:
    parts = (json.loads(row[name]) for name in ("dims", "types", "strides", "inputs"))
    return Called(row["name"], *(_frozen(part) for part in parts))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def samples_of(table: pd.DataFrame) -> list[Sample]:
    return [
        Sample(
            row.op,
            [row.seconds],
            CARD,
            "torch",
            cache=HOT if row.hot else COLD,
            origin="public",
            group=row.model,
            method="profiler",
            versions={"cuda": OLDER},
        )
        for row in table.itertuples()
    ]


def foretold(table: pd.DataFrame, estimator: Estimator) -> np.ndarray:
    return estimator.estimate(list(table["op"]), "torch", list(table["hot"]))[
        "estimate_s"
    ].to_numpy()


def by_models(table: pd.DataFrame, hardware: Hardware) -> Iterator[dict[str, Any]]:
    """A row a model: what it took, by the roofline, as today's torch, and from the other models."""
    card = load_card(hardware)
    assert card is not None
    for model, asked in table.groupby("model"):
        others = samples_of(table[table["model"] != model])
        record, _ = fit_older(hardware, others, FOLDER)
        ways = {
            "roofline": np.array([float(floor(op, hardware)) for op in asked["op"]]),
            "today": foretold(asked, card),
            "older": foretold(asked, taught_by(card, record, hardware)),
        }
        count, seconds = asked["count"].to_numpy(), asked["seconds"].to_numpy()
        taken = float((count * seconds).sum())
        row: dict[str, Any] = {"model": model, "operators": len(asked), "seconds": taken}
        for name, each in ways.items():
            row[name] = float((count * each).sum() / taken - 1)
            row[f"{name}_each"] = float(np.abs(np.log(each / seconds)).mean())
        yield row


def report(rows: Sequence[dict[str, Any]]) -> str:
    ways = ("roofline", "today", "older")
    told = [
        [r["model"].partition("__")[0], f"{r['seconds'] * 1e3:.3g}", *(percent(r[w]) for w in ways)]
        + [f"{r[f'{w}_each']:.1%}" for w in ways[1:]]
        for r in rows
    ]
    mean = ["mean |error|", ""] + [f"{np.mean([abs(r[w]) for r in rows]):.1%}" for w in ways]
    mean += [f"{np.mean([r[f'{w}_each'] for r in rows]):.1%}" for w in ways[1:]]
    head = ["kernels of a trace", "ms", "roofline", "as today", "from others", "each", "each"]
    return lines(head, [*told, mean])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {FILE}")
    table = read_traces()
    if parser.parse_args().write:
        write_samples(TRACES / FILE, samples_of(table))
    rows = list(by_models(table, load_hardware(CARD)))
    print(report(rows))
    print(json.dumps({"models": rows}))


if __name__ == "__main__":
    main()
