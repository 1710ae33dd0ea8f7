"""Latent attention as engines run it, beside the traced model: what is multiplied and split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calib.cards.engines.card import load_engine_card
from calib.errors import CalibError
from calib.estimates.stack.formats import BLOCK, BMM, INT4, KV8, MLA, Formats
from calib.estimates.stack.lower import Kernel, lowered
from calib.hardware import load_hardware
from calib.steps.engine.stack import formats_of, stack_of
from calib.trace.hf import HFModel, load
from model.ops import Attention, LatentAttention, Matmul, MoeMlp
from model.parallel import Layout, Parallel
from model.workload import Workload

LAYERS, HEADS, HIDDEN = 2, 16, 256
KEYS, ROTARY, VALUES, RANK, QUERY_RANK = 48, 16, 32, 64, 40
BATCH, PROMPT, STEPS = 3, 21, 4
TEXT = Workload("text", prompt_tokens=PROMPT, batch=BATCH, decode_steps=STEPS, logits="last")
H200 = load_hardware("h200")


def written(folder: Path, **given: Any) -> HFModel:
    sizes: dict[str, Any] = {
        **{"num_hidden_layers": LAYERS, "first_k_dense_replace": 1, "n_routed_experts": 16},
        **{"hidden_size": HIDDEN, "vocab_size": 999, "num_attention_heads": HEADS},
        **{"num_key_value_heads": HEADS, "qk_nope_head_dim": KEYS, "qk_rope_head_dim": ROTARY},
        **{"v_head_dim": VALUES, "kv_lora_rank": RANK, "q_lora_rank": QUERY_RANK},
        **{"moe_intermediate_size": 128, "intermediate_size": 512, "model_type": "deepseek_v3"},
        "architectures": ["DeepseekV3ForCausalLM"],
    }
    (folder / "config.json").write_text(json.dumps(sizes | given), encoding="utf-8")
    return replace(load(folder, "bfloat16"), card=H200.compute_capability)


def kernels_of(model: Any, phase: str, formats: Formats | None = None) -> list[Kernel]:
    return lowered(model.phases(TEXT)[phase].layer.calls(), formats or Formats())


def flops(kernels: Any) -> int:
    return sum(k.op.tensor_core_flops * k.count for k in kernels)


@pytest.mark.parametrize("query_rank", [QUERY_RANK, None])
def test_a_prompt_multiplies_what_the_traced_model_does(tmp_path: Path, query_rank: Any) -> None:
    model = written(tmp_path, q_lora_rank=query_rank)
    before = model.phases(TEXT)["prefill"].layer.calls()
    kernels = kernels_of(model, "prefill")
    assert flops(kernels) == flops(before)
    assert sum(k.count for k in kernels) < 24 * LAYERS < len(before)
    attention = [k for k in kernels if isinstance(k.op, Attention)]
    assert sum(k.count for k in attention) == LAYERS
    op = Attention(
        *(BATCH, PROMPT, PROMPT, HEADS, HEADS, KEYS + ROTARY), causal=True, v_head_dim=VALUES
    )
    assert {(k.op, k.name) for k in attention} == {(op, MLA)}


def test_a_token_attends_to_the_latent_by_hand(tmp_path: Path) -> None:
    """Per layer: two products by head in place of widening the cache, whose latent and rotary part
    are read once a sequence; the weights of widening are read once, as many bytes as they have."""
    model = written(tmp_path)
    kernels = [k for k in kernels_of(model, "decode") if "self_attn" in k.path]
    seen = {k.op.kv_len for k in kernels if isinstance(k.op, LatentAttention)}.pop()
    assert PROMPT < seen <= PROMPT + STEPS
    attention = next(k.op for k in kernels if isinstance(k.op, LatentAttention))
    products = BATCH * HEADS * seen * 2 * (RANK + ROTARY + RANK)
    assert attention.tensor_core_flops == products
    queries, result = BATCH * HEADS * (RANK + ROTARY), BATCH * HEADS * RANK
    cache = BATCH * seen * (RANK + ROTARY)
    assert attention.bytes == 2 * (queries + cache + result)
    by_head = [k.op for k in kernels if k.name == BMM and "layers.1" in k.path]
    assert sum(op.tensor_core_flops for op in by_head) == (
        2 * BATCH * HEADS * RANK * (KEYS + VALUES)
    )
    read = [2 * op.batch * op.n * op.k for op in by_head]
    assert sum(read) == 2 * HEADS * (KEYS + VALUES) * RANK  # those of kv_b_proj
    traced = model.phases(TEXT)["decode"].layer.calls()
    assert flops(kernels) < flops(c for c in traced if "self_attn" in c.path)


def test_products_of_one_input_are_one(tmp_path: Path) -> None:
    kernels = kernels_of(written(tmp_path), "decode")
    first = [k.op for k in kernels if k.path.endswith("q_a_proj")]
    assert {(op.n, op.k) for op in first} == {(QUERY_RANK + RANK + ROTARY, HIDDEN)}
    assert not any(k.path.endswith(("kv_a_proj_with_mqa", "kv_b_proj")) for k in kernels)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_heads_are_split_and_the_latent_is_not(tmp_path: Path, phase: str) -> None:
    model = written(tmp_path)
    whole, card = (
        [k for k in kernels_of(m, phase) if "layers.1.self_attn" in k.path or k.count > 1]
        for m in (model, Parallel(model, Layout(tp=4)))
    )

    def of(kernels: list[Kernel], kind: Any, name: str = "") -> list[Any]:
        return [k.op for k in kernels if isinstance(k.op, kind) and k.name == name]

    for kind, name in ((Attention, MLA), (Matmul, BMM)):
        for one, part in zip(of(whole, kind, name), of(card, kind, name), strict=True):
            assert part.tensor_core_flops * 4 == one.tensor_core_flops
    if phase == "decode":
        one, part = (of(kernels, LatentAttention, MLA)[0] for kernels in (whole, card))
        cache = 2 * BATCH * one.kv_len * (RANK + ROTARY)
        assert (one.bytes - cache) == 4 * (part.bytes - cache)


def test_a_narrow_cache_is_the_step_s_alone(tmp_path: Path) -> None:
    model = written(tmp_path)
    names = {
        phase: {
            k.name for k in kernels_of(model, phase, Formats(cache="fp8")) if "self_attn" in k.path
        }
        for phase in ("prefill", "decode")
    }
    assert MLA in names["prefill"]
    assert MLA + KV8 not in names["prefill"]
    assert MLA + KV8 in names["decode"]


FLOAT8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}
GROUP["weights"] |= {"strategy": "group", "symmetric": True}  # type: ignore[operator]
PACKED: dict[str, Any] = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
PACKED |= {"config_groups": {"group_0": GROUP}}
LEFT = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|down)_proj.*"]


def stack_by(engine: str, model: Any) -> Any:
    asked: Any = SimpleNamespace(implementation=engine, limit=SimpleNamespace(tpot=None))
    return stack_of(asked, H200, model, model.phases(TEXT))


def stacked(model: Any) -> dict[str, Any]:
    """By path's end of the last layer and kernel's name: the product of a step."""
    stack = stack_by("sglang", model)
    last = [c for c in stack.calls["decode"] if "layers.1" in c.path]
    some = [c for c in last if c.op.tensor_core_flops]
    return {c.path.rpartition(".")[2] + stack.names[c.op]: c.op for c in some}


@pytest.mark.parametrize("cards", [1, 4])
def test_a_file_in_float8_is_run_by_the_kernels_of_its_blocks(tmp_path: Path, cards: int) -> None:
    model: Any = written(tmp_path, quantization_config=FLOAT8)
    found = stacked(Parallel(model, Layout(tp=cards)) if cards > 1 else model)
    for path in ("q_a_proj", "q_b_proj", "o_proj", "down_proj", "experts"):
        assert found[path + BLOCK].dtype == "float8_e4m3fn", path
    assert found["gate"].dtype == "bfloat16"  # which the file leaves as it is
    assert found["self_attn" + BMM].dtype == "bfloat16"


@pytest.mark.parametrize("cards", [1, 4])
def test_experts_of_four_bits_are_read_as_such(tmp_path: Path, cards: int) -> None:
    model: Any = written(tmp_path, quantization_config=PACKED | {"ignore": LEFT})
    found = stacked(Parallel(model, Layout(tp=cards)) if cards > 1 else model)
    layer = found["experts" + INT4]
    assert isinstance(layer, MoeMlp)
    assert (layer.dtype, layer.weight_dtype) == ("bfloat16", "int4")
    plain = MoeMlp(*(layer.tokens, layer.experts, layer.top_k, layer.hidden, layer.intermediate))
    assert layer.weight_bytes_read * 4 == pytest.approx(
        MoeMlp(**vars(plain) | {"distribution": layer.distribution}).weight_bytes_read
    )
    assert found["q_b_proj"].dtype == "bfloat16"


def test_a_file_s_format_adds_no_kernel_but_what_narrows_an_input(tmp_path: Path) -> None:
    plain, told = (
        [c.path for c in stack_by("sglang", model).calls["decode"]]
        for model in (written(tmp_path), written(tmp_path, quantization_config=FLOAT8))
    )
    narrowed = sum(path.endswith(PRODUCTS) for path in plain)
    assert len(told) == len(plain) + narrowed


PRODUCTS = ("q_a_proj", "q_b_proj", "o_proj", "gate_proj", "down_proj")
"""Of a step, whose input is narrowed."""


def test_products_of_four_bits_are_refused(tmp_path: Path) -> None:
    model = written(tmp_path, quantization_config=PACKED | {"ignore": ["lm_head"]})
    with pytest.raises(CalibError, match="expected implementation=torch, or a file of float8"):
        stacked(model)
    assert stack_by("vllm", model) is None  # single operators by its tables, as for any model


def test_a_type_of_weights_is_kept_on_several_cards() -> None:
    whole = SimpleNamespace(weight_dtype="float8_e4m3fn")
    assert formats_of("vllm", Parallel(whole, Layout(tp=2))) == formats_of("vllm", whole)
    assert formats_of("vllm", whole).products == "fp8"


def test_an_engine_without_tables_of_a_latent_takes_the_least_of_the_others() -> None:
    step = [LatentAttention(64, 1, 8192, 16, 1, 576, "float8_e4m3fn", causal=True, v_head_dim=512)]
    told = {e: load_engine_card("h200", e).estimates(step, MLA + KV8) for e in ("sglang", "trtllm")}
    lent = load_engine_card("h200", "vllm").estimates(step, MLA + KV8)
    assert lent.known_as.tolist() == ["transferred"]
    assert lent.seconds[0] == min(found.seconds[0] for found in told.values())
    assert all(found.known_as.tolist() == ["interpolated"] for found in told.values())
    assert (told["trtllm"].seconds > told["trtllm"].floor).all()


def test_a_card_whose_engines_are_not_known_leans_on_attention() -> None:
    step = [LatentAttention(8, 1, 2048, 16, 1, 576, causal=True, v_head_dim=512)]
    found = load_engine_card("a100", "vllm").estimates(step, MLA)
    assert found.known_as.tolist() == ["transferred"]
    assert found.seconds[0] > found.floor[0]
