"""What a user asks of a training step: its time, samples and tokens a second, and the MFU.

    MFU = sum over products of (FLOPs / peak of their type) / time of the step

Model FLOPs utilisation (Chowdhery et al., arXiv:2204.02311, appendix B): FLOPs of the matrix
products of forward and backward, no activation computed twice. Masked work counts, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib.hardware.datasheet import Hardware, peak
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import pandas as pd


def least_product_seconds(phases: Mapping[str, Phase], hardware: Hardware) -> float:
    """What the products of all passes would take at the peaks of their types [s]."""
    calls = ((call, phase.repeat) for phase in phases.values() for call in phase.layer.calls())
    return float(
        sum(
            call.op.tensor_core_flops * call.count * repeat / peak(call.op, hardware)
            for call, repeat in calls
            if call.op.tensor_core_flops
        )
    )


def training_table(
    components: pd.DataFrame, phases: Mapping[str, Phase], workload: Workload, hardware: Hardware
) -> pd.DataFrame:
    """A row a figure: name, unit, roofline, estimate, low, high, measured."""
    import pandas as pd

    total = components[components["component"] == "total"].iloc[-1]
    columns = {"roofline": "roofline_s", "estimate": "estimate_s"}
    columns |= {"low": "low_s", "high": "high_s", "measured": "measured_s"}
    step = {name: float(total[column]) for name, column in columns.items()}
    least = float("nan") if hardware.unprobed else least_product_seconds(phases, hardware)
    rates = {"samples per second": ("1/s", float(workload.batch)), "MFU": ("%", 100 * least)}
    if workload.side is None and workload.prompt_tokens:
        tokens = float(workload.batch * workload.prompt_tokens)
        rates = {"tokens per second": ("1/s", tokens), **rates}
    rows = [{"name": "time of a step", "unit": "s", **step}]
    for name, (unit, amount) in rates.items():
        ends = {key: amount / seconds for key, seconds in step.items()}
        ends["low"], ends["high"] = ends["high"], ends["low"]
        rows.append({"name": name, "unit": unit, **ends})
    return pd.DataFrame(rows)
