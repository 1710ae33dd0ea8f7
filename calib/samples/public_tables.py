"""Which public tables there are, and how the columns of each become dimensions of operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from model.ops import Attention, Elementwise, Matmul, MoeMlp, Operator

CARDS = {
    "a100": "a100_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "l40s": "l40s",
    "rtx_pro_6000": "rtx_pro_6000_server",
}
"""Our name of a card -> the package's."""

LENDERS = ("a100", "b200", "h100", "h200", "l40s", "rtx_pro_6000")
"""Cards whose tables tell of cards without one. No such card is like a B300 or GB300; and the GB200
that vLLM was timed on was throttled: from 1 ms on, its products take a third longer than a B200's,
by the other engines as long."""

ENGINES = {
    "vllm": ("0.24.0", {"a100": "0.14.0"}),
    "sglang": ("0.5.14", {"a100": "0.5.10"}),
    "trtllm": ("1.3.0rc20", {"a100": "1.0.0"}),
}
"""Engine -> the version that is read, and the cards that have another one only."""

DTYPES = {"bfloat16": "bfloat16", "float16": "float16", "fp8": "float8_e4m3fn"}
"""The package's dtypes that our operators express: no weights scaled by block, or of four bits."""

LINEAR = (
    "torch.nn.functional.linear",
    "vllm_default",
    "sglang_torch_linear",
    "sglang",
    "torch_flow",
)
"""Kernel sources that name no kernel: torch's linear layer, or whatever the engine picks."""

KERNELS = {
    "vllm_flash_attn": "flash_attn_2",  # vLLM 0.14 on an A100, where FlashAttention 3 does not run
    "CutlassFP8ScaledMMLinearKernel": "cutlass_scaled_mm",
    "vllm_fused_moe": "triton_experts",
    "vllm_unquantizedfusedmoe_triton_tritonexperts": "triton_experts",
    "vllm_unquantizedfusedmoe_flashinfer_cutlass_flashinferexperts": "flashinfer_cutlass_experts",
    "vllm_unquantizedfusedmoe_flashinfer_trtllm_trtllmbf16experts": "flashinfer_trtllm_experts",
}
"""Kernel sources renamed, so that one kernel has one name; others lose the engine's name only."""

NOT_GATED = {(2688, 1856), (2048, 5120)}
"""(hidden, intermediate) of MoE models without a gate (Nemotron), which ``MoeMlp`` is not. Taken as
gated they would read their weights at 1.3 to 1.7 times an H200's bandwidth."""

Columns = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Where a table lies, which operator it measures, and which of its rows that operator can say.

    ``sizes``: columns that must be positive. ``fields``: rows -> the operator's fields.
    ``group``: the fields whose combinations are held out whole. ``unfit``: reason -> rows -> [n]
    bool, rows of work that the operator cannot say. ``reads``: the operator's dtype, where the
    table names that of the result.
    """

    folder: str
    operator: type[Operator]
    dtype: str
    sizes: tuple[str, ...]
    fields: Callable[[pd.DataFrame], Columns]
    group: tuple[str, ...]
    unfit: dict[str, Callable[[pd.DataFrame], Any]] = field(default_factory=dict)
    reads: str | None = None

    def dtypes(self, rows: pd.DataFrame) -> pd.Series:
        """[rows] the operator's dtype in our names, null for one that is not ours."""
        named = rows[self.dtype].map(DTYPES)
        return named if self.reads is None else named.where(named.isna(), self.reads)


def _matmul(rows: pd.DataFrame) -> Columns:
    """A product of float8 is written in bfloat16."""
    narrow = rows["gemm_dtype"] == "fp8"
    wide = rows["m"].astype(object).where(~narrow, "bfloat16").where(narrow, None)
    return {"m": rows["m"], "n": rows["n"], "k": rows["k"], "out_dtype": wide}


def _attention(rows: pd.DataFrame) -> Columns:
    columns = {"batch": rows["batch_size"], "heads": rows["num_heads"]}
    return columns | {"head_dim": rows["head_dim"]}


def _decoder(rows: pd.DataFrame) -> Columns:
    window = rows["window_size"] if "window_size" in rows else 0 * rows["isl"]
    seen = window.astype(object).where(window > 0, None)
    return {"kv_heads": rows["num_key_value_heads"], "causal": True, "window": seen}


def _context(rows: pd.DataFrame) -> Columns:
    return _attention(rows) | _decoder(rows) | {"q_len": rows["isl"], "kv_len": rows["isl"]}


def _generation(rows: pd.DataFrame) -> Columns:
    keys = rows["step"] + rows["isl"]
    return _attention(rows) | _decoder(rows) | {"q_len": rows["isl"], "kv_len": keys}


def _encoder(rows: pd.DataFrame) -> Columns:
    sizes = {"q_len": rows["isl"], "kv_len": rows["isl"], "kv_heads": rows["num_heads"]}
    return _attention(rows) | sizes | {"causal": False, "window": None}


def _moe(rows: pd.DataFrame) -> Columns:
    return {
        "tokens": rows["num_tokens"],
        "experts": rows["num_experts"],
        "top_k": rows["topk"],
        "hidden": rows["hidden_size"],
        "intermediate": rows["inter_size"] // rows["moe_tp_size"],
        "distribution": rows["distribution"],
    }


def _scaled(rows: pd.DataFrame) -> Columns:
    """A tensor times one factor, written in the dtype that the table names."""
    result = rows["quant_dtype"].map(DTYPES)
    return {"elements": rows["m"] * rows["k"], "out_dtype": result}


def _not_gated(rows: pd.DataFrame) -> Any:
    pairs = zip(rows["hidden_size"], rows["inter_size"], strict=True)
    return np.array([pair in NOT_GATED for pair in pairs], dtype=bool)


_SIZES = ("batch_size", "isl", "num_heads", "head_dim")

_CACHE = {"keys cached in another dtype": lambda r: r["kv_cache_dtype"] != r["attn_dtype"]}

_PREFIX = {"context after a cached prefix": lambda r: r["step"] != 0}

_EXPERTS = {
    "experts spread over ranks": lambda r: r["moe_ep_size"] > 1,
    "experts without a gate": _not_gated,
}

_MOE_SIZES = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")

_HEADS = ("heads", "kv_heads", "batch")

_KV = (*_SIZES, "num_key_value_heads")

_EXPERT_SHAPE = ("hidden", "intermediate", "experts", "top_k")

TABLES = {
    "gemm": Table("gemm", Matmul, "gemm_dtype", ("m", "n", "k"), _matmul, ("n", "k")),
    "context_attention": Table(
        "attention", Attention, "attn_dtype", _KV, _context, _HEADS, _CACHE | _PREFIX
    ),
    "generation_attention": Table(
        "attention", Attention, "attn_dtype", _KV, _generation, _HEADS, _CACHE
    ),
    "encoder_attention": Table(
        "encoder_attention", Attention, "attn_dtype", _SIZES, _encoder, _HEADS
    ),
    "moe": Table("moe", MoeMlp, "moe_dtype", _MOE_SIZES, _moe, _EXPERT_SHAPE, _EXPERTS),
    "scale_matrix": Table(
        folder="quantize",
        operator=Elementwise,
        dtype="quant_dtype",
        sizes=("m", "k"),
        fields=_scaled,
        group=("elements",),
        reads="bfloat16",
    ),
}
"""The tables that are read, by name; the file is ``<name>_perf.parquet``."""
