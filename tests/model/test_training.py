"""A training step in layers: gradients of the same modules, and an update of all parameters."""

from __future__ import annotations

import pytest

from model.architectures import build
from model.layer import total
from model.training import AdamW, Training
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=16, batch=2, decode_steps=4)
SMALL = {"hidden": 64, "layers": 2, "dense_layers": 2, "heads": 4, "kv_heads": 2}
LLAMA = {**SMALL, "head_dim": 16, "intermediate": 96, "vocabulary": 50}


def flops(phase) -> float:
    return total(phase.layer.calls(), lambda op: op.tensor_core_flops)


def test_a_step_is_forward_backward_and_an_update() -> None:
    model = build("llama", **LLAMA)
    phases = Training(model, AdamW()).phases(TEXT)
    forward = model.phases(TEXT)["prefill"].layer
    assert list(phases) == ["forward", "backward", "optimizer"]
    assert phases["forward"].layer == forward
    assert flops(phases["backward"]) == forward.backward_tensor_core_flops()
    assert flops(phases["backward"]) == 2 * flops(phases["forward"]) + extra(phases)
    back = [(c.path, c.op) for c in phases["backward"].layer.calls()]
    assert back == [(c.path, c.op) for c in forward.backward_calls()]


def extra(phases) -> float:
    """Attention's gradient is five products for two."""
    ops = [c.op for c in phases["forward"].layer.calls() if c.op.operator == "attention"]
    ahead = sum(op.tensor_core_flops for op in ops)
    back = [c.op for c in phases["backward"].layer.calls() if c.op.operator == "attention_backward"]
    return sum(op.tensor_core_flops for op in back) - 2 * ahead


def test_every_parameter_is_updated_once_and_its_state_is_held() -> None:
    model, optimizer = build("llama", **LLAMA), AdamW(state_dtype="float32")
    phases = Training(model, optimizer).phases(TEXT)
    forward, last = phases["forward"].layer, phases["optimizer"].layer
    assert sorted(c.op.bytes for c in last.calls()) == sorted(
        c.op.bytes for c in optimizer.step(forward)
    )
    assert last.children()["optimizer_state"].weight_bytes() == optimizer.state_bytes(forward)


def test_a_model_of_several_passes_names_each() -> None:
    page = Workload("page", side=512, prompt_tokens=4)
    names = list(Training(build("deepseek_ocr"), AdamW()).phases(page))
    passes = ["vision forward", "prefill forward", "prefill backward", "vision backward"]
    assert names == [*passes, "optimizer"]


def test_activations_grow_with_the_batch_and_gradients_do_not() -> None:
    step = Training(build("llama", **LLAMA), AdamW())
    need = [
        step.working(Workload("t", prompt_tokens=16, batch=b))["backward"][1] for b in (1, 2, 3)
    ]
    weights = step.phases(TEXT)["forward"].layer.weight_bytes()
    assert need[1] - need[0] == pytest.approx(need[2] - need[1], rel=1e-3)
    assert need[0] > weights


def test_a_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="float33"):
        AdamW(state_dtype="float33")
