"""How the servers of the runs were set, as far as their harness published it.

InferenceMAX publishes a script a server (``benchmarks/70b_fp8_h200_trt_slurm.sh`` and its like):
TensorRT-LLM keeps its cache in float8, takes 16,384 tokens a step on an H200 and as many as a
request may be long on a B200, and, for 1024 in and 1024 out on fewer than eight cards, lets
prompts gather for up to 20 steps (``batch_wait_timeout_iters``). vLLM takes 8192 tokens a step and
0.9 of memory; its cache is float8 on a B200. Of the other harness nothing is published: an engine's
own defaults are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.serving.runs import INFERENCEMAX
from calib.estimates.serving.habits import HABITS
from calib.estimates.stack.formats import QUANTISED, Formats

MEAN_LENGTH = 0.9
"""Of what a row says, under InferenceMAX."""
WAVES = 10
HOLD = 20


@dataclass(frozen=True)
class Setting:
    formats: Formats
    tokens: int
    hold: float
    waves: float
    length: float


def setting(row: pd.Series) -> Setting:
    """Of one run; ``row`` as :func:`benchmarks.serving.runs.runs` has it."""
    engine, dumped = str(row["engine"]), row["harness"] == INFERENCEMAX
    cache = "bfloat16"
    if dumped and (engine == "trtllm" or row["card"] == "b200"):
        cache = "fp8"
    formats = Formats(
        row["products"], row["experts"], cache, QUANTISED.get((engine, row["products"]), "")
    )
    tokens = HABITS[engine].tokens
    if dumped and engine == "trtllm":
        tokens = 16384 if row["card"] != "b200" else int(row["isl"] + row["osl"] + 200)
    gathers = dumped and engine == "trtllm" and (row["isl"], row["osl"]) == (1024, 1024)
    return Setting(
        formats,
        tokens,
        HOLD if gathers and row["tp"] < 8 else 0.0,
        WAVES if dumped else 0.0,
        MEAN_LENGTH if dumped else 1.0,
    )


def places(row: pd.Series, weights: float, cache_of_token: float, memory: float) -> float:
    """Requests that the cache of one replica holds; ``weights``, ``memory`` [bytes a card]."""
    habits = HABITS[str(row["engine"])]
    cached = habits.cache_bytes(weights, memory) / cache_of_token
    return float(np.maximum(habits.places(cached, row["isl"], row["osl"]), 1.0))
