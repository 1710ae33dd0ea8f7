"""What a collective takes by its link alone, beside the public tables' runs of NCCL.

    python -m benchmarks.links

A line a card: rows, and the 5th, 50th and 95th percentile of measured over
:func:`calib.hardware.links.link_seconds`; the last is over all cards alike. The interval of a
collective that no table knows is read off it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calib.hardware.datasheet import load_hardware
from calib.hardware.links import link_seconds, nodes_of
from calib.samples.public import package_data
from calib.samples.public_tables import CARDS
from model.ops import AllGather, AllReduce, AllToAll, Collective, ReduceScatter, grid

KINDS: dict[str, type[Collective]] = {
    "all_reduce": AllReduce,
    "all_gather": AllGather,
    "reduce_scatter": ReduceScatter,
    "alltoall": AllToAll,
}
DTYPES = {"half": "float16", "int8": "int8"}


def main() -> None:
    ratios = {card: ratios_of(card) for card in CARDS}
    known = {card: found for card, found in ratios.items() if len(found)}
    for card, found in known.items():
        print(line(card, found))
    alike = np.concatenate([np.quantile(found, np.linspace(0, 1, 201)) for found in known.values()])
    print(line("all, alike", alike))


def line(name: str, ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
    return f"{name:14} {len(ratios):6} {low:6.2f} {middle:6.2f} {high:6.2f}"


def ratios_of(card: str) -> np.ndarray:
    """[rows] measured seconds over the formula's, on up to as many cards as share a link."""
    root = package_data() / CARDS[card] / "comm" / "nccl"
    files = sorted(root.glob("*/nccl_perf.parquet"), key=version)
    if not files:
        return np.array([])
    rows, hardware = pd.read_parquet(files[-1]), load_hardware(card)
    found = []
    for (name, dtype), some in rows.groupby(["op_name", "nccl_dtype"]):
        if name not in KINDS or dtype not in DTYPES:
            continue
        ranks, elements = some["num_gpus"].to_numpy(), some["message_size"].to_numpy()
        nodes = np.array([nodes_of(int(n), hardware.links) for n in ranks])
        op = grid(KINDS[name], elements=elements, ranks=ranks, dtype=DTYPES[dtype], nodes=nodes)
        expected = link_seconds(op, hardware.links)
        found.append(some["latency"].to_numpy() * 1e-3 / expected)
    return np.concatenate(found)


def version(path: Path) -> list[int]:
    return [int(part) for part in path.parent.name.split(".") if part.isdigit()]


if __name__ == "__main__":
    main()
