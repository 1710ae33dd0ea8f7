"""The first run on an H200, replayed with host costs that mean something, beside its clock.

    python -m benchmarks.host_replay

The run (``benchmarks/data/h200/first_run``, DeepSeek-OCR, a page of 1024 pixels, the first host)
was 721% off: module code held attention's plans. Here its own kernel times and launches are
replayed with an eager operator, a launch, a sync and the gaps as that host's samples hold them,
the classes by the ratios of ``conf/host_costs.yaml``, and module code from either of two records,
neither of them a phase of the run that is estimated:

- ``miniature``: the second round of the miniature's decode step, 12.63 ms. It was profiled on a
  host of the second kind (no file says which: its launches cost 46 microseconds, the second host's
  31 to 41, the first's 21), so it is brought to the first host by what a module's clock costs on
  each: Python and two events, 21.5 microseconds on the first, 43.4 to 48.8 on the second.
- ``step``: another process's eager decode steps on the first host, all at one length
  (``ocr_base_decode_graph.json``). The decode phase is then no prediction; vision and prefill are.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.host_classes import H200, PHASES
from calib.samples.files import read_samples
from calib.samples.host_costs import (
    EAGER,
    EAGER_OPERATOR,
    MODULE_CODE,
    HostCosts,
    host_class,
    host_costs,
    ratios,
)
from calib.samples.sample import Sample
from model.layer import Call

if TYPE_CHECKING:
    import pandas as pd

MINIATURE, STEP = "miniature", "step"
FIRST, AGAIN = "plain first", "plain again"
HOSTS_SECOND = ("ocr_tiny", "ocr_base", "ocr_gundam")
LLAMA = "llama_3_1_8b"


def estimates() -> pd.DataFrame:
    """The first run's rows; its wall times are to be replaced."""
    import pandas as pd

    return pd.read_parquet(H200 / "first_run" / "estimates.parquet")


def clock() -> dict[str, float]:
    """Seconds of every phase of the first run: the medians that its report gives, in ms."""
    text = (H200 / "first_run" / "report.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) ms \| [\d., ]+ ms \|", text, re.M)
    return {phase: float(ms) / 1e3 for phase, ms in rows}


def hook_seconds() -> tuple[float, list[float]]:
    """What a module's clock costs on the first host, and in three processes on the second."""
    text = (H200 / "first_run" / "report.md").read_text("utf-8")
    first = re.findall(r"a module's clock costs \| ([\d.]+) µs", text)
    second = [
        json.loads((H200 / "reference" / name / "measurement.json").read_text("utf-8"))
        for name in HOSTS_SECOND
    ]
    return float(first[0]) / 1e6, [m["overheads"]["hook_s"] for m in second]


def miniature_step(which: str) -> float:
    """Seconds of the miniature's step over new lengths (``FIRST``) or known ones (``AGAIN``)."""
    text = (H200 / "miniature_profile.txt").read_text("utf-8")
    return float(re.findall(rf"{which} host ms ([\d.]+)", text)[0]) / 1e3


@dataclass(frozen=True)
class Step:
    """A decode step: seconds, and the launches in it by class."""

    seconds: float
    launches: Mapping[str, int]

    @property
    def count(self) -> int:
        return sum(self.launches.values())

    @property
    def mean_ratio(self) -> float:
        """The mean operator over a pointwise one."""
        of = ratios().of_class
        return sum(of[name] * n for name, n in self.launches.items()) / self.count

    def module_code(self, eager_s: float) -> float:
        """Seconds a launch, for a host where a pointwise operator alone takes ``eager_s``."""
        return self.seconds / self.count - self.mean_ratio * eager_s


def counted(calls: Iterable[tuple[str, int, int]]) -> dict[str, int]:
    """Launches by class; ``calls``: kind, launches of one execution, executions."""
    found: dict[str, int] = {}
    for kind, each, count in calls:
        name = host_class(kind, each)
        found[name] = found.get(name, 0) + each * count
    return found


