"""How well plain products tell of those that widen their weights: ``python -m benchmarks.widened``.

Public timings of int4 and int8 weights beside bfloat16 activations (aiconfigurator-core,
TensorRT-LLM 1.0.0 on an A100, which timed the plain products too) against the rule of
``calib.fit.physics.widened``, fed with the plain products' own times: only the rule errs. The last
line is one JSON object.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from calib.fit.physics.widened import plain_products
from calib.hardware.datasheet import load_hardware
from calib.samples.public import package_data
from model.ops import Matmul

TABLE = "a100_sxm/gemm/trtllm/1.0.0/gemm_perf.parquet"
WEIGHTS = {"int4_wo": "int4", "int8_wo": "int8"}
SIZES = (0.0, 2e-6, 8e-6, 32e-6, np.inf)
"""Bounds of bins by the seconds that the weights would take to be read in bfloat16."""


def errors() -> pd.DataFrame:
    """One row a shape and type of weights: seconds to read them wide, and the logarithm of the
    rule's seconds over the timed."""
    rows = pd.read_parquet(package_data() / TABLE)
    timed = rows.groupby(["gemm_dtype", "m", "n", "k"])["latency"].min() * 1e-3
    hardware, plain, found = load_hardware("a100"), timed["bfloat16"], []
    for name, dtype in WEIGHTS.items():
        shapes = timed[name]
        m, n, k = (shapes.index.get_level_values(c).to_numpy() for c in ("m", "n", "k"))
        op = Matmul(m, n, k, weight_dtype=dtype)
        told = [
            plain.reindex(list(zip(m, n, p.op.k, strict=True))).to_numpy() * p.scale
            for p in plain_products(op, hardware)
        ]
        error = np.log(np.minimum(*told) / shapes.to_numpy())
        found.append(pd.DataFrame({"read_s": 2 * n * k / hardware.bandwidth, "error": error}))
    return pd.concat(found).dropna(ignore_index=True)


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """By bin, both types together: median, median and 90th percentile of its size."""
    bins = pd.cut(table["read_s"], list(SIZES))
    return [
        {
            "read_s_below": float(interval.right),
            "shapes": len(some),
            "median": float(some["error"].median()),
            "median_size": float(some["error"].abs().median()),
            "p90_size": float(some["error"].abs().quantile(0.9)),
        }
        for interval, some in table.groupby(bins, observed=True)
    ]


def main() -> None:
    table = errors()
    rows = summary(table)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    print(json.dumps({"shapes": len(table), "bins": rows}))


if __name__ == "__main__":
    main()
