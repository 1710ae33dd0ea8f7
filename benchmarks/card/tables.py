"""Our measurement beside public tables of the same card, by the tables' own recipe: hot, replayed.

    python -m benchmarks.card.tables --samples <folder> --out <folder>

Shapes of the tables are measured here through torch, hot, what is short as a graph. The tables come
from the package ``aiconfigurator-core`` or, where it is not installed, from a file that
``benchmarks.card.wheels`` carried. Their kernels are the engine's: products are the vendor's as
torch's are, attention is FlashAttention.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.errors import CalibError
from calib.measure.clock import StopRule
from calib.samples.files import read_samples, write_samples
from calib.samples.sample import Sample

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.instrument import Instrument

READ = ("gemm", "context_attention", "generation_attention")
EACH = 150
"""Shapes of a table that are carried and measured, evenly over it."""
CARRIED = Path("wheels")
RULE = StopRule(0.01, 0.25, 10, 100)


def from_package(card: str) -> list[Sample]:
    """``EACH`` shapes of every table of ``card``, evenly spread. Raises ``CalibError``."""
    from calib.samples.public import public_samples

    picked: list[Sample] = []
    for table in READ:
        rows = [s for s in public_samples(card, (table,)) if s.op.flops < 2e13]
        rows.sort(key=lambda s: s.median)
        picked += rows[:: max(1, len(rows) // EACH)][:EACH]
    return picked


def carry(folder: Path) -> Iterator[str]:
    """Write the tables of every card into ``folder``, a small file each; lines for the reader."""
    try:
        from calib.samples.public import package_data
        from calib.samples.public_tables import CARDS

        package_data()
    except CalibError as error:
        yield f"no public tables are carried: {error}"
        return
    for card in CARDS:
        path = write_samples(folder / f"public_{card}.parquet", from_package(card))
        yield f"{path.stat().st_size / 2**10:7.1f} KiB  {path.name}"


def public(card: str, carried: Path = CARRIED) -> list[Sample]:
    """The tables' samples of ``card``. Raises ``CalibError`` where there are none."""
    path = carried / f"public_{card}.parquet"
    return read_samples(path) if path.exists() else from_package(card)


def measured(samples: Sequence[Sample], instrument: Instrument) -> pd.DataFrame:
    """A row a shape that runs here: the table's seconds, ours, and ours over theirs."""
    import pandas as pd

    instrument.warm_up()
    rule, rows = instrument.rule(RULE), []
    for sample in samples:
        reading = instrument.measure(sample.op, "torch", "hot", rule)
        if reading.status != "ok":
            continue
        ours = float(np.median(reading.seconds))
        rows.append(
            {
                "kind": sample.op.operator,
                "shape": json.dumps(sample.op.shape()),
                "source": sample.implementation,
                "method": reading.method,
                "table_s": sample.median,
                "ours_s": ours,
                "ratio": ours / sample.median,
                "sm_clock_hz": reading.telemetry.sm_clock_hz,
            }
        )
    columns = ["kind", "shape", "source", "method", "table_s", "ours_s", "ratio", "sm_clock_hz"]
    return pd.DataFrame(rows, columns=columns)


def figures(table: pd.DataFrame) -> dict[str, Any]:
    """By kind: shapes, the median ratio, and median and 90th percentile of |ratio - 1|."""
    found = {}
    for kind, part in table.groupby("kind"):
        ratio = np.asarray(part["ratio"], dtype=float)
        found[str(kind)] = {
            "shapes": len(part),
            "median_ratio": float(np.median(ratio)),
            "median_difference": float(np.median(np.abs(ratio - 1))),
            "p90_difference": float(np.quantile(np.abs(ratio - 1), 0.9)),
        }
    return found


def main(arguments: list[str] | None = None) -> int:
    from calib.steps.target import find_target, open_instrument

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.tables")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    target = find_target(None, options.samples, "run")
    if not target.on_card:
        raise CalibError("tables: no CUDA device: expected one, since no table is of a CPU")
    table = measured(public(target.hardware.name), open_instrument(target))
    table.to_parquet(options.out / "tables.parquet")
    (options.out / "tables.json").write_text(json.dumps(figures(table), indent=1), "utf-8")
    print(json.dumps(figures(table)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
