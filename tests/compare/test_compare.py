"""The clock beside the estimates: the machine's drift is taken out alike in every table."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from calib.compare.clock.compare import compare, host_drift, slowdowns
from calib.estimates.sums import COMPONENTS
from calib.measure.probes import Speed
from calib.measure.reference.measurement import Measurement
from calib.measure.reference.tables import MODULE_COLUMNS, OPERATOR_COLUMNS
from calib.samples.sample import Sample
from model.ops import Matmul, Other

TIMES = {"vision": [1.0, 2.0, 1.5], "decode": [4.0, 9.0, 5.0]}
SPEEDS = (1.0, 0.5, 0.8)
"""Of the machine before each repeat, as part of that in the sweep."""


def measurement() -> Measurement:
    modules = [("vision", path, "Layer", 1, [0.4]) for _, path in COMPONENTS.values()]
    operators = [("decode", "", 0, 0, "mm", "matmul", "", "", 4.5, 0, [4.5])]
    profiled = {phase: {"seconds": [5.0], "events": 1, "operators": 1} for phase in TIMES}
    return Measurement(
        workload={},
        device="cpu",
        phases=TIMES,
        hooked={"vision": [1.0], "decode": [4.0]},
        repeat={"vision": 1, "decode": 1},
        modules=pd.DataFrame(modules, columns=list(MODULE_COLUMNS)),
        operators=pd.DataFrame(operators, columns=list(OPERATOR_COLUMNS)),
        experts_touched={},
        decoder_layers=1,
        parameters=1,
        memory_bytes=1,
        threads=1,
        overheads={"event_s": 0.0, "profiled": profiled},
        versions={},
    )


def test_one_error_for_a_phase_in_components_modules_and_operators() -> None:
    """A pass was slower by the mean of what the probes before and after it say."""
    rows = [
        {"phase": p, "path": "", "kind": "matmul", "count": 1, "launches": 1, "bound": "compute"}
        for p in TIMES
    ]
    times = {n: [1.0, 4.5] for n in ("estimate_s", "roofline_s", "estimate_unseen_s")}
    operators = pd.DataFrame(rows).assign(**times)
    modules = operators[["phase", "path", *times]]
    components = operators.drop(columns="phase").assign(component=list(TIMES))
    total = {"component": "total", **{n: sum(v) for n, v in times.items()}}
    components = pd.concat([components, pd.DataFrame([total])], ignore_index=True)
    speeds = {}
    for repeat, speed in enumerate(SPEEDS):
        for phase in TIMES:
            speeds[f"timed {repeat} {phase}"] = Speed(speed * 1e12, speed * 1e10)
    speeds["end"] = Speed(0.8e12, 0.8e10)
    sample = Sample(Matmul(8, 8, 8), [1.0], "cpu", "torch", probe_flops=1e12, probe_bandwidth=1e10)
    operators, modules, components, about = compare(
        operators, modules, components, measurement(), speeds, [sample]
    )
    errors = components.set_index("component")["error"]
    assert modules["error"].tolist() == pytest.approx(errors[list(TIMES)].tolist())
    assert operators["error"].iloc[1] == pytest.approx(0.25)  # 4.5 measured, slowed by 5 / 4
    of = {(c["phase"], c["what"]): c for c in about["clocks"]}
    assert of["decode", "operators"]["error"] == pytest.approx(0.25)
    assert of["decode", "wall"]["error"] == pytest.approx(errors["decode"])
    assert of["decode", "wall"]["measured_s"] == pytest.approx(4.0)
    assert about["slowdown"]["vision"] == pytest.approx([1.0, 2.0, 1.25])
    assert modules["steady_s"].tolist() == pytest.approx([1.0, 4.0])  # 4 / 1.5, 9 / 1.625, 5 / 1.25
    assert modules["measured_s"].tolist() == [1.5, 5.0]


def on_a_card(host: float) -> tuple[dict[str, Speed], list[Sample]]:
    """Probes of a steady card whose host runs at ``host`` of its speed in the sweep, 1e5 a second;
    host costs that were measured when it was at 1e5."""
    names = [f"timed {repeat} {phase}" for repeat in range(3) for phase in TIMES]
    speeds = {name: Speed(1e12, 1e10, host * 1e5) for name in (*names, "end")}
    shape = Sample(Matmul(8, 8, 8), [1.0], "h200", "torch", probe_flops=1e12, probe_bandwidth=1e10)
    cost = Sample(Other("launch"), [1.0], "h200", "torch", origin="host", probe_host=1e5)
    return speeds, [replace(shape, probe_host=0.9e5), cost]


def test_a_phase_that_the_host_bounds_is_brought_to_the_hosts_speed() -> None:
    """Decode waits for the host, vision does not, and of a third of its time it does."""
    rows = [
        {"phase": "vision", "bound": "compute", "estimate_s": 2.0, "wall_s": 2.0, "idle_s": 0.0},
        {"phase": "vision", "bound": "compute", "estimate_s": 0.5, "wall_s": 1.0, "idle_s": 0.5},
        {"phase": "decode", "bound": "memory", "estimate_s": 0.5, "wall_s": 4.0, "idle_s": 3.5},
    ]
    found = slowdowns(pd.DataFrame(rows), measurement(), *on_a_card(0.5))
    assert found["decode"] == pytest.approx([2.0] * 3)
    assert found["vision"] == pytest.approx([2 / 3 * 1.0 + 1 / 3 * 2.0] * 3)
    speeds, samples = on_a_card(0.5)
    unknown = [replace(s, probe_host=None) for s in samples]
    assert slowdowns(pd.DataFrame(rows), measurement(), speeds, unknown)["decode"] == [1.0] * 3


def test_the_drift_of_a_host_is_said_against_its_costs() -> None:
    speeds, samples = on_a_card(1.25)
    drift = host_drift(samples, speeds)
    assert drift == {"slowest": pytest.approx(0.9), "fastest": pytest.approx(1.25)}
    assert host_drift([], speeds) is None
