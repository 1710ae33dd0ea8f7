"""The file of measured runs: which can be said, and of which split they are.

``aiconfigurator-core`` (Apache-2.0, the extra ``public``) ships ``silicon_sample.csv``: a row a run
of one server under a closed loop of ``batch_size`` requests, with its layout, mean time to the
first token and mean time per further token. Two harnesses made the rows of our models:

- ``InferenceMAX`` (rows that name its dumps): lengths drawn evenly from 0.8 to 1 of what the row
  says, ten requests for each place in the loop, all of the first at once (its
  ``benchmark_lib.sh``: ``--random-range-ratio``, ``--num-prompts``, ``--request-rate inf``);
- ``gap analysis`` of the peer's own authors: the lengths that the row says.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pandas as pd

from benchmarks.serving.models import BY_BLOCK, MODELS
from calib.samples.public import package_data
from calib.samples.public_tables import CARDS

FINAL = 0
"""The split that is scored once."""
SPLITS = 3
INFERENCEMAX, GAP = "InferenceMAX", "gap analysis"
DUMP = r"db-dump|source_file=\d{4}-"
_LAYOUT = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def runs(final: bool = False, path: Path | None = None) -> pd.DataFrame:
    """Aggregated runs of our models: of the final split, or of the others.

    ``said``: why a row cannot be estimated; empty for one that can. Times in seconds.
    """
    rows = pd.read_csv(path or package_data().parent / "silicon_sample.csv")
    split = rows["id"].map(lambda name: zlib.crc32(name.encode()) % SPLITS)
    asked = (split == FINAL) == final
    rows = rows[asked & (rows["mode"] == "agg") & rows["model_path"].isin(MODELS)]
    found = pd.DataFrame(
        {
            "id": rows["id"],
            "split": split[rows.index],
            "path": rows["model_path"],
            "model": [MODELS[path][0] for path in rows["model_path"]],
            "card": rows["system"].map({theirs: ours for ours, theirs in CARDS.items()}),
            "engine": rows["backend"],
            "version": rows["backend_version"],
            "precision": rows["precision"].fillna("unsaid"),
            "products": _stored(rows, "gemm_quant_mode"),
            "experts": _stored(rows, "moe_quant_mode"),
            "gemm_quant_mode": rows["gemm_quant_mode"],
            "moe_quant_mode": rows["moe_quant_mode"],
            "isl": rows["isl"].astype(float),
            "osl": rows["osl"].astype(float),
            "concurrency": rows["batch_size"].astype(float),
            "harness": rows["silicon_data_source"]
            .str.contains(DUMP)
            .map({True: INFERENCEMAX, False: GAP}),
            "ttft_s": rows["silicon_ttft_ms"] * 1e-3,
            "tpot_s": rows["silicon_tpot_ms"] * 1e-3,
        }
    ).reset_index(drop=True)
    layout = rows[list(_LAYOUT)].fillna(1.0).clip(lower=1.0).astype(int).reset_index(drop=True)
    found = pd.concat(
        [found, layout.set_axis(["tp", "pp", "dp", "moe_tp", "moe_ep"], axis=1)], axis=1
    )
    asked_of = rows["silicon_data_source"].str.extract(r"silicon_concurrency=(\d+)")[0]
    found = found.assign(stated=asked_of.astype(float).reset_index(drop=True))
    return found.assign(said=_why_not(found))


def _stored(rows: pd.DataFrame, column: str) -> pd.Series:
    """The format of the column; by block where the checkpoint is so, whatever the row calls it."""
    blocks = rows["model_path"].isin(BY_BLOCK) & (rows[column] == "fp8")
    return rows[column].fillna("bfloat16").where(~blocks, "fp8_block")


def _why_not(rows: pd.DataFrame) -> pd.Series:
    """In words, what no configuration can say of a row."""
    mixture = rows["model"] == "Qwen3-235B"
    said = pd.Series("", rows.index, dtype=str)
    unequal = mixture & (rows["tp"] * rows["dp"] != rows["moe_tp"] * rows["moe_ep"])
    said[unequal] = "experts on more cards than attention, and no data parallel that says why"
    said[rows["stated"].isna()] = "how many requests ran at a time is not stated"
    dense = ~mixture & ~rows["moe_tp"].isin([1]) & (rows["moe_tp"] != rows["tp"])
    said[dense] = "a dense model with a split of experts"
    return said


def contradictions(rows: pd.DataFrame, factor: float = 1.15) -> pd.DataFrame:
    """Rows alike in all that the file says of a configuration, whose times per token differ by
    more than ``factor``."""
    keys = [
        *("path", "card", "engine", "products", "isl", "osl", "concurrency"),
        *("tp", "pp", "dp", "moe_tp", "moe_ep"),
    ]
    spread = rows.groupby(keys)["tpot_s"].agg(["min", "max", "size"])
    return spread[spread["max"] > factor * spread["min"]].reset_index()
