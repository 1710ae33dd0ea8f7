"""Repeatability: shapes of a store measured once more in another process.

    python -m benchmarks.card.repeat --samples <folder> --out <folder>

Works on a CPU too. Times are compared as they are and brought to one machine speed by the probes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
from calib.measure.clock import StopRule
from calib.samples.drift import drift_corrected, typical, visits
from calib.samples.sample import Sample
from calib.samples.store import SampleStore

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.instrument import Instrument

LONG_S = 1e-3
BUDGET_S = 120.0
RULE = StopRule(0.01, 0.5, 10, 100)


def chosen(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Samples of at most ``most`` of the design's shapes that succeeded, evenly over the store."""
    usable = [s for s in samples if s.status == "ok" and s.origin == "design"]
    places = visits(usable)
    step = max(1, -(-len(places) // most))
    return [usable[i] for rows in places[::step] for i in rows]


def measured_again(
    samples: Sequence[Sample], instrument: Instrument, store: SampleStore
) -> list[Sample]:
    """The same operators swept into ``store``, in time; those that failed there are left out."""
    from calib.measure.sweep.plan import Point
    from calib.measure.sweep.sweep import Sweep

    points = list(dict.fromkeys(Point(s.op, s.cache) for s in samples))
    sweep = Sweep(instrument, store, BUDGET_S, instrument.rule(RULE))
    sweep.run(points, lambda state: iter(()))
    return [s for s in store.samples() if s.status == "ok"]


def compare(first: Sequence[Sample], second: Sequence[Sample], hardware: Hardware) -> pd.DataFrame:
    """A row a shape of both: the medians, their ratio, and the ratio at one machine speed."""
    import pandas as pd

    shapes = {s.key for s in first} & {s.key for s in second}
    sides = [[s for s in side if s.key in shapes] for side in (first, second)]
    corrected = drift_corrected([*sides[0], *sides[1]], hardware)
    parts = []
    for side, normalised in zip(sides, np.split(corrected, [len(sides[0])]), strict=True):
        places = visits(side)
        raw = typical(np.array([s.median for s in side]), places)
        known = [side[rows[0]] for rows in places]
        figures = zip(raw, typical(normalised, places), strict=True)
        parts.append({s.key: (s, *seconds) for s, seconds in zip(known, figures, strict=True)})
    rows = [
        {
            "kind": a.op.operator,
            "implementation": a.implementation,
            "cache": a.cache,
            "method": a.method,
            "first_s": first_s,
            "second_s": second_s,
            "ratio": second_s / first_s,
            "ratio_normalised": second_normalised / first_normalised,
        }
        for key, (a, first_s, first_normalised) in parts[0].items()
        for _, second_s, second_normalised in [parts[1][key]]
    ]
    return pd.DataFrame(rows)


def figures(table: pd.DataFrame) -> dict[str, Any]:
    """Median and 90th percentile of the difference, of all and of what takes over a millisecond."""
    found: dict[str, Any] = {"shapes": len(table)}
    for name, part in (("all", table), ("over_1_ms", table[table["first_s"] > LONG_S])):
        for column in ("ratio", "ratio_normalised"):
            off = np.abs(np.asarray(part[column], dtype=float) - 1)
            label = f"{name}_{'raw' if column == 'ratio' else 'normalised'}"
            found[f"{label}_median"] = float(np.median(off)) if len(off) else None
            found[f"{label}_p90"] = float(np.quantile(off, 0.9)) if len(off) else None
    found["over_1_ms"] = int((table["first_s"] > LONG_S).sum())
    return found


def main(arguments: list[str] | None = None) -> int:
    from calib.measure.allocator import keep_freed_memory

    keep_freed_memory()  # as the sweep does, before torch is imported
    from calib.steps.target import find_target, open_instrument, probed

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.repeat")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=200)
    options = parser.parse_args(arguments)
    target = probed(find_target(None, options.samples, "run"))
    first = chosen(target.store.samples(), options.most)
    store = SampleStore(options.out / "repeat", target.store.hardware, target.device)
    if not first:
        raise CalibError(f"{options.samples} holds no samples of {target.device}: sweep first")
    table = compare(first, measured_again(first, open_instrument(target), store), target.hardware)
    table.to_parquet(options.out / "repeat.parquet")
    (options.out / "repeat.json").write_text(json.dumps(figures(table), indent=1), "utf-8")
    print(json.dumps(figures(table)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
