"""Rows of engines' tables, made here, as operators."""

from __future__ import annotations

import pandas as pd
import pytest

from calib.samples.engines.reading import _thinned
from calib.samples.engines.tables import BLOCK, FP8, KV8, LIBRARY_TABLES, TABLES


def test_products_by_format() -> None:
    rows = pd.DataFrame(
        {
            "gemm_dtype": ["bfloat16", "fp8", "fp8_block", "nvfp4", "int8_wo"],
            **{"m": 3, "n": 65, "k": 128, "latency": 0.01},
        }
    )
    found = TABLES["gemm"].columns(rows)
    assert found["dtype"].tolist() == ["bfloat16", FP8, FP8, "float4_e2m1fn"]
    assert found["kernel"].tolist() == ["", "", BLOCK, ""]
    assert found["out_dtype"].isna().tolist() == [True, False, False, False]
    assert set(found["group"]) == {"65/128"}


def test_a_narrow_cache_is_a_kernel_of_its_own() -> None:
    rows = pd.DataFrame(
        {
            **{"batch_size": 2, "isl": 1, "num_heads": 8, "num_key_value_heads": 0},
            **{"head_dim": 128, "window_size": [0, 128, 0], "step": 99, "latency": 0.01},
            "attn_dtype": ["bfloat16", "bfloat16", "fp8"],
            "kv_cache_dtype": ["bfloat16", "fp8", "bfloat16"],
        }
    )
    found = TABLES["generation_attention"].columns(rows)
    assert found["kernel"].tolist() == ["", KV8]
    assert found["dtype"].tolist() == ["bfloat16", FP8]
    assert found["kv_len"].tolist() == [100, 100]
    assert found["kv_heads"].tolist() == [8, 8]
    assert found["window"].tolist() == [None, 128]


def test_experts_are_those_of_one_card() -> None:
    rows = pd.DataFrame(
        {
            "moe_dtype": "fp8_block",
            **{"num_tokens": 5, "num_experts": 128, "topk": 8, "hidden_size": 4096},
            **{"inter_size": 1536, "moe_tp_size": [2, 1, 1], "moe_ep_size": [1, 4, 16]},
            **{"distribution": "power_law_1.2", "kernel_source": "k", "latency": 0.1},
        }
    )
    found = TABLES["moe"].columns(rows)
    assert found[["experts", "top_k", "intermediate"]].values.tolist() == [
        [128, 8, 768],
        [32, 2, 1536],
    ]


def test_a_message_is_counted_in_elements() -> None:
    rows = pd.DataFrame(
        {
            **{"op_name": ["all_gather", "all_reduce"], "nccl_dtype": "half"},
            **{"num_gpus": 4, "message_size": 1024, "latency": 0.01},
        }
    )
    found = LIBRARY_TABLES["all_gather"].columns(rows)
    assert found[["elements", "ranks"]].values.tolist() == [[1024, 4]]


@pytest.mark.parametrize("most", [1, 7, 100])
def test_thinning_keeps_the_order(most: int) -> None:
    rows = pd.DataFrame({"a": range(50)})
    kept = _thinned(rows, most)["a"].tolist()
    assert len(kept) == min(most, 50)
    assert kept == sorted(kept)
