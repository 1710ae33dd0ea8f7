"""90% intervals of a time per token: what is unsure of its kernels, and of the engine.

    half-width in log = factor * hypot(kernels' share * their spread, engine's)

The engine's is the spread of its misfits between the development splits, each foretold by numbers
fitted to the other; the factor is the 90th percentile of those misfits in that unit, by engine and
campaign (split-conformal). A server of one's own is of no campaign, so that what ships takes the
factor of all of an engine's runs.
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


def misfits(rows: pd.DataFrame) -> pd.Series:
    """[n] of times per token, in log."""
    found: pd.Series = np.abs(np.log(rows["tpot"] / rows["tpot_s"]))
    return found


def spread_of(rows: pd.DataFrame) -> float:
    """Of an engine's misfits, were they normal."""
    return float(np.median(misfits(rows)) / 0.6745)


def factor_of(rows: pd.DataFrame, spread: float) -> float:
    """The 90th percentile of misfits in units of what is unsure."""
    scores = misfits(rows) / unit(rows, spread)
    rank = min(np.ceil(LEVEL * (len(scores) + 1)) / len(scores), 1.0)
    return float(np.quantile(scores, rank))


def factors(
    known: pd.DataFrame, of_campaigns: bool = True
) -> dict[tuple[str, str], tuple[float, float]]:
    """(engine, campaign) -> spread and factor; ``known``: development runs as :func:`unseen` has
    them. ``of_campaigns`` False: of all runs of the engine, as ships: a server of one's own is of
    none of these campaigns."""
    found = {}
    for engine, of_engine in known.groupby("engine"):
        spread = spread_of(of_engine)
        for campaign, some in of_engine.groupby(campaign_of(of_engine)):
            asked = some if of_campaigns and len(some) >= LEAST else of_engine
            found[str(engine), str(campaign)] = (spread, factor_of(asked, spread))
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
