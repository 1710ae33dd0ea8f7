"""Measured serving runs beside estimates, and beside the leading tool where it is given.

    python -m benchmarks.serving                     # each development split by the other
    python -m benchmarks.serving --apart model       # each model by the others; or card
    python -m benchmarks.serving --final             # the final split, by both
    python -m benchmarks.serving --ask ASKED.csv     # what to hand to benchmarks.serving.peer
    python -m benchmarks.serving --peer ANSWERED.csv # with its answers
    python -m benchmarks.serving --ship              # write the numbers that ship

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.serving import score
from benchmarks.serving.intervals import factors, unseen, with_estimates, with_intervals
from benchmarks.serving.overheads import fit, shown
from benchmarks.serving.peer import ASKED
from benchmarks.serving.runs import runs
from benchmarks.serving.ship import ship
from benchmarks.serving.steps import with_steps
from calib.samples.public_tables import CARDS

FP8 = ("fp8", "fp8_block")
BY = ["engine", "model"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--final", action="store_true", help="score the final split")
    parser.add_argument("--apart", choices=("split", "model", "card"), default="split")
    parser.add_argument("--ask", type=Path, help="write the runs to ask the peer for, and stop")
    parser.add_argument("--peer", type=Path, help="the peer's answers")
    parser.add_argument("--ship", action="store_true", help="write what ships of the engines")
    arguments = parser.parse_args()
    if arguments.ask:
        ask(arguments.ask, arguments.final)
        return
    every = runs(arguments.final)
    known = unseen(with_steps(sayable(runs())), arguments.apart)
    known = known[known["tpot"].notna()]
    if arguments.ship:
        ship(known)
        return
    judged = judged_final(known) if arguments.final else known
    judged = with_intervals(judged, factors(known))
    if arguments.peer:
        judged = with_peer(judged, arguments.peer)
    report(every, judged, known, arguments.final)


def sayable(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["said"] == ""].reset_index(drop=True)


def judged_final(known: pd.DataFrame) -> pd.DataFrame:
    """The final runs, by numbers fitted to all development runs."""
    rows = with_steps(sayable(runs(final=True)))
    parts = [
        with_estimates(some, fit(known[known["engine"] == engine]))
        for engine, some in rows.groupby("engine")
    ]
    return pd.concat(parts).sort_index()


def ask(path: Path, final: bool) -> None:
    rows = sayable(runs(final))
    rows["system"] = rows["card"].map(CARDS)
    rows["mixture"] = rows["model"] == "Qwen3-235B"
    rows[ASKED].to_csv(path, index=False)
    print(f"{len(rows)} runs: {path}")


def with_peer(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    answers = pd.read_csv(path).set_index("id")
    return rows.assign(
        peer_tpot=rows["id"].map(answers["tpot_s"]), peer_ttft=rows["id"].map(answers["ttft_s"])
    )


def report(every: pd.DataFrame, judged: pd.DataFrame, known: pd.DataFrame, final: bool) -> None:
    unsaid = every[every["said"] != ""]
    fp8 = judged[judged["precision"] == "fp8"]
    groups = score.of_groups(fp8, BY)
    print(f"{len(every)} aggregated runs; {len(unsaid)} cannot be said:")
    print(unsaid["said"].value_counts().to_string() if len(unsaid) else "none")
    print("\nfp8, by engine and model\n" + score.table(groups, BY))
    others = [
        {"what": "all fp8", **score.summary(fp8)},
        {"what": "every format", **score.summary(judged)},
    ]
    print("\n" + score.table(others, ["what"]))
    if not final:
        shipped = with_intervals(known, factors(known, of_campaigns=False))
        print(f"\nintervals of runs whose campaign is known\n{score.widths(judged)}")
        print(f"\nthe same by an engine's runs alone, as ships\n{score.widths(shipped)}")
    print(f"\n{score.PUBLISHED}\n")
    print(score.worst(judged).to_string(index=False))
    print(json.dumps(as_json(every, judged, known, final), default=float))


def as_json(
    every: pd.DataFrame, judged: pd.DataFrame, known: pd.DataFrame, final: bool
) -> dict[str, Any]:
    fp8 = judged[judged["precision"] == "fp8"]
    return {
        "split": "final" if final else "development, each split by the other",
        "runs": len(every),
        "cannot_be_said": every.loc[every["said"] != "", "said"].value_counts().to_dict(),
        "fp8": score.summary(fp8),
        "every_format": score.summary(judged),
        "fp8_by_engine_and_model": score.of_groups(fp8, BY),
        "contradictory": score.oddities(every),
        "overheads": {
            engine: {n: float(f"{v:.3g}") for n, v in shown(fit(some)).items()}
            for engine, some in known.groupby("engine")
        },
        "worst": score.worst(judged).to_dict("records"),
    }


if __name__ == "__main__":
    main()
