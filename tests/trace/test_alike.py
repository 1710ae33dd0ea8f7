"""Layers that run once, and small tensors whose values are known, against plain runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch._subclasses.fake_tensor import DataDependentOutputException

from calib.trace.module import record, trace
from calib.trace.passes import passes_of
from calib.trace.recorder import Again
from calib.trace.tree import layer_of
from calib.trace.values import without_values
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=24, decode_steps=4)
SMALL = {"hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4, "vocab_size": 300}
SMALL |= {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
SLIDING = ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"]
MODELS = {
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL)),
    "sliding": (
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextConfig(**SMALL, sliding_window=8, layer_types=SLIDING),
    ),
    "whisper": (
        hf.WhisperForConditionalGeneration,
        hf.WhisperConfig(
            d_model=96, encoder_layers=5, decoder_layers=5, vocab_size=300, pad_token_id=0
        ),
    ),
    "mamba": (hf.MambaForCausalLM, hf.MambaConfig(hidden_size=32, num_hidden_layers=6)),
}


def layers(kind: Any, config: Any, once: bool) -> tuple[list[Any], int]:
    """The layer of each pass, and how many calls were told."""
    found, told = [], 0
    with without_values(), torch.no_grad():
        module = kind(config).eval()
        for one in passes_of(module, "float32", TEXT):
            got = one.attempt(
                lambda form, one=one: record(module, form, before=one.cache(), once=once)
            )
            told += sum(isinstance(event, Again) for event in got.events)
            held = one.growth().bytes(one.tokens)
            found.append(layer_of(got.events, got.used, module, held))
    return found, told


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_are_told_are_as_if_they_had_run(name: str) -> None:
    kind, config = MODELS[name]
    (plain, none), (once, told) = layers(kind, config, False), layers(kind, config, True)
    assert none == 0 < told
    for mine, theirs in zip(once, plain, strict=True):
        assert mine.calls() == theirs.calls()
        for figure in ("weight_bytes", "activation_bytes", "kv_cache_bytes"):
            assert getattr(mine, figure)() == getattr(theirs, figure)()


class Differs(torch.nn.Module):
    """A layer whose work depends on its place."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.layer_idx = place
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.layer_idx):
            x = self.linear(x)
        return x


def test_layers_that_differ_all_run() -> None:
    with without_values(), torch.no_grad():
        module = torch.nn.ModuleList([Differs(n) for n in range(6)])

        def run() -> torch.Tensor:
            x = torch.zeros(3, 8)
            for layer in module:
                x = layer(x)
            return x

        got = record(module, run, once=True)
    assert not any(isinstance(event, Again) for event in got.events)
    assert sum(c.op.operator == "matmul" for c in got.calls) == sum(range(6))
    assert "forward" not in vars(module[0])


def test_numbers_keep_their_values_and_inputs_have_none() -> None:
    with without_values():
        assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
        grid = torch.tensor([[1, 4, 6]])
        assert grid.prod(-1).tolist() == [24]
        assert torch.full((3, 3), 2).nonzero().shape == (9, 2)
        noise = torch.randn(4)
        with pytest.raises(DataDependentOutputException):
            noise.sum().item()
        changed = torch.zeros(4)
        changed += noise
        with pytest.raises(DataDependentOutputException):
            changed.sum().item()


def test_a_module_that_looks_at_its_own_numbers_is_traced() -> None:
    class Split(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes = torch.tensor([2, 3]).cumsum(0).tolist()
            return x[: sizes[-1]] @ x[: sizes[-1]].T

    (product,) = (c.op for c in trace(Split(), torch.zeros(9, 4)) if c.op.operator == "matmul")
    assert (product.m, product.n, product.k) == (5, 5, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_experts_of_any_dtype_are_one_grouped_product(dtype: torch.dtype) -> None:
    given = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = hf.MixtralConfig(**{**SMALL, "num_hidden_layers": 1, **given})
    torch.set_default_dtype(dtype)
    try:
        with without_values(), torch.no_grad():
            module = hf.MixtralModel(config).eval()
            ids = torch.zeros(1, 5, dtype=torch.long)
            calls = record(module, lambda: module(input_ids=ids)).calls
    finally:
        torch.set_default_dtype(torch.float32)
    grouped = [c.op for c in calls if c.op.operator == "grouped_matmul"]
    assert [(op.tokens, op.experts, op.top_k, op.n, op.k) for op in grouped] == [
        (5, 4, 2, 192, 64),
        (5, 4, 2, 64, 96),
    ]
    assert grouped[0].dtype == str(dtype).removeprefix("torch.")
