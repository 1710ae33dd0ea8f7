"""Public tables as samples, on tiny tables in the package's schema: the package is not needed."""

import importlib.util
import logging

import pandas as pd
import pytest

from calib.errors import CalibError
from calib.fit.held_out import group_of
from calib.samples import public
from calib.samples.public import engine_version, public_samples, read_table, samples_of
from calib.samples.public_tables import CARDS, TABLES
from model.ops import Attention, Elementwise, Matmul, MoeMlp

LINEAR = {"kernel_source": "torch.nn.functional.linear", "device": "NVIDIA H200"}
FLASH = {"kernel_source": "vllm_flash_attn_fa3", "device": "NVIDIA H200"}
GEMM = LINEAR | {"gemm_dtype": "bfloat16", "m": 3, "n": 5, "k": 7, "latency": 2.0}
SHAPE = {"batch_size": 2, "num_heads": 8, "head_dim": 64, "attn_dtype": "bfloat16"}
CACHE = {"num_key_value_heads": 4, "kv_cache_dtype": "bfloat16", "window_size": 0, "step": 0}
CONTEXT = FLASH | SHAPE | CACHE | {"isl": 33, "latency": 0.5}
GENERATION = CONTEXT | {"isl": 1, "step": 127}
ENCODER = SHAPE | {"isl": 33, "latency": 0.5} | FLASH | {"kernel_source": "vllm_vit_flash_attn_fa2"}
MOE = {
    "kernel_source": "vllm_unquantizedfusedmoe_triton_tritonexperts",
    "device": "NVIDIA H200",
    "moe_dtype": "bfloat16",
    "num_tokens": 9,
    "hidden_size": 64,
    "inter_size": 48,
    "topk": 2,
    "num_experts": 8,
    "moe_tp_size": 4,
    "moe_ep_size": 1,
    "distribution": "balanced",
    "latency": 1.0,
}


SCALE = {"kernel_source": "static_scaled_fp8_quant", "device": "NVIDIA H200"}
SCALE |= {"m": 3, "k": 5, "quant_dtype": "fp8", "latency": 2.0}


def write(root, table, *rows, card="h200", engine="vllm"):
    """A table as the package lays it out."""
    version = engine_version(card, engine)
    folder = root / CARDS[card] / TABLES[table].folder / engine / version
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / f"{table}_perf.parquet")
    return root


def one(root, table, row, **options):
    """The only sample of a table with a single row."""
    write(root, table, row, **options)
    (sample,) = public_samples(
        options.get("card", "h200"), [table], root=root, engine=options.get("engine", "vllm")
    )
    return sample


def test_scaling_a_matrix_is_a_pointwise_operator(tmp_path):
    sample = one(tmp_path, "scale_matrix", SCALE)
    assert sample.op == Elementwise(15, dtype="bfloat16", out_dtype="float8_e4m3fn")
    assert sample.op.bytes == 15 * (2 + 1) and sample.seconds == (0.002,)
    assert sample.implementation == "vllm-0.24.0/static_scaled_fp8_quant"
    assert sample.inputs == "uninitialised"


def test_gemm_is_a_hot_sample_in_seconds_with_uninitialised_weights(tmp_path):
    sample = one(tmp_path, "gemm", GEMM)
    assert sample.op == Matmul(3, 5, 7)
    assert sample.seconds == (0.002,)
    assert (sample.hardware, sample.implementation) == ("h200", "vllm-0.24.0")
    assert (sample.cache, sample.inputs, sample.origin) == ("hot", "uninitialised", "public")
    assert sample.group == group_of(sample) == "5/7"


def test_other_engines_do_not_claim_to_know_their_inputs(tmp_path):
    row = GEMM | {"kernel_source": "sglang_torch_linear"}
    sample = one(tmp_path, "gemm", row, engine="sglang")
    assert (sample.implementation, sample.inputs) == ("sglang-0.5.14", "unknown")


@pytest.mark.parametrize(
    ("table", "row", "op"),
    [
        ("context_attention", CONTEXT, Attention(2, 33, 33, 8, 4, 64, causal=True)),
        (
            "context_attention",
            CONTEXT | {"window_size": 16},
            Attention(2, 33, 33, 8, 4, 64, causal=True, window=16),
        ),
        ("generation_attention", GENERATION, Attention(2, 1, 128, 8, 4, 64, causal=True)),
        ("encoder_attention", ENCODER, Attention(2, 33, 33, 8, 8, 64)),
        ("moe", MOE, MoeMlp(9, 8, 2, 64, 12)),
    ],
)
def test_rows_are_the_operators_they_measure(tmp_path, table, row, op):
    assert one(tmp_path, table, row).op == op


