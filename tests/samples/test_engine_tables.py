"""Rows of engines' tables, made here, as operators."""

from __future__ import annotations

import pandas as pd
import pytest

from calib.samples.engines import reading
from calib.samples.engines.reading import _samples, _thinned
from calib.samples.engines.tables import BLOCK, BMM, FP8, INT4, KV8, LIBRARY_TABLES, MLA, TABLES
from model.ops import Attention, LatentAttention, Matmul, MoeMlp


@pytest.fixture(autouse=True)
def _of_some_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the tables need not be there: the rows are made here."""
    monkeypatch.setattr(reading.importlib.metadata, "version", lambda name: "1")


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


def test_experts_of_four_bits_are_multiplied_wide() -> None:
    rows = pd.DataFrame(
        {
            "moe_dtype": ["int4_wo", "bfloat16"],
            **{"num_tokens": 5, "num_experts": 384, "topk": 8, "hidden_size": 7168},
            **{"inter_size": 2048, "moe_tp_size": 8, "moe_ep_size": 1},
            **{"distribution": "power_law_1.2", "kernel_source": "k", "latency": 0.1},
        }
    )
    found = {s.implementation: s.op for s in _samples(rows, TABLES["moe"], "h200", "e", 9)}
    sizes = (5, 384, 8, 7168, 256, "bfloat16", "power_law_1.2")
    assert found == {f"e{INT4}": MoeMlp(*sizes, "int4"), "e": MoeMlp(*sizes)}


LATENT = {"num_heads": 16, "batch_size": 4, "latency": 0.02}


def test_prompts_over_a_latent_have_keys_of_their_own() -> None:
    rows = pd.DataFrame({**LATENT, "isl": 7, "step": 0, "kv_cache_dtype": ["bfloat16", "fp8"]})
    found = _samples(rows, TABLES["context_mla"], "h200", "e", 9)
    op = Attention(4, 7, 7, 16, 16, 192, causal=True, v_head_dim=128)
    assert [(s.implementation, s.op) for s in found] == [(f"e{MLA}", op)]


def test_tokens_over_a_latent_read_it_once() -> None:
    rows = pd.DataFrame({**LATENT, "isl": 1, "step": 99, "kv_cache_dtype": ["bfloat16", "fp8"]})
    found = {s.implementation: s.op for s in _samples(rows, TABLES["generation_mla"], "h", "e", 9)}
    sizes = (4, 1, 100, 16, 1, 576)
    assert found == {
        f"e{MLA}": LatentAttention(*sizes, causal=True, v_head_dim=512),
        f"e{MLA}{KV8}": LatentAttention(*sizes, FP8, causal=True, v_head_dim=512),
    }


def test_products_by_head_bring_queries_to_the_latent_and_results_back() -> None:
    rows = pd.DataFrame(
        {
            **{"op_name": ["mla_gen_pre", "mla_gen_post"], "bmm_dtype": "bfloat16"},
            **{"num_tokens": 3, "num_heads": 16, "latency": 0.01},
        }
    )
    found = [(s.implementation, s.op) for s in _samples(rows, TABLES["mla_bmm"], "h", "e", 9)]
    ops = [Matmul(3, 512, 128, 16), Matmul(3, 128, 512, 16)]
    assert found == [(f"e{BMM}", op) for op in ops]


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
