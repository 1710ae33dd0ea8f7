"""Public tables of an engine's own kernels: narrow products, experts and caches, collectives.

They lie in the same package as those of :mod:`calib.samples.public_tables`, which say what torch
takes; these say what an engine takes. A kernel that computes what another one does with other
scales has a name of its own behind the engine's:

- ``vllm``: the engine's product, attention or expert layer, each in its dtype;
- ``vllm/block``: weights of float8 with a scale for each block of 128 x 128;
- ``vllm/kv8``: attention over keys and values that are kept in float8, whatever it multiplies in;
- ``sglang/mla``: attention of DeepSeek-V3's heads, of prompts over keys of 192 and values of 128,
  of single tokens over the latent; ``sglang/mla/kv8``: over a latent that is kept in float8;
- ``sglang/int4``: experts whose weights of four bits are widened on the way;
- ``sglang/bmm``: the product by head that brings queries to the latent, or the result from it;
- ``vllm/eager``: an all-reduce launched from the host; without the word it stands in a CUDA graph;
- ``nccl``: the vendor's library.

What the columns mean was checked against the hardware: a message of ``message_size`` *elements*
then moves over an H200's link at 330 GB/s of its 450; in bytes it would never exceed 165.
An expert layer spread over ``moe_ep_size`` cards is told by what one card holds: its share of the
experts, and of each token's picks where they divide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from calib.samples.public_tables import NOT_GATED
from model.ops import (
    AllGather,
    AllReduce,
    AllToAll,
    Attention,
    Collective,
    Elementwise,
    LatentAttention,
    Matmul,
    MoeMlp,
    Operator,
    ReduceScatter,
)

FP8, FP4 = "float8_e4m3fn", "float4_e2m1fn"
BLOCK, KV8, EAGER, NCCL = "/block", "/kv8", "/eager", "nccl"
MLA, BMM, INT4 = "/mla", "/bmm", "/int4"
KEYS, ROTARY, LATENT, VALUES = 128, 64, 512, 128
"""Widths of a head of DeepSeek-V3, of which alone there are tables: of keys without and with the
rotary part, of the latent, of values."""
FORMATS = {
    "bfloat16": ("bfloat16", ""),
    "half": ("bfloat16", ""),
    "fp8": (FP8, ""),
    "fp8_block": (FP8, BLOCK),
    "nvfp4": (FP4, ""),
    "int4_wo": ("bfloat16", INT4),
}
"""The package's name of a format -> our dtype, and what follows the engine's name."""


@dataclass(frozen=True)
class EngineTable:
    """Where a table lies, which operator it times, and how its columns become one.

    ``columns``: rows -> the operator's fields beside ``kernel`` (what follows the engine's name),
    ``dtype`` and ``group`` (what is held out whole), for the rows that the operator can say.
    """

    folder: str
    operator: type[Operator]
    columns: Callable[[pd.DataFrame], pd.DataFrame]


def _formatted(rows: pd.DataFrame, name: str, formats: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """The rows of known formats, with ``dtype`` and ``kernel``."""
    known = rows[rows[name].isin(formats)]
    told = [formats[value] for value in known[name]]
    return known.assign(dtype=[t[0] for t in told], kernel=[t[1] for t in told])


def _products(rows: pd.DataFrame) -> pd.DataFrame:
    known = _formatted(rows, "gemm_dtype", FORMATS)
    found = known[["m", "n", "k", "dtype", "kernel", "latency"]].copy()
    found["out_dtype"] = [None if dtype == "bfloat16" else "bfloat16" for dtype in known["dtype"]]
    return found.assign(group=found["n"].astype(str) + "/" + found["k"].astype(str))


def _attention(rows: pd.DataFrame, keys: Any, causal: bool) -> pd.DataFrame:
    """Keys kept narrow count as float8; of two ways to multiply over them the faster is kept."""
    narrow = rows["kv_cache_dtype"] == "fp8"
    fits = narrow | (rows["attn_dtype"] == "bfloat16")
    windows = rows["window_size"] if "window_size" in rows else 0 * rows["isl"]
    fits &= (rows["isl"] > 0) & (windows >= 0)
    fits &= (rows["step"] == 0) if causal and "step" in rows else True
    found = pd.DataFrame(
        {
            "batch": rows["batch_size"],
            "q_len": rows["isl"],
            "kv_len": keys,
            "heads": rows["num_heads"],
            "kv_heads": rows["num_key_value_heads"].where(
                rows["num_key_value_heads"] > 0, rows["num_heads"]
            ),
            "head_dim": rows["head_dim"],
            "causal": True,
            "window": windows.astype(object).where(windows > 0, None),
            "dtype": np.where(narrow, FP8, "bfloat16"),
            "kernel": np.where(narrow, KV8, ""),
            "latency": rows["latency"],
        }
    )[fits]
    parts = (found[name].astype(str) for name in ("heads", "kv_heads", "batch"))
    heads, kv_heads, batch = parts
    return found.assign(group=heads + "/" + kv_heads + "/" + batch)


def _context(rows: pd.DataFrame) -> pd.DataFrame:
    return _attention(rows, rows["isl"], True)


def _generation(rows: pd.DataFrame) -> pd.DataFrame:
    return _attention(rows, rows["step"] + rows["isl"], False)


def _latent_prompts(rows: pd.DataFrame) -> pd.DataFrame:
    """In bfloat16 whatever the cache keeps: a prompt sees its own keys."""
    some = rows[(rows["kv_cache_dtype"] == "bfloat16") & (rows["step"] == 0)]
    heads = some["num_heads"]
    found = _latent(some, some["isl"], some["isl"], heads, KEYS + ROTARY, VALUES)
    return found.assign(dtype="bfloat16", kernel=MLA)


def _latent_steps(rows: pd.DataFrame) -> pd.DataFrame:
    some = rows[rows["isl"] == 1]
    narrow = some["kv_cache_dtype"] == "fp8"
    found = _latent(some, 1, some["step"] + 1, 1, LATENT + ROTARY, LATENT)
    dtypes = np.where(narrow, FP8, "bfloat16")
    return found.assign(dtype=dtypes, kernel=np.where(narrow, MLA + KV8, MLA))


def _latent(
    rows: pd.DataFrame, queries: Any, keys: Any, kv_heads: Any, head_dim: int, v_head_dim: int
) -> pd.DataFrame:
    found = pd.DataFrame(
        {
            "batch": rows["batch_size"],
            "q_len": queries,
            "kv_len": keys,
            "heads": rows["num_heads"],
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "causal": True,
            "v_head_dim": v_head_dim,
            "latency": rows["latency"],
        }
    )
    return found.assign(group=found["heads"].astype(str) + "/" + found["batch"].astype(str))


def _absorbed(rows: pd.DataFrame) -> pd.DataFrame:
    some = rows[rows["bmm_dtype"] == "bfloat16"]
    before = some["op_name"] == "mla_gen_pre"
    found = pd.DataFrame(
        {
            "m": some["num_tokens"],
            "n": np.where(before, LATENT, VALUES),
            "k": np.where(before, KEYS, LATENT),
            "batch": some["num_heads"],
            "latency": some["latency"],
        }
    )
    group = found["batch"].astype(str) + "/" + found["n"].astype(str)
    return found.assign(dtype="bfloat16", kernel=BMM, group=group)


def _experts(rows: pd.DataFrame) -> pd.DataFrame:
    known = _formatted(rows, "moe_dtype", FORMATS)
    pairs = zip(known["hidden_size"], known["inter_size"], strict=True)
    gated = np.array([pair not in NOT_GATED for pair in pairs], dtype=bool)
    whole = (known["topk"] % known["moe_ep_size"] == 0) & gated
    whole &= known["inter_size"] // known["moe_tp_size"] >= 32
    whole &= ~known["kernel_source"].str.contains("nongated")
    some = known[whole]
    narrow = some["kernel"] == INT4
    found = pd.DataFrame(
        {
            "weight_dtype": narrow.map({True: "int4"}).astype(object).where(narrow, None),
            "tokens": some["num_tokens"],
            "experts": some["num_experts"] // some["moe_ep_size"],
            "top_k": some["topk"] // some["moe_ep_size"],
            "hidden": some["hidden_size"],
            "intermediate": some["inter_size"] // some["moe_tp_size"],
            **{name: some[name] for name in ("distribution", "dtype", "kernel", "latency")},
        }
    )
    parts = [found[n].astype(str) for n in ("hidden", "intermediate", "experts", "top_k")]
    return found.assign(group=parts[0] + "/" + parts[1] + "/" + parts[2] + "/" + parts[3])


def _scaled(rows: pd.DataFrame) -> pd.DataFrame:
    some = rows[rows["quant_dtype"] == "fp8"]
    found = pd.DataFrame({"elements": some["m"] * some["k"], "latency": some["latency"]})
    return found.assign(dtype="bfloat16", out_dtype=FP8, kernel="", group=some["k"].astype(str))


def _collective(rows: pd.DataFrame, dtype: str, kernel: Any) -> pd.DataFrame:
    some = rows[rows[dtype].isin(("bfloat16", "half"))]
    found = pd.DataFrame(
        {"elements": some["message_size"], "ranks": some["num_gpus"], "latency": some["latency"]}
    )
    named = found.assign(dtype="bfloat16", kernel=kernel)
    return named.assign(group=found["elements"].astype(str))


def _all_reduce(rows: pd.DataFrame) -> pd.DataFrame:
    eager = rows["kernel_source"].str.endswith("_eager")
    return _collective(rows, "allreduce_dtype", np.where(eager, EAGER, ""))


def _by_library(name: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: _collective(rows[rows["op_name"] == name], "nccl_dtype", "")


TABLES = {
    "gemm": EngineTable("gemm", Matmul, _products),
    "context_attention": EngineTable("attention", Attention, _context),
    "generation_attention": EngineTable("attention", Attention, _generation),
    "context_mla": EngineTable("mla", Attention, _latent_prompts),
    "generation_mla": EngineTable("mla", LatentAttention, _latent_steps),
    "mla_bmm": EngineTable("mla_bmm", Matmul, _absorbed),
    "moe": EngineTable("moe", MoeMlp, _experts),
    "scale_matrix": EngineTable("quantize", Elementwise, _scaled),
    "custom_allreduce": EngineTable("comm", AllReduce, _all_reduce),
}
"""An engine's tables, by the name of the file."""
LIBRARY: dict[str, type[Collective]] = {
    "all_reduce": AllReduce,
    "all_gather": AllGather,
    "reduce_scatter": ReduceScatter,
    "alltoall": AllToAll,
}
"""Collectives of the vendor's library, by the name of the operation."""
LIBRARY_TABLES = {
    name: EngineTable("comm", operator, _by_library(name)) for name, operator in LIBRARY.items()
}
