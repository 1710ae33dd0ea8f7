"""Disaggregated runs of DeepSeek-V3 and R1: the decoding group's time per token, beside the clock.

    python -m benchmarks.serving.disagg

Development splits alone. A run is said where its row states how many workers decode and how many
requests each of their groups holds; the others name a concurrency that an unknown number of workers
shares. What decodes takes no prompt, so that

    tpot = decode step at the mean context

with the step's kernels by the engine's tables: of the traced model, one dense and one sparse layer
on the row's layout, each as often as the model has it, lowered to the engine
(:mod:`calib.estimates.stack`). The host, the steps and the factors are the numbers that ship of the
engine, fitted to aggregated runs of other models: nothing here is fitted. The last line is one JSON
object.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.runs import DUMP, FINAL, SPLITS
from benchmarks.serving.settings import MEAN_LENGTH
from calib.cards.engines.card import load_engine_card
from calib.cards.engines.overheads import load_overheads
from calib.estimates.serving.kernels import timed
from calib.estimates.stack.formats import QUANTISED, Formats
from calib.estimates.stack.lower import Kernel, lowered
from calib.hardware.links import within
from calib.samples.public import package_data
from calib.samples.public_tables import CARDS
from calib.trace.hf import HFModel, load
from model.parallel import Layout, Parallel
from model.parallel.layout import LayoutError
from model.workload import Workload

PATHS = ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1")
DENSE, SPARSE = 3, 58
"""Layers of the published model."""
TRACED = {
    **{"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]},
    **{"num_hidden_layers": 2, "first_k_dense_replace": 1},
}
"""Dimensions are the defaults of the library's class, which are DeepSeek-V3's."""
ON = ("h100", "h200", "b200")
"""Cards whose engines' tables ship."""


def main() -> None:
    rows = runs()
    said = rows[rows["said"] == ""].reset_index(drop=True)
    model = traced()
    told = [estimated(model, row) for _, row in said.iterrows()]
    found = said.assign(tpot=[t[0] for t in told], spread=[t[1] for t in told])
    none = found["tpot"].isna()
    judged = found[~none]
    error = judged["tpot"] / judged["tpot_s"] - 1
    judged = judged.assign(error=np.abs(error), bias=error)
    by = judged.groupby(["engine", "card", "precision"])
    table = by.agg(runs=("error", "size"), median=("error", "median"), bias=("bias", "median"))
    print(f"{len(rows)} disaggregated runs; of these cannot be said:")
    print(rows.loc[rows["said"] != "", "said"].value_counts().to_string())
    print("layouts that do not divide the model:", int(none.sum()), "\n")
    print(table.round(3).to_string(), "\n")
    worst = judged.sort_values("error", ascending=False).head(10)
    print(worst[["id", "batch", "tp", "dp", "ep", "tpot_s", "tpot"]].to_string(index=False))
    every = {"median": float(judged["error"].median()), "mean": float(judged["error"].mean())}
    every |= {"bias": float(judged["bias"].median())}
    print(json.dumps({"runs": len(rows), "judged": len(judged), "tpot": every}))


def runs(path: Path | None = None) -> pd.DataFrame:
    """Of the development splits. ``said``: why a row cannot be estimated; empty for one that can.
    ``batch``: requests of a group of ``tp`` cards. Times in seconds."""
    rows = pd.read_csv(path or package_data().parent / "silicon_sample.csv")
    split = rows["id"].map(lambda name: zlib.crc32(name.encode()) % SPLITS)
    rows = rows[(split != FINAL) & (rows["mode"] == "disagg")].reset_index(drop=True)
    cards = rows["system"].map({theirs: ours for ours, theirs in CARDS.items()})
    columns = {"tp": "tp_size", "dp": "attention_dp_size", "ep": "moe_ep_size"}
    layout = {n: rows[f"decode_{c}"].fillna(1).astype(int) for n, c in columns.items()}
    moe_tp = rows["decode_moe_tp_size"].fillna(1).astype(int)
    wide = layout["tp"] * layout["dp"]
    said = pd.Series("", rows.index, dtype=str)
    said[~cards.isin(ON)] = "a card whose engines' tables do not ship"
    said[moe_tp * layout["ep"] != wide] = "experts on other cards than attention"
    said[rows["decode_num_workers"].isna()] = "how many workers decode is not stated"
    said[~rows["model_path"].isin(PATHS)] = "another model"
    columns_said = {"id": rows["id"], "card": cards, "engine": rows["backend"], **layout}
    return pd.DataFrame(
        {
            **columns_said,
            "precision": rows["precision"],
            "products": rows["gemm_quant_mode"].replace("fp8", "fp8_block"),
            "experts": rows["moe_quant_mode"].replace("fp8", "fp8_block"),
            "batch": rows["decode_batch_size"],
            "isl": rows["isl"].astype(float),
            "osl": rows["osl"].astype(float),
            "dumped": rows["silicon_data_source"].str.contains(DUMP),
            "tpot_s": rows["silicon_tpot_ms"] * 1e-3,
            "said": said,
        }
    )


def traced() -> HFModel:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(TRACED), encoding="utf-8")
        return load(file, "bfloat16")


def estimated(model: HFModel, row: pd.Series) -> tuple[float, float]:
    """Seconds of a token, and the kernels' half-width over them; NaN for a layout that does not
    divide the model."""
    engine, batch = str(row["engine"]), max(int(row["batch"]), 1)
    cache = "fp8" if row["dumped"] and (engine == "trtllm" or row["card"] == "b200") else "bfloat16"
    quantised = QUANTISED.get((engine, row["products"]), "")
    formats = Formats(row["products"], row["experts"], cache, quantised)
    length = MEAN_LENGTH if row["dumped"] else 1.0
    context = round(length * (row["isl"] + row["osl"] / 2))
    card = load_engine_card(str(row["card"]), engine)
    inner = within(card.hardware.links)
    node = inner.cards if inner else 0
    layout = Layout(int(row["tp"]), 1, int(row["ep"]), int(row["dp"]), node_cards=node)
    try:
        kernels = step(model, layout, batch, context, formats)
    except LayoutError:
        return float("nan"), float("nan")
    found = timed([kernels], card)
    beside, told = load_overheads(engine), found.parts["comm"]
    assert beside is not None
    gpu = beside.on_card(found.seconds - told, told, found.launches)
    return float(beside.decode(gpu, beside.host(batch))[0]), float(found.spread[0])


def step(
    model: HFModel, layout: Layout, batch: int, context: int, formats: Formats
) -> list[Kernel]:
    """A token of each of ``batch`` sequences of a group, which see ``context`` keys."""
    asked = Workload("decode", prompt_tokens=context - 1, batch=batch * layout.dp, decode_steps=1)
    placed = model if layout.cards == 1 else Parallel(model, layout)
    kernels = lowered(placed.phases(asked)["decode"].layer.calls(), formats)
    return [replace(k, count=k.count * times(k.path)) for k in kernels]


def times(path: str) -> Any:
    """As often as the whole model has the layer."""
    return {"layers.0": DENSE, "layers.1": SPARSE}.get(".".join(path.split(".")[1:3]), 1)


if __name__ == "__main__":
    main()
