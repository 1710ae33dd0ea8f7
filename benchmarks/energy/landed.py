"""From what ``benchmarks.card.models`` left to the two tables of counted phases.

Operators are joined to calib's calls by path and order, as ``benchmarks.recorded`` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.energy.phases import NAMES, WORK
from benchmarks.recorded.estimates import matched
from benchmarks.recorded.record import Record, Recorded, models
from benchmarks.recorded.workloads import phases_of
from calib.cards.energy.fitted import work_of
from calib.estimates.tables import found_in_cache, operator_table
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import Hardware
from calib.samples.host_costs import EAGER, GRAPH
from model.workload import Phase


def land(source: Path, target: Path, hardware: Hardware) -> None:
    """``source``: the folder with ``models.json``; ``target``: gets the two tables."""
    record = Record(source, [], [], list(models(source)))
    phases = phases_of(record)
    parts = [operators_of(one, phases[one.model, one.workload], hardware) for one in record.phases]
    listed = json.loads((source / "models.json").read_text("utf-8"))
    counted = [row for one in listed for row in counted_of(one, hardware.name)]
    for name, table in (("phases", pd.DataFrame(counted)), ("phase_operators", pd.concat(parts))):
        table.to_parquet(target / f"{name}.parquet", compression="zstd", index=False)


def counted_of(one: dict[str, Any], hardware: str) -> Iterator[dict[str, Any]]:
    for execution in (EAGER, GRAPH):
        if one.get(f"{execution}_energy"):
            passes, seconds, joules = one[f"{execution}_energy"]
            names = {"hardware": hardware, **{n: one[n] for n in NAMES}, "execution": execution}
            yield {**names, "passes": int(passes), "seconds": seconds, "joules": joules}


def operators_of(one: Recorded, phases: dict[str, Phase], hardware: Hardware) -> pd.DataFrame:
    passes = {one.phase: phases[one.phase]}
    names = {"model": one.model, "workload": one.workload}
    table = operator_table(passes, uncalibrated(hardware), None, "torch", names)
    repeat = passes[one.phase].repeat
    joined, _ = matched(table, one, repeat)
    ops = [call.op for call in passes[one.phase].layer.calls()]
    work = work_of(ops, [found_in_cache(op, hardware) for op in ops], hardware)
    rows = joined[["kind", "shape", "dtype"]].assign(
        executions=joined["count"], seconds=joined["measured_s"].astype(float) / repeat
    )
    rows[WORK] = work * joined["count"].to_numpy(dtype=float)[:, None]
    known = rows[rows["seconds"].notna()]
    found = known.groupby(["kind", "shape", "dtype"], sort=False).sum().reset_index()
    return found.assign(model=one.model, workload=one.workload, phase=one.phase)
