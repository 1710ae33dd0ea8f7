"""Samples of one shape on two days, on two machines of one kind: ``python -m benchmarks.two_days``.

The record of an H200 holds what was measured in the morning (``first_run``), and what in the
evening by code that times otherwise. For each way to time then and now: how many shapes both have,
by how many microseconds they differ, and by what share. What a graph's node cost besides, which was
taken off from the second day on, is the difference of samples that are graphs on both; of those
that it was wrongly taken off (``short gap``), it is told apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calib.cards.build.own_samples import EARLIER, FILES, RECORDS
from calib.samples.faults import SHORT_GAP, SHORT_S, faults_of
from calib.samples.files import read_samples
from calib.samples.sample import Sample


def timed(folder: Path, card: str) -> dict[tuple[object, ...], Sample]:
    read = [s for name in FILES for s in read_samples(folder / name, hardware=card)]
    usable = [s for s in read if s.status == "ok" and s.seconds and s.op.bytes]
    return {(s.op, s.cache, s.implementation): s for s in usable}


def differences(card: str) -> pd.DataFrame:
    """A row a shape that both days have: ``then``, ``now`` (method), cache, us, share."""
    now, then = timed(RECORDS / card, card), timed(RECORDS / card / EARLIER, card)
    rows = [
        (
            *(then[key].method, now[key].method, now[key].cache, then[key].median),
            *(now[key].median, now[key].op.operator, SHORT_GAP in faults_of(now[key])),
        )
        for key in now.keys() & then.keys()
    ]
    names = ["then", "now", "cache", "then_s", "now_s", "kind", "short"]
    table = pd.DataFrame(rows, columns=names)
    table["us"] = (table["now_s"] - table["then_s"]) * 1e6
    return table.assign(share=table["now_s"] / table["then_s"] - 1)


def main(card: str = "h200") -> None:
    table = differences(card)
    graphs = table[(table["then"] == "graph") & (table["now"] == "graph")]
    groups = table.groupby(["then", "now", "cache"])
    spread = groups["share"].agg(lambda s: float(np.quantile(np.abs(s - s.median()), 0.5)))
    shown = groups[["us", "share"]].median().assign(shapes=groups.size(), around=spread)
    print(shown[shown["shapes"] >= 5].round(3).to_string())
    print(
        f"{len(table)} shapes of both days; as a graph on both {len(graphs)}: "
        f"{graphs['us'].median():+.2f} us"
    )
    some = graphs[graphs["short"] & (graphs["kind"] != "attention") & (graphs["now_s"] < SHORT_S)]
    off = (some["us"] - some["us"].median()).abs().quantile(0.9)
    print(
        f"short kernels less a gap, other than attention: {len(some)}, "
        f"{some['us'].median():+.2f} us, nine in ten within {off:.2f}"
    )


if __name__ == "__main__":
    main()
