"""What holds of every layer: sums over calls, paths, live bytes, gradients, the optimizer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from model.architectures import ARCHITECTURES, build
from model.layer import Call, Child, Layer, Live, Step, call, free, larger, total, when
from model.linear import Linear, Mlp
from model.ops import Copy, Matmul
from model.training import ADAMW_FLOPS, AdamW

ROOTS = {
    "deepseek_ocr": lambda m: [
        m.vision_layer(512, (1, 2)),
        m.prefill_layer(83),
        m.decode_layer(84),
    ],
    "deepseek_ocr_vendor": lambda m: [
        m.vision_layer(512),
        m.prefill_layer(83),
        m.decode_layer(84),
    ],
    "deepseek_ocr_2": lambda m: [m.vision_layer(768), m.prefill_layer(83), m.decode_layer(84)],
    "llama": lambda m: [m.prefill_layer(83), m.decode_layer(84)],
    "qwen3_moe": lambda m: [m.prefill_layer(83), m.decode_layer(84)],
    "vit": lambda m: [m.vision_layer()],
}


@dataclass(frozen=True)
class Pair(Layer):
    """Two copies, the first released after the second."""

    elements: int
    dtype: str = "float32"

    def forward(self) -> Iterator[Step]:
        yield Child("inner", Linear(self.elements, 2, 3))
        yield call(Copy(self.elements, dtype=self.dtype))
        yield call(Copy(self.elements, dtype=self.dtype), gradient="none")
        yield free(self.elements, self.dtype)

    def parameters(self) -> int:
        return 5


def test_paths_are_joined_and_order_is_kept() -> None:
    assert [c.path for c in Pair(4).calls("root")] == ["root.inner", "root", "root"]
    assert [c.path for c in Pair(4).calls()] == ["inner", "", ""]
    assert [(n.path, n.parent) for n in Pair(4).nodes("a")] == [("a", ""), ("a.inner", "a")]


def test_weights_of_a_layer_are_its_own_and_its_childrens() -> None:
    assert Pair(4).weight_parameters() == 5 + 2 * 3
    assert Pair(4).weight_bytes() == 5 * 4 + 2 * 3 * 2


def test_live_bytes_rise_with_results_and_fall_with_releases() -> None:
    inner, copy = 4 * 3 * 2, 4 * 4
    assert Pair(4).live_bytes() == (inner + 2 * copy, inner + copy)
    assert Mlp(7, 5, 11).live_bytes() == (2 * 7 * 11 * 2, 7 * 5 * 2)


def test_a_condition_weighs_steps() -> None:
    step = call(Copy(4))
    assert list(when(True, step)) == [step]
    assert list(when(False, step)) == []
    weighed, released = when(np.array([True, False]), step, Live(8))
    assert isinstance(weighed, Call)
    assert isinstance(released, Live)
    assert total([weighed], lambda op: op.bytes).tolist() == [16, 0]
    assert released.bytes.tolist() == [8, 0]


@pytest.mark.parametrize(("a", "b"), [(3, 5), (5, 3), (4, 4), (-2, 1)])
def test_larger_is_max(a: int, b: int) -> None:
    assert larger(a, b) == max(a, b)
    assert larger(np.array([a]), b).tolist() == [max(a, b)]


def test_a_gradient_goes_backwards_and_leaves_out_what_needs_none() -> None:
    layer = Pair(4)
    kinds = [c.op.operator for c in layer.backward_calls()]
    assert kinds == ["copy", "matmul", "matmul"]
    image = Call("first", Matmul(4, 3, 2), gradient="weights")
    assert [op.m for op in image.backward()] == [2]
    assert Call("p", Copy(3, dtype="int64")).backward() == ()
    assert replace(image, gradient="none").backward() == ()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_costs_of_a_layer_are_those_of_its_parts(name: str) -> None:
    for root in ROOTS[name](build(name)):
        for layer in (node.layer for node in root.nodes() if node.path.count(".") < 2):
            steps = list(layer.forward())
            own = [step for step in steps if isinstance(step, Call)]
            parts = [step.layer for step in steps if isinstance(step, Child)]
            for cost in ("flops", "bytes", "cuda_core_flops"):
                of_parts = sum(total(p.calls(), lambda op, c=cost: getattr(op, c)) for p in parts)
                of_own = total(own, lambda op, c=cost: getattr(op, c))
                whole = total(layer.calls(), lambda op, c=cost: getattr(op, c))
                assert whole == pytest.approx(of_parts + of_own, rel=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "item"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_a_type_of_tensors_sets_the_memory(name: str, dtype: str, item: int) -> None:
    model = build(name, dtype=dtype)
    # A prefill and a decode step share their weights; a vision phase has others.
    sharing = {"lm_head" in root.children(): root for root in ROOTS[name](model)}
    assert sum(root.weight_bytes() for root in sharing.values()) == item * model.parameters()
    wider = ROOTS[name](build(name, dtype="float32"))
    for root, wide in zip(ROOTS[name](model), wider, strict=True):
        assert root.kv_cache_bytes() * 4 == wide.kv_cache_bytes() * item
        if name != "deepseek_ocr_vendor":  # its logits live in both types
            assert root.activation_bytes() <= wide.activation_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_paths_of_a_model_are_unique_and_have_their_parents(name: str) -> None:
    for root in ROOTS[name](build(name)):
        nodes = root.nodes()
        paths = [node.path for node in nodes]
        assert len(set(paths)) == len(paths)
        assert all(node.parent in paths for node in nodes)
        assert {c.path for c in root.calls()} <= set(paths)
        assert all(node.layer.mirrors for node in nodes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pass_leaves_its_result_alive_and_never_less_than_nothing(name: str) -> None:
    for root in ROOTS[name](build(name)):
        for node in root.nodes():
            peak, kept = node.layer.live_bytes()
            assert peak >= kept >= 0, node.path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adamw_keeps_the_state_that_torch_keeps(dtype: str) -> None:
    import torch

    real = torch.nn.Sequential(torch.nn.Linear(5, 11), torch.nn.GELU(), torch.nn.Linear(11, 5)).to(
        getattr(torch, dtype)
    )
    optimizer = torch.optim.AdamW(real.parameters())
    real(torch.ones(7, 5, dtype=getattr(torch, dtype))).sum().backward()
    optimizer.step()
    moments = [
        tensor
        for state in optimizer.state.values()
        for key, tensor in state.items()
        if key != "step"
    ]
    layer = Mlp(7, 5, 11, dtype=dtype)
    assert AdamW().state_bytes(layer) == sum(t.numel() * t.itemsize for t in moments)


def test_an_optimizer_step_reads_and_writes_every_parameter_once() -> None:
    layer = Mlp(7, 5, 11)
    count = layer.weight_parameters()
    step = AdamW(state_dtype="float32", master_dtype="float32").step(layer, "model")
    assert [c.path for c in step] == ["model.lin1", "model.lin2"]
    assert total(step, lambda op: op.flops) == ADAMW_FLOPS * count
    assert total(step, lambda op: op.bytes_read) == count * (2 + 2 + 3 * 4)
    assert total(step, lambda op: op.bytes_written) == count * (2 + 3 * 4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_state_of_a_whole_model_is_two_moments_a_parameter(name: str) -> None:
    """Layers that only hold others have neither parameters nor a dtype."""
    for root in ROOTS[name](build(name)):
        assert AdamW().state_bytes(root) == 2 * root.weight_bytes()


def test_the_model_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from model.architectures import ARCHITECTURES, build\n"
        "for name in ARCHITECTURES:\n"
        "    build(name).parameters()\n"
        "print([n for n in ('torch', 'pandas', 'scipy', 'calib', 'kernels') if n in sys.modules])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert run.stdout.strip() == "[]"