def test_a_table_without_windows_has_none(tmp_path):
    row = {k: v for k, v in CONTEXT.items() if k != "window_size"}
    row["kernel_source"] = "vllm_flash_attn"
    sample = one(tmp_path, "context_attention", row, card="a100")
    assert sample.op.window is None
    assert sample.implementation == "vllm-0.14.0/flash_attn_2"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("vllm_flash_attn_fa3", "vllm-0.24.0/flash_attn_3"),
        ("vllm_vit_flash_attn_fa2", "vllm-0.24.0/flash_attn_2"),
        ("vllm_flashinfer_fiprefill", "vllm-0.24.0/flashinfer_fiprefill"),
        ("vllm_unquantizedfusedmoe_triton_tritonexperts", "vllm-0.24.0/triton_experts"),
    ],
)
def test_kernels_are_kept_apart(tmp_path, source, name):
    assert (
        one(tmp_path, "context_attention", CONTEXT | {"kernel_source": source}).implementation
        == name
    )


def test_pooled_engines_share_a_name_over_versions(tmp_path):
    for card in ("a100", "h200"):
        write(tmp_path, "gemm", GEMM, card=card)
    names = {read_table(c, "gemm", root=tmp_path)["implementation"][0] for c in ("a100", "h200")}
    assert names == {"vllm-0.14.0", "vllm-0.24.0"}
    pooled = [read_table(c, "gemm", root=tmp_path, pooled=True) for c in ("a100", "h200")]
    assert {rows["implementation"][0] for rows in pooled} == {"vllm"}


def test_bad_rows_are_dropped_and_counted(tmp_path, caplog):
    rows = [GEMM, GEMM | {"latency": 3.0}, GEMM | {"m": 0}, GEMM | {"n": 9, "latency": 0.0}]
    rows += [GEMM | {"n": 9, "latency": float("nan")}, GEMM | {"gemm_dtype": "nvfp4"}]
    write(tmp_path, "gemm", *rows, GEMM | {"n": 11})
    with caplog.at_level(logging.INFO, "calib.samples.public"):
        kept = read_table("h200", "gemm", root=tmp_path)
    assert kept["n"].tolist() == [5, 11]
    assert kept["seconds"].tolist() == [0.002, 0.002]  # of repeats, the first
    counts = [record.getMessage().split(": dropped ")[1] for record in caplog.records]
    assert counts == [
        "1 rows: a size of zero",
        "2 rows: a latency of zero",
        "1 rows: a shape measured before",
    ]


@pytest.mark.parametrize(
    ("table", "good", "bad"),
    [
        ("generation_attention", GENERATION, {"kv_cache_dtype": "fp8"}),
        ("context_attention", CONTEXT, {"step": 64}),
        ("moe", MOE, {"moe_ep_size": 2}),
        ("moe", MOE, {"hidden_size": 2688, "inter_size": 1856}),
    ],
)
def test_work_that_an_operator_cannot_say_is_dropped(tmp_path, table, good, bad):
    write(tmp_path, table, good, good | bad)
    assert len(read_table("h200", table, root=tmp_path)) == 1


def test_fp8_is_read_where_it_is_asked_for(tmp_path):
    write(tmp_path, "gemm", GEMM, GEMM | {"gemm_dtype": "fp8", "kernel_source": "cutlass"})
    rows = read_table("h200", "gemm", root=tmp_path, dtypes=["float8_e4m3fn"])
    (sample,) = samples_of(rows, "gemm")
    assert sample.op == Matmul(3, 5, 7, dtype="float8_e4m3fn", out_dtype="bfloat16")
    assert sample.implementation == "vllm-0.24.0/cutlass"


def test_a_table_the_card_lacks_is_left_out(tmp_path):
    write(tmp_path, "gemm", GEMM)
    assert len(public_samples("h200", root=tmp_path)) == 1


def test_what_is_wrong_is_named(tmp_path, monkeypatch):
    with pytest.raises(CalibError, match="hw = 'v100': expected one of"):
        read_table("v100", "gemm", root=tmp_path)
    with pytest.raises(CalibError, match="engine = 'tgi'"):
        read_table("h200", "gemm", engine="tgi", root=tmp_path)
    with pytest.raises(CalibError, match="table = 'conv'"):
        read_table("h200", "conv", root=tmp_path)
    with pytest.raises(CalibError, match=r"gemm_perf.parquet does not exist"):
        read_table("h200", "gemm", root=tmp_path)
    write(tmp_path, "gemm", {k: v for k, v in GEMM.items() if k != "k"})
    with pytest.raises(CalibError, match="has no column k"):
        read_table("h200", "gemm", root=tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CalibError, match=f"{public.PACKAGE} is not installed"):
        read_table("h200", "gemm")
