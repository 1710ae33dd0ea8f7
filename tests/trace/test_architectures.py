"""Small models of many kinds, by classes of ``transformers``: what their passes are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from calib.errors import CalibError
from calib.steps.request import Subject, Traced
from calib.steps.subject import build_model
from calib.trace.hf import HFModel, load
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=24, decode_steps=4)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
SMALL |= {"intermediate_size": 96, "dtype": "bfloat16"}
KV = {**SMALL, "num_key_value_heads": 2, "head_dim": 16}
SEES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
SEES |= {"intermediate_size": 48, "image_size": 32}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
MODELS: dict[str, tuple[Any, list[str]]] = {
    "gpt2": (hf.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300), ["prefill", "decode"]),
    "bloom": (hf.BloomConfig(hidden_size=64, n_layer=2, n_head=4), ["prefill", "decode"]),
    "mamba": (hf.MambaConfig(hidden_size=32, num_hidden_layers=2), ["prefill", "decode"]),
    "mixtral": (hf.MixtralConfig(**{**KV, **MOE, "dtype": "float16"}), ["prefill", "decode"]),
    "bert": (hf.BertConfig(**SMALL), ["encode"]),
    "modernbert": (hf.ModernBertConfig(**SMALL, pad_token_id=0), ["encode"]),
    "t5": (
        hf.T5Config(d_model=64, d_ff=96, d_kv=16, num_heads=4, num_layers=2),
        ["encoder", "prefill", "decode"],
    ),
    "bart": (
        hf.BartConfig(d_model=64, encoder_layers=2, decoder_layers=2, vocab_size=300),
        ["encoder", "prefill", "decode"],
    ),
    "clip": (hf.CLIPConfig(text_config=SMALL, vision_config=SEES), ["vision", "encode"]),
    "siglip": (hf.SiglipVisionConfig(**SEES), ["vision"]),
    "wav2vec2": (hf.Wav2Vec2Config(**SMALL), ["encode"]),
    "videomae": (hf.VideoMAEConfig(**SEES, num_frames=4), ["vision"]),
    "convnext": (hf.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1] * 4), ["vision"]),
    "hiera": (hf.HieraConfig(), ["vision"]),
    "swinv2": (hf.Swinv2Config(depths=[1, 1], num_heads=[2, 4], image_size=64), ["vision"]),
}


def written(folder: Path, config: Any) -> Path:
    given = config if isinstance(config, dict) else config.to_dict()
    (folder / "config.json").write_text(json.dumps(given, default=str), "utf-8")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_passes_that_it_is_for(name: str, tmp_path: Path) -> None:
    config, passes = MODELS[name]
    phases = load(written(tmp_path, config)).phases(TEXT)
    assert list(phases) == passes
    for phase in phases.values():
        assert phase.layer.forward_tensor_core_flops() > 0


def test_an_encoder_costs_what_the_counter_counts(tmp_path: Path) -> None:
    config = MODELS["bert"][0]
    traced = load(written(tmp_path, config)).phases(TEXT)["encode"].layer
    config._attn_implementation = "eager"
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module = hf.BertForMaskedLM(config)
        module(input_ids=torch.zeros(1, 24, dtype=torch.long))
    assert traced.forward_tensor_core_flops() == counter.get_total_flops()


def test_the_workload_says_what_is_asked(tmp_path: Path) -> None:
    model = load(written(tmp_path, hf.LlamaConfig(**KV)))
    assert list(model.phases(replace(TEXT, task="encode"))) == ["encode"]
    assert list(model.phases(replace(TEXT, task="decode"))) == ["decode"]
    assert list(model.phases(replace(TEXT, task="generate"))) == ["prefill", "decode"]
    with pytest.raises(ValueError, match="task = 'sing': expected one of encode"):
        replace(TEXT, task="sing")


def test_an_encoder_generates_nothing_and_says_so(tmp_path: Path) -> None:
    model = load(written(tmp_path, MODELS["bert"][0]))
    with pytest.raises(CalibError, match=r"workload.task = generate: BertForMaskedLM generates no"):
        model.phases(replace(TEXT, task="generate"))


def test_an_image_that_does_not_fit_is_the_models_own_and_said(tmp_path: Path) -> None:
    model = load(written(tmp_path, MODELS["siglip"][0]))
    model.phases(replace(TEXT, side=31))
    assert any("31 pixels does not fit the model: its own (32, 32)" in n for n in model.notes)


def test_a_prompt_beyond_the_positions_is_said(tmp_path: Path) -> None:
    model = load(written(tmp_path, hf.LlamaConfig(**KV, max_position_embeddings=20)))
    model.phases(TEXT)
    assert any("28 tokens, prompt and decoded, are beyond" in note for note in model.notes)
    (tmp_path / "clip").mkdir()
    towers = load(written(tmp_path / "clip", MODELS["clip"][0]))
    towers.phases(replace(TEXT, prompt_tokens=600))
    assert any("is cut to the model's 77 positions" in note for note in towers.notes)


@pytest.mark.parametrize(
    "config",
    [
        hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=28),
        hf.OPTConfig(hidden_size=32, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2,
                     word_embed_proj_dim=32, max_position_embeddings=28),
    ],
)  # fmt: skip
def test_positions_that_were_learned_have_an_end(config: Any, tmp_path: Path) -> None:
    """TEXT has 28 tokens; longer prompts, which tell how activations grow, are no request."""
    model = load(written(tmp_path, config))
    model.phases(TEXT)
    assert model.working(replace(TEXT, prompt_tokens=TEXT.prompt_tokens + 9))
    longer = replace(TEXT, decode_steps=TEXT.decode_steps + 1)
    with pytest.raises(CalibError, match="learned its 28 positions one by one: expected at most"):
        model.phases(longer)


def test_an_image_before_text_is_counted_in_its_patches(tmp_path: Path) -> None:
    text = {**KV, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
    sees = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    sees |= {"intermediate_size": 48, "patch_size": 14, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=sees)
    model = load(written(tmp_path, config))
    workload = replace(TEXT, side=112)
    phases = model.phases(workload)
    assert list(phases) == ["vision", "prefill", "decode"]
    # 112 / 14 = 8 patches a side, merged 2 x 2: 16 tokens before the prompt's 24.
    assert model.prompt_length(workload) == 16 + 24
    assert model.weight_bytes(workload) > phases["prefill"].layer.weight_bytes()


LAYERS = ["sliding_attention", "full_attention"]
EACH = 2 * 2 * 16 * 2
"""Bytes a token and layer: keys and values of 2 heads of 16, bfloat16."""


@pytest.mark.parametrize("steps", [1, 6, 40])
def test_a_sliding_layer_keeps_its_window(tmp_path: Path, steps: int) -> None:
    given = {**KV, "sliding_window": 32, "layer_types": LAYERS}
    model = load(written(tmp_path, hf.Gemma3TextConfig(**given)))
    kept, _ = model.working(replace(TEXT, decode_steps=steps))["decode"]
    tokens = 24 + steps
    assert kept == EACH * (tokens + min(tokens, 32))


@pytest.mark.parametrize("steps", [1, 40])
def test_a_latent_is_kept_as_it_is(tmp_path: Path, steps: int) -> None:
    given = {**SMALL, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 24}
    given |= {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_group": 1}
    given |= {"n_routed_experts": 4, "moe_intermediate_size": 32, "topk_group": 1}
    given |= {"num_experts_per_tok": 2, "first_k_dense_replace": 1}
    model = load(written(tmp_path, hf.DeepseekV3Config(**given)))
    kept, _ = model.working(replace(TEXT, decode_steps=steps))["decode"]
    assert kept == 2 * (32 + 8) * 2 * (24 + steps)  # layers, latent and rotary part, bfloat16


def test_a_decoder_keeps_what_it_sees_of_the_encoder(tmp_path: Path) -> None:
    model = load(written(tmp_path, MODELS["t5"][0]), "bfloat16")
    kept, _ = model.working(TEXT)["decode"]
    each = 2 * 2 * 4 * 16 * 2  # layers, keys and values of 4 heads of 16
    assert kept == each * 24 + each * (1 + 4)
    assert model.prompt_length(TEXT) is None


def test_a_state_does_not_grow(tmp_path: Path) -> None:
    model = load(written(tmp_path, hf.MambaConfig(hidden_size=32, num_hidden_layers=2)), "bfloat16")
    short, long = (model.working(replace(TEXT, decode_steps=n))["decode"][0] for n in (1, 400))
    # Two layers, 64 channels: 4 of the convolution in bfloat16, 16 states in float32.
    assert short == long == 2 * 64 * (4 * 2 + 16 * 4)


def test_the_longest_text_is_told_from_two_prompts(tmp_path: Path) -> None:
    model = load(written(tmp_path, hf.LlamaConfig(**KV)))
    near = model.working(TEXT)
    for prompt in (50, 96, 400):
        asked = replace(TEXT, prompt_tokens=prompt)
        fresh = HFModel(model.name, model.kind, model.config, model.dtype).working(asked)
        told = model.working(asked)
        assert told["decode"][0] == fresh["decode"][0] > near["decode"][0]
        assert told["prefill"][1] == pytest.approx(fresh["prefill"][1], rel=0.05)
    assert list(model.traced) == [TEXT]
    assert model.prompt_length(replace(TEXT, prompt_tokens=50)) == 50


def test_a_dtype_is_the_texts_else_the_cards_and_said(tmp_path: Path) -> None:
    from calib.hardware import load_hardware

    folder = written(tmp_path, {"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4})
    for card, dtype in (("h100", "bfloat16"), ("t4", "float16"), ("cpu", "float32")):
        subject, traced = Subject(architecture="hf"), Traced(config=str(folder))
        model = build_model(subject, traced, load_hardware(card))
        assert model.dtype == dtype
        assert any(f"{dtype} is assumed" in note for note in model.notes)
    inner = {"model_type": "gemma3", "text_config": {**SMALL, "dtype": "float16"}}
    model = load(written(tmp_path, inner))
    assert (model.dtype, model.assumed) == ("float16", False)


def test_a_class_is_known_however_it_is_spelled(tmp_path: Path) -> None:
    given = {"model_type": "gpt2", "architectures": ["GPT2_LMHeadModel"]}
    assert load(written(tmp_path, given)).kind is hf.GPT2LMHeadModel


def test_what_a_models_own_code_raises_is_one_line(tmp_path: Path) -> None:
    model = load(written(tmp_path, hf.GPT2Config(n_embd=65, n_layer=1, n_head=4)))
    with pytest.raises(CalibError, match=r"hf.config: GPT2LMHeadModel cannot be built: ") as raised:
        model.phases(TEXT)
    assert "\n" not in str(raised.value)
