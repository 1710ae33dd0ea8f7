"""Quantised releases: bytes counted by hand, products, what is left as it is, keys and values."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from calib.errors import CalibError
from calib.estimates import memory
from calib.trace.hf import HFModel, load
from model.ops import Copy, Elementwise, GroupedMatmul, Matmul, Other
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=5, decode_steps=2)
H, INNER, V, HEADS, KV, D = 256, 512, 1000, 4, 2, 64
LLAMA = {
    "model_type": "llama",
    "hidden_size": H,
    "intermediate_size": INNER,
    "vocab_size": V,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": D,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
ATTENTION = [(HEADS * D, H), (KV * D, H), (KV * D, H), (H, HEADS * D)]
MLP = [(INNER, H), (INNER, H), (H, INNER)]
WIDE = 2 * (2 * V * H + 5 * H)
"""Bytes of embedding, head and norms."""
GROUP = {"targets": ["Linear"], "input_activations": None}


def tensors(config: dict[str, Any]) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "ignore": ["lm_head"], **config}


def group(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"config_groups": {"group_0": {**GROUP, "weights": weights, **more}}}


FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group"}
DYNAMIC = {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}
BYTES = {
    "fp8": ({"quant_method": "fp8"}, lambda n, k: n * k + 4),
    "fp8, static": (
        {"quant_method": "fp8", "activation_scheme": "static"},
        lambda n, k: n * k + 4 + 4,
    ),
    "fp8, blocks": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        lambda n, k: n * k + 4 * -(-n // 128) * -(-k // 128),
    ),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, lambda n, k: n * k + 4 * n + 4),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        lambda n, k: n * k // 2 + n * (k // 128) * (2 + 0.5),
    ),
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
        lambda n, k: n * k // 2 + n * (k // 128) * (2 + 0.5) + 4 * k,
    ),
    "gptq, 8 bits, whole rows": (
        {"quant_method": "gptq", "bits": 8, "group_size": -1},
        lambda n, k: n * k + n * (2 + 1) + 4 * k,
    ),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        lambda n, k: n * k + 4 * n + 1,
    ),
    "float8 by channel": (
        tensors(group({**FLOAT8, "strategy": "channel"}, input_activations=DYNAMIC)),
        lambda n, k: n * k + 2 * n,
    ),
    "float8 by tensor, static": (
        tensors(
            group({**FLOAT8, "strategy": "tensor"}, input_activations={**DYNAMIC, "dynamic": False})
        ),
        lambda n, k: n * k + 2 + 2,
    ),
    "int4 packed": (
        tensors({"format": "pack-quantized", **group({**INT4, "symmetric": True})}),
        lambda n, k: n * k // 2 + n * (k // 128) * 2 + 16,
    ),
    "int4 packed, zero points": (
        tensors({"format": "pack-quantized", **group({**INT4, "symmetric": False})}),
        lambda n, k: n * k // 2 + n * (k // 128) * (2 + 0.5) + 16,
    ),
    "nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        lambda n, k: n * k // 2 + n * (k // 16) + 8,
    ),
    "modelopt fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        lambda n, k: n * k + 8,
    ),
}
"""A configuration, and bytes of one matrix [n, k] by the tensors that its files hold."""


def model(folder: Path, quantization: Any, given: dict[str, Any] = LLAMA, **more: Any) -> HFModel:
    text = json.dumps({**given, **more, "quantization_config": quantization})
    (folder / "config.json").write_text(text, "utf-8")
    return load(folder / "config.json")


def stored_bytes(loaded: HFModel) -> float:
    """Of all parameters, which are those of the passes here."""
    found = loaded.weight_bytes(TEXT)
    assert found == memory.weight_bytes(loaded.phases(TEXT))
    return found


def on(card: str, loaded: HFModel) -> HFModel:
    object.__setattr__(loaded, "card", card)
    return loaded


def ops_at(loaded: HFModel, end: str, phase: str = "decode") -> list[Any]:
    calls = loaded.phases(TEXT)[phase].layer.calls()
    return [call.op for call in calls if call.path.endswith(end)]


@pytest.mark.parametrize("name", BYTES)
def test_weights_take_the_bytes_of_the_file(name: str, tmp_path: Path) -> None:
    quantization, of_matrix = BYTES[name]
    loaded = model(tmp_path, quantization)
    narrow = 2 * sum(of_matrix(n, k) for n, k in ATTENTION + MLP)
    assert stored_bytes(loaded) == narrow + WIDE


@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_of_bitsandbytes_but_for_a_text_of_unlike_length(
    nested: bool, tmp_path: Path
) -> None:
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    loaded = model(tmp_path, {**config, "bnb_4bit_use_double_quant": nested})
    numbers = [n * k for n, k in ATTENTION + MLP]
    of_block = 1 + 4 / 256 if nested else 4
    tables = 64 + (1024 if nested else 0)
    narrow = 2 * sum(m / 2 + m / 64 * of_block + tables for m in numbers)
    states = stored_bytes(loaded) - narrow - WIDE
    assert 14 * 70 <= states <= 14 * 110


GPT_OSS = {
    **{k: v for k, v in LLAMA.items() if k != "model_type"},
    "model_type": "gpt_oss",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "layer_types": ["full_attention"] * 2,
}


def test_of_gpt_oss_the_experts_alone_are_four_bits(tmp_path: Path) -> None:
    wide = stored_bytes(model(tmp_path, None, GPT_OSS))
    loaded = model(tmp_path, {"quant_method": "mxfp4"}, GPT_OSS)
    numbers = 2 * 8 * 3 * H * INNER
    assert wide - stored_bytes(loaded) == numbers * (2 - 0.5 - 1 / 32)
    products = [op for op in ops_at(loaded, "mlp.experts") if isinstance(op, GroupedMatmul)]
    assert {op.weight_dtype for op in products} == {"float4_e2m1fn"} and len(products) == 4
    assert all(op.weight_dtype is None for op in ops_at(loaded, "q_proj", "prefill")[:1])


QWEN = {
    **{k: v for k, v in LLAMA.items() if k != "model_type"},
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 384,
    "norm_topk_prob": True,
}


def test_experts_are_stored_one_by_one(tmp_path: Path) -> None:
    """384 rows are three blocks, of gate and of up; the router is no linear map of the file's."""
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config["modules_to_not_convert"] = ["lm_head", "model.layers.0.mlp.gate"]
    loaded = model(tmp_path, config, QWEN)
    matrices = ATTENTION + 8 * [(384, H), (384, H), (H, 384)]
    narrow = 2 * sum(n * k + 4 * -(-n // 128) * -(-k // 128) for n, k in matrices)
    wide = WIDE + 2 * 2 * (8 * H + 2 * D)  # routers, norms of heads
    assert stored_bytes(loaded) == narrow + wide


def test_what_is_named_is_left_as_it_is(tmp_path: Path) -> None:
    for pattern in (
        "model.layers.0.self_attn",
        "re:.*layers\\.0\\.self_attn.*",
        "model.layers.0.self_attn*",
        "language_model.model.layers.0.self_attn.q_proj",
        "q_proj",
    ):
        loaded = model(tmp_path, {**BYTES["int4 packed"][0], "ignore": [pattern, "lm_head"]})
        first, *_ = ops_at(loaded, "layers.0.self_attn.q_proj")
        others = ops_at(loaded, "layers.1.mlp.gate_proj")
        assert first.weight_dtype is None and others[0].weight_dtype == "int4", pattern
        kept = ops_at(loaded, "lm_head")
        assert [op.weight_dtype for op in kept] == [None]


def test_float8_is_multiplied_as_it_is_where_the_card_has_units(tmp_path: Path) -> None:
    loaded = on("9.0", model(tmp_path, BYTES["fp8, blocks"][0]))
    made, product, scales = ops_at(loaded, "layers.0.mlp.gate_proj", "prefill")
    assert made == Elementwise(5 * H, dtype="bfloat16", out_dtype="float8_e4m3fn")
    assert product == Matmul(5, INNER, H, dtype="float8_e4m3fn", out_dtype="bfloat16")
    assert isinstance(scales, Other) and scales.read == 4 * (INNER // 128) * (H // 128)
    older = on("8.0", model(tmp_path, BYTES["fp8, blocks"][0]))
    (product, _) = ops_at(older, "layers.0.mlp.gate_proj", "prefill")
    assert product == Matmul(5, INNER, H, weight_dtype="float8_e4m3fn")


def test_four_bits_are_widened_unless_the_card_multiplies_them(tmp_path: Path) -> None:
    hopper = on("9.0", model(tmp_path, BYTES["nvfp4"][0]))
    assert ops_at(hopper, "0.mlp.up_proj")[0] == Matmul(1, INNER, H, weight_dtype="float4_e2m1fn")
    blackwell = on("10.0", model(tmp_path, BYTES["nvfp4"][0]))
    narrow = Matmul(1, INNER, H, dtype="float4_e2m1fn", out_dtype="bfloat16")
    assert ops_at(blackwell, "0.mlp.up_proj")[1] == narrow


def test_bitsandbytes_unpacks_for_more_than_one_row(tmp_path: Path) -> None:
    loaded = model(tmp_path, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    unpacked, product, _ = ops_at(loaded, "0.mlp.up_proj", "prefill")
    assert unpacked == Copy(INNER * H, "int4", "bfloat16") and product == Matmul(5, INNER, H)
    assert ops_at(loaded, "0.mlp.up_proj")[0] == Matmul(1, INNER, H, weight_dtype="int4")


@pytest.mark.parametrize(
    ("more", "share"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}, 0.5),
        ({"kv_cache_quant_algo": "FP8"}, 0.5),
        ({"cache_dtype": "int8"}, 0.5),
        ({"kv_cache_scheme": None}, 1.0),
    ],
)
def test_keys_and_values_lie_as_the_file_says(
    more: dict[str, Any], share: float, tmp_path: Path
) -> None:
    loaded = model(tmp_path, {**BYTES["modelopt fp8"][0], **more})
    prefill = loaded.phases(TEXT)["prefill"].layer
    assert prefill.kv_cache_bytes() == share * 2 * prod((2, 2, KV, 5, D))
    assert loaded.working(TEXT)["prefill"][0] == prefill.kv_cache_bytes()
    wide = model(tmp_path, None).phases(TEXT)["prefill"].layer
    assert prefill.activation_bytes() == wide.activation_bytes()


def test_what_modelopt_writes_beside(tmp_path: Path) -> None:
    beside = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside), "utf-8")
    assert stored_bytes(model(tmp_path, None)) == stored_bytes(
        model(tmp_path, BYTES["modelopt fp8"][0])
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "fp8", "weight_block_size": ["a", 1]}, "weight_block_size = "),
        ({"quant_method": "awq", "bits": 4, "group_size": 0}, "group_size = 0: expected whole"),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "expected a list of names"),
    ],
)
def test_what_cannot_be_is_one_line(config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CalibError, match=said):
        model(tmp_path, config)


@pytest.mark.parametrize("config", [{"quant_method": "awq", "bits": 3}, {"quant_method": "x"}])
def test_what_is_not_known_is_said(config: Any, tmp_path: Path) -> None:
    assert "left out" in model(tmp_path, config).notes[-1]
