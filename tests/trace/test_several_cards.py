"""Traced models on several cards: beside our own layers, and by the laws that hold for those."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from calib.errors import CalibError
from calib.trace.hf import HFModel, load
from model.causal_lm import CausalLM, Llama, Qwen3Moe
from model.layer import total
from model.ops import Attention, Collective, GroupedMatmul, Matmul
from model.parallel import Layout, Parallel
from model.workload import Workload

CONFIGS = Path(__file__).parents[1] / "data" / "hf"
TEXT = Workload("text", prompt_tokens=12, batch=4, decode_steps=3, logits="last")


def published(name: str, layers: int = 2) -> HFModel:
    model = load(CONFIGS / name, "bfloat16")
    model.config.num_hidden_layers = layers
    return model


def written(folder: Path, **config: Any) -> HFModel:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load(folder, "bfloat16")


def products(parallel: Parallel, phase: str) -> Counter[Any]:
    """What is multiplied, attended to and told, and how often."""
    kinds = (Matmul, GroupedMatmul, Attention, Collective)
    calls = parallel.phases(TEXT)[phase].layer.calls()
    found: Counter[Any] = Counter()
    for call in calls:
        if isinstance(call.op, kinds):
            found[call.op] += call.count
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("name", "ours", "layouts"),
    [
        (
            "llama_3_1_8b",
            Llama(layers=2, dense_layers=2),
            [Layout(tp=2), Layout(tp=16), Layout(tp=4, pp=2), Layout(tp=2, dp=2)],
        ),
        (
            "qwen3_30b_a3b",
            Qwen3Moe(layers=2),
            [Layout(tp=8), Layout(tp=4, ep=4), Layout(tp=2, dp=2, ep=4), Layout(tp=2, dp=2)],
        ),
    ],
)
def test_a_card_of_a_traced_model_is_a_card_of_ours(
    name: str, ours: CausalLM, layouts: list[Layout], phase: str
) -> None:
    model = published(name)
    for layout in layouts:
        assert products(Parallel(model, layout), phase) == products(Parallel(ours, layout), phase)


def test_latent_attention_is_split_by_heads(tmp_path: Path) -> None:
    """Though the plan that transformers has for it leaves it whole."""
    model = written(
        tmp_path,
        model_type="deepseek_v3",
        architectures=["DeepseekV3ForCausalLM"],
        num_hidden_layers=2,
        first_k_dense_replace=1,
        n_routed_experts=16,
        hidden_size=256,
        vocab_size=1000,
    )
    whole = model.phases(TEXT)["prefill"].layer
    card = Parallel(model, Layout(tp=8, ep=8)).phases(TEXT)["prefill"].layer
    by = {c.path: c.op.tensor_core_flops for c in whole.calls() if c.op.tensor_core_flops}
    own = {c.path: c.op.tensor_core_flops for c in card.calls() if c.op.tensor_core_flops}
    latent = ("q_a_proj", "kv_a_proj_with_mqa", "gate")
    for path, flops in by.items():
        assert own[path] * (1 if path.endswith(latent) else 8) == flops, path
    told = Counter(c.op.operator for c in card.calls() if isinstance(c.op, Collective))
    # Of the embedding, two attentions, a plain layer, and of a mixture with its shared expert.
    assert told == {"all_reduce": 5, "all_gather": 1}


def test_tied_weights_are_there_once(tmp_path: Path) -> None:
    tied = {"tie_word_embeddings": True, "num_attention_heads": 8, "num_key_value_heads": 2}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 999}
    model = written(
        tmp_path, model_type="qwen2", architectures=["Qwen2ForCausalLM"], **tied, **sizes
    )
    whole = model.weight_bytes(TEXT)
    head = sizes["vocab_size"] * sizes["hidden_size"] * 2
    card = Parallel(model, Layout(tp=2)).weight_bytes(TEXT)
    scales = 64 * 5 * 2  # of norms, on every card
    assert card == (whole - head - scales) / 2 + scales + 500 * 64 * 2


def test_a_pipeline_of_a_traced_model() -> None:
    model = published("llama_3_1_8b", layers=4)
    parallel = Parallel(model, Layout(pp=2, microbatches=1))
    calls = parallel.phases(TEXT)["decode"].layer.calls()
    hops = [c.op for c in calls if isinstance(c.op, Collective)]
    assert [op.elements for op in hops] == [4 * 4096]
    whole = model.phases(TEXT)["decode"].layer.calls()
    assert total(calls, lambda op: op.tensor_core_flops) == total(
        whole, lambda op: op.tensor_core_flops
    )
    assert parallel.weight_bytes(TEXT) == pytest.approx(model.weight_bytes(TEXT) / 2, rel=1e-4)
    assert parallel.working(TEXT)["decode"][0] == model.working(TEXT)["decode"][0] / 2


@pytest.mark.parametrize(
    ("name", "kind", "layout", "said"),
    [
        ("phi3", "Phi3ForCausalLM", Layout(tp=2), "parallel.tp = 2: expected 1 for Phi3Config"),
        ("gpt_oss", "GptOssForCausalLM", Layout(tp=2), "parallel.tp = 2: expected 1 for GptOss"),
        ("llama", "LlamaForCausalLM", Layout(tp=3), "parallel.tp = 3: expected a divisor of heads"),
        ("llama", "LlamaForCausalLM", Layout(tp=2, ep=2), "parallel.ep = 2: expected 1 for Llama"),
        ("llama", "LlamaForCausalLM", Layout(pp=3), "parallel.pp = 3: expected at most layers = 2"),
    ],
)
def test_what_cannot_be_split_is_one_line(
    tmp_path: Path, name: str, kind: str, layout: Layout, said: str
) -> None:
    model = written(tmp_path, model_type=name, architectures=[kind], num_hidden_layers=2)
    with pytest.raises((CalibError, ValueError), match=said.replace(".", r"\.")) as raised:
        Parallel(model, layout).phases(TEXT)
    assert "\n" not in str(raised.value)


def test_what_is_no_text_has_no_stages() -> None:
    model = load(CONFIGS / "vit_l", "bfloat16")
    image = Workload("image", side=224, prompt_tokens=0, batch=2)
    for layout, said in (
        (Layout(pp=2), "parallel.pp = 2: expected 1 for a model whose text"),
        (Layout(tp=2), "parallel.tp = 2: expected 1 for ViTConfig"),
    ):
        with pytest.raises((CalibError, ValueError), match=said):
            Parallel(model, layout).phases(image)
    halves = Parallel(model, Layout(dp=2)).phases(image)["vision"].layer
    whole = model.phases(image)["vision"].layer
    assert 2 * halves.forward_tensor_core_flops() == whole.forward_tensor_core_flops()
