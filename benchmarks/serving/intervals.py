"""90% intervals of a time per token: what is unsure of its kernels, and of the engine.

    half-width in log = factor * hypot(kernels' share * their spread, engine's)

The engine's is the spread of its misfits between the development splits, each foretold by numbers
fitted to the other; the factor is the 90th percentile of those misfits in that unit, by engine and
campaign (split-conformal).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.serving.overheads import campaign_of, fit, served

LEVEL = 0.9
LEAST = 20
"""Misfits from which a quantile of a campaign is its own."""


def unseen(rows: pd.DataFrame, by: str = "split") -> pd.DataFrame:
    """``rows``, each with ``ttft`` and ``tpot`` by numbers fitted to the rows of other ``by``."""
    parts = []
    for _, engine in rows.groupby("engine"):
        for _, some in engine.groupby(by):
            rest = engine.drop(some.index)
            if len(rest):
                parts.append(with_estimates(some, fit(rest)))
    return pd.concat(parts).reindex(rows.index)


def with_estimates(rows: pd.DataFrame, told: dict[str, float]) -> pd.DataFrame:
    """``rows`` of one engine with ``ttft`` and ``tpot`` [s]."""
    found = served(rows, told)
    return rows.assign(ttft=found.ttft, tpot=found.tpot)


def unit(rows: pd.DataFrame, engine_spread: float) -> np.ndarray:
    """[n] half-width in log before the factor."""
    decode = rows["decode_s"] / rows["tpot"] * rows["decode_spread"]
    prompts = (rows["tpot"] - rows["decode_s"]).clip(lower=0) / rows["tpot"] * rows["prompt_spread"]
    return np.asarray(np.hypot(np.hypot(decode.clip(upper=1.0), prompts), engine_spread))


def factors(known: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """(engine, campaign) -> spread and factor; ``known``: development runs as :func:`unseen` has
    them."""
    found = {}
    for engine, of_engine in known.groupby("engine"):
        misfit = np.abs(np.log(of_engine["tpot"] / of_engine["tpot_s"]))
        spread = float(np.median(misfit) / 0.6745)
        for campaign, some in of_engine.groupby(campaign_of(of_engine)):
            asked = some if len(some) >= LEAST else of_engine
            scores = misfit[asked.index] / unit(asked, spread)
            rank = min(np.ceil(LEVEL * (len(scores) + 1)) / len(scores), 1.0)
            found[str(engine), str(campaign)] = (spread, float(np.quantile(scores, rank)))
    return found


def with_intervals(
    rows: pd.DataFrame, known: dict[tuple[str, str], tuple[float, float]]
) -> pd.DataFrame:
    """``rows`` with ``low`` and ``high`` of the time per token [s]."""
    pairs = [known[key] for key in zip(rows["engine"], campaign_of(rows), strict=True)]
    units = np.array(
        [unit(rows.iloc[[i]], spread)[0] * factor for i, (spread, factor) in enumerate(pairs)]
    )
    return rows.assign(low=rows["tpot"] * np.exp(-units), high=rows["tpot"] * np.exp(units))
