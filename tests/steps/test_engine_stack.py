"""A run by an engine's kernels: which models take them, and that no work is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from calib.errors import CalibError
from calib.hardware import load_hardware
from calib.steps.engine.stack import stack_of
from model.architectures import build
from model.workload import Workload

H200 = load_hardware("h200")


def asked(implementation: str, tpot: float | None = None) -> Any:
    return SimpleNamespace(implementation=implementation, limit=SimpleNamespace(tpot=tpot))


def phases_of(model: Any, **workload: Any) -> Any:
    return model.phases(Workload("w", batch=2, decode_steps=3, **workload))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_a_decoder_is_lowered(engine: str) -> None:
    model = build("llama", layers=2, dense_layers=2, weight_dtype="float8_e4m3fn")
    phases = phases_of(model, prompt_tokens=65)
    stack = stack_of(asked(engine), H200, model, phases)
    assert stack is not None
    for name, calls in stack.calls.items():
        before = phases[name].layer.calls()
        products = [sum(c.op.tensor_core_flops * c.count for c in some) for some in (calls, before)]
        assert products[0] == products[1]
        assert len(calls) < len(before)
        found = stack.estimates([c.op for c in calls], engine)
        assert (found.seconds >= 0).all()
        assert (found.seconds >= found.floor * 0.5).all()
    assert engine in stack.note("eager") and "execution=graph" in stack.note("eager")
    assert engine in stack.note("graph") and "execution=" not in stack.note("graph")


def test_torch_is_no_stack() -> None:
    model = build("llama", layers=1, dense_layers=1)
    assert stack_of(asked("torch"), H200, model, phases_of(model, prompt_tokens=5)) is None


def test_what_is_no_decoder_is_refused_or_taken_as_it_is() -> None:
    model = build("vit")
    phases = model.phases(Workload("w", batch=1, side=224))
    assert stack_of(asked("vllm"), H200, model, phases) is None
    with pytest.raises(CalibError, match="implementation = 'trtllm' of what is no plain decoder"):
        stack_of(asked("trtllm"), H200, model, phases)


def test_a_limit_that_no_table_would_answer_is_refused() -> None:
    model = build("llama", layers=1, dense_layers=1)
    with pytest.raises(CalibError, match=r"limit\.tpot = 0\.02"):
        stack_of(asked("vllm", tpot=0.02), H200, model, phases_of(model, prompt_tokens=5))