def steps() -> dict[str, Step]:
    """What module code is taken from, on the first host."""
    from calib.measure.reference.miniature import MINIATURE as DIMENSIONS
    from model.deepseek_ocr import DeepseekOCRModel

    dimensions: Any = DIMENSIONS
    calls: list[Call] = list(DeepseekOCRModel(**dimensions).decode_step(context=66))
    first, second = hook_seconds()
    seconds = miniature_step(AGAIN) * first / statistics.median(second)
    rows = estimates().query("phase == 'decode'")
    columns = zip(rows["kind"], rows["launches"], rows["count"], strict=True)
    graph = json.loads((H200 / "ocr_base_decode_graph.json").read_text("utf-8"))
    return {
        MINIATURE: Step(seconds, counted((c.op.operator, c.launches, c.count) for c in calls)),
        STEP: Step(statistics.median(graph["eager_s"]), counted(columns)),
    }


def costs(step: Step) -> HostCosts:
    """The first host's, module code by ``step``."""
    swept = read_samples(H200 / "first_run" / "sweep.parquet")
    samples = [s for s in swept if s.origin == "host"]
    eager = next(s for s in samples if s.op == EAGER_OPERATOR)
    code = step.module_code(eager.median)
    made: Sample = replace(eager, op=MODULE_CODE, seconds=[code])
    return host_costs([*samples, made], "h200")


def replayed(step: Step) -> dict[str, float]:
    """Phase -> seconds of the wall."""
    from calib.estimates.timeline import with_wall

    rows = estimates()
    repeats = {"vision": 1, "prefill": 1, "decode": 16}
    walled = with_wall(rows, repeats, costs(step), EAGER)
    return {phase: float(walled.loc[walled["phase"] == phase, "wall_s"].sum()) for phase in PHASES}


def plans() -> dict[str, float]:
    """Seconds of one plan: a step over new lengths less the same launches without.

    Of the text model that is what its prefill, with a plan that was made before, takes a launch.
    In the evening every model decoded over seen lengths and then, without a pause, over new ones.
    """
    rows = json.loads((H200 / "first_run" / "models" / "models.json").read_text("utf-8"))
    host = {(r["model"], r["workload"], r["phase"]): r for r in rows}
    issued = host[LLAMA, "text", "prefill"]
    a_launch = statistics.median(issued["host"]) / issued["operators"]
    found = {"miniature": miniature_step(FIRST) - miniature_step(AGAIN)}
    for workload in ("text", "text_b16"):
        step = host[LLAMA, workload, "decode"]
        found[f"{LLAMA}, {workload}"] = (
            statistics.median(step["host"]) - a_launch * step["operators"]
        )
    for row in json.loads((H200 / "models" / "models.json").read_text("utf-8")):
        if row["seconds_again"]:
            passes, seconds, _ = row["eager_energy"]
            name = f"{row['model']}, {row['workload']}, evening"
            found[name] = seconds / passes - statistics.median(row["seconds_again"])
    return found


def main() -> None:
    measured = clock()
    samples = read_samples(H200 / "first_run" / "sweep.parquet")
    eager_s = next(s for s in samples if s.op == EAGER_OPERATOR).median
    print("| module code from | us a launch | over an operator | mean operator | phase | wall |")
    print("|---|---:|---:|---:|---|---|")
    for name, step in steps().items():
        code = step.module_code(eager_s)
        for phase, seconds in replayed(step).items():
            error = seconds / measured[phase] - 1
            print(
                f"| {name} | {code * 1e6:.2f} | {code / eager_s:.2f} | {step.mean_ratio:.2f} | "
                f"{phase} | {seconds * 1e3:.1f} of {measured[phase] * 1e3:.1f} ms, {error:+.1%} |"
            )
    for name, seconds in plans().items():
        print(f"a plan, {name}: {seconds * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
