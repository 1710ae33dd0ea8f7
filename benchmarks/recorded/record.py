"""A record of one card: a folder of samples, of whole models by phase, and of replayed graphs.

    pool.parquet                                   samples of shapes drawn at random
    sweep.parquet                                  samples of a sweep, host costs (may be missing)
    first_run/pool.parquet, first_run/sweep.parquet    of an earlier day (may be missing)
    models/models.json                             model, workload, phase, repeat, seconds, graph_s
    models/<model>.<workload>.<phase>.parquet      order, path, aten, kind, shapes, dtypes, seconds
    reference/<workload>/                          DeepSeek-OCR, as ``save_measurement`` leaves it
    <workload>_decode_graph.json                   a decode step of it as a replayed graph
    hosts.json                                     the machine of sweep, models, reference, by name
                                                   (may be missing: one for all)

All seconds here are those of one pass of a phase: of a decode phase, one step. Decode steps of
``models/`` are timed twice (:mod:`benchmarks.card.models`): ``seconds`` over lengths that the
process meets for the first time, ``seconds_again`` over the same. Those of ``reference/`` had been
warmed up.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.recorded.disturbed import undisturbed
from calib.cards.build.own_samples import recorded
from calib.errors import CalibError
from calib.estimates.replay.first_time import DECODE
from calib.measure.reference.measurement import Measurement
from calib.measure.reference.stored import load_measurement
from calib.samples.sample import Sample

if TYPE_CHECKING:
    import pandas as pd

REFERENCE, REFERENCES = "deepseek_ocr", "reference"
"""The model of ``reference/``, and that folder."""


@dataclass(frozen=True)
class Recorded:
    """One phase of one model under one workload, as the card ran it.

    ``operators``: path, aten, kind, shapes, dtypes, seconds, in order. ``wall_s``: eager, the
    median of its runs; ``new_lengths``: each of them over a length that was new. ``again_s``: over
    lengths that were seen; ``while_s``: the mean pass of some hundreds of milliseconds, minutes
    later, over new lengths again. ``graph_s``: a replayed graph. None where none was recorded.
    ``known_host``: the machine whose host costs the record holds. ``slower``, ``again_slower``:
    what that host took around the runs over what it took when its costs were measured; 1 where no
    probe asked it.
    ``disturbed``: by the profiler's first session, and corrected
    (:mod:`benchmarks.recorded.disturbed`).
    """

    model: str
    workload: str
    phase: str
    repeat: int
    operators: pd.DataFrame
    wall_s: float | None
    graph_s: float | None = None
    new_lengths: bool = False
    again_s: float | None = None
    while_s: float | None = None
    known_host: bool = True
    slower: float = 1.0
    again_slower: float = 1.0
    disturbed: bool = False

    @property
    def kernel_s(self) -> float:
        """Seconds of all kernels of a pass, by the profiler."""
        return float(self.operators["seconds"].sum())

    @property
    def name(self) -> str:
        return f"{self.model} {self.workload} {self.phase}"


@dataclass(frozen=True)
class Record:
    """What a folder holds. ``measured``: the whole measurements that have a workload's fields."""

    folder: Path
    pool: list[Sample]
    sweep: list[Sample]
    phases: list[Recorded]
    measured: dict[str, Measurement] = field(default_factory=dict)

    @property
    def hardware(self) -> str:
        return self.pool[0].hardware


def read_record(folder: Path) -> Record:
    """Raises ``CalibError`` for a folder without a pool, or with a broken file."""
    pool = recorded(folder, "pool.parquet")
    if not pool:
        raise CalibError(f"{folder / 'pool.parquet'} holds no samples")
    sweep = recorded(folder, "sweep.parquet", pool[0].hardware)
    where = sorted((folder / REFERENCES).glob("*/measurement.json"))
    measured = {path.parent.name: load_measurement(path.parent) for path in where}
    phases = [
        *(
            replace(one, known_host=same_host(folder, "models"))
            for one in models(folder / "models")
        ),
        *(
            replace(o, known_host=same_host(folder, REFERENCES))
            for o in references(folder, measured)
        ),
    ]
    return Record(folder, pool, sweep, phases, measured)


def same_host(folder: Path, part: str) -> bool:
    """Whether ``part`` was recorded on the machine whose host costs the sweep holds."""
    path = folder / "hosts.json"
    hosts = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return bool(hosts.get(part) == hosts.get("sweep"))


def models(folder: Path, costs_speed: float | None = None) -> Iterator[Recorded]:
    """The phases that ``models.json`` lists; one whose operators are not there is told and left.

    ``costs_speed``: operators a second of the host when its costs were measured.
    """
    import pandas as pd

    listed = folder / "models.json"
    for one in json.loads(listed.read_text("utf-8")) if listed.exists() else ():
        key = (one["model"], one["workload"], one["phase"])
        path = folder / f"{'.'.join(key)}.parquet"
        if not path.exists():
            print(f"{listed} lists {' '.join(key)}, but {path.name} is missing", file=sys.stderr)
            continue
        rows = pd.read_parquet(path).sort_values("order").reset_index(drop=True)
        operators, disturbed = undisturbed(rows)
        yield Recorded(
            *key,
            int(one.get("repeat", 1)),
            operators,
            median(one.get("seconds")),
            one.get("graph_s"),
            new_lengths=key[-1] == DECODE,
            again_s=median(one.get("seconds_again")),
            while_s=a_pass(one.get("eager_energy")),
            slower=slower(costs_speed, one.get("host_speed")),
            again_slower=slower(costs_speed, one.get("host_speed_again")),
            disturbed=disturbed,
        )


def slower(costs_speed: float | None, around: Sequence[float] | None) -> float:
    return costs_speed / statistics.fmean(around) if costs_speed and around else 1.0


def median(seconds: Sequence[float] | None) -> float | None:
    return statistics.median(seconds) if seconds else None


def a_pass(counted: Sequence[float] | None) -> float | None:
    """Seconds of one; ``counted``: passes, their seconds, and more."""
    return counted[1] / counted[0] if counted else None


def references(folder: Path, measured: dict[str, Measurement]) -> Iterator[Recorded]:
    for workload, found in measured.items():
        graph = folder / f"{workload}_decode_graph.json"
        steps = json.loads(graph.read_text("utf-8")) if graph.exists() else {}
        for phase, repeat in found.repeat.items():
            operators: Any = found.operators[found.operators["phase"] == phase]
            yield Recorded(
                REFERENCE,
                workload,
                phase,
                repeat,
                operators.sort_values("order").reset_index(drop=True),
                found.phase_seconds(phase) / repeat,
                steps.get("graph_median_s") if phase == DECODE else None,
            )
