"""A module of one's own as a model: one run of it, and the gradient that autograd takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from calib.errors import CalibError
from calib.trace import trace
from calib.trace.hf import load
from calib.trace.module import recorded
from calib.trace.own import TrainedHF, own_model
from calib.trace.rules.rows import Row
from model.layer import total
from model.training import AdamW, Training
from model.workload import Workload


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 24), nn.GELU())
        self.out = nn.Linear(24, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.inner(x))


def test_inputs_name_the_workload() -> None:
    model = own_model(Block(), torch.zeros(5, 8))
    assert (model.name, model.workload.name, model.workload.batch) == ("Block", "5x8 float32", 5)
    assert model.dimensions["parameters"] == 8 * 24 + 24 + 24 * 8
    named = own_model(Block(), {"x": torch.zeros(5, 8)}, "mine")
    assert named.name == "mine"
    assert shapes(named) == shapes(model) == shapes(own_model(Block(), (torch.zeros(5, 8),)))


def shapes(model) -> list:
    return [(c.path, c.op) for c in model.phases(model.workload)["forward"].layer.calls()]


@pytest.mark.parametrize("real", [False, True])
def test_a_pass_is_what_is_traced(real: bool) -> None:
    module, inputs = Block(), torch.zeros(5, 8)
    assert shapes(own_model(module, inputs, real=real)) == [
        (c.path, c.op) for c in trace(module, inputs)
    ]


def test_a_step_is_what_autograd_does_below_the_modules_that_it_is_of() -> None:
    module, inputs = Block(), torch.zeros(5, 8)
    model = own_model(module, inputs)
    phases = Training(model, AdamW()).phases(model.workload)
    parts = ("forward", "backward")
    calls = [(c.path, c.op) for n in parts for c in phases[n].layer.calls()]
    assert calls == [(c.path, c.op) for c in trace(module, inputs, backward=True)]
    back = phases["backward"].layer
    paths = [node.path for node in back.nodes()]
    assert paths[0] == "" and len(set(paths)) == len(paths)
    assert all(node.parent in paths for node in back.nodes())
    assert {"inner", "inner.0", "out"} <= set(paths)
    updated = [c.path for c in phases["optimizer"].layer.calls()]
    assert sorted(updated) == ["inner.0", "out"]


def test_memory_of_a_step_holds_its_gradients_and_grows_with_the_batch() -> None:
    model = own_model(Block(), torch.zeros(500, 8))
    step, weights = Training(model, AdamW()), 4 * model.dimensions["parameters"]
    needs = [step.working(Workload("w", batch=b))["backward"][1] for b in (500, 1000, 2000)]
    assert needs[0] > weights
    assert weights + (needs[1] - weights) * 2 == pytest.approx(needs[2], rel=0.05)


def test_what_cannot_be_run_or_trained_is_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    model = own_model(Block(), torch.zeros(5, 9))
    with pytest.raises(CalibError, match=r"^Block does not run on these inputs: RuntimeError: "):
        model.phases(model.workload)
    assert not caplog.records
    still = own_model(nn.ReLU(), torch.zeros(3))
    with pytest.raises(CalibError, match="no parameter of ReLU requires a gradient"):
        Training(still, AdamW()).phases(still.workload)
    with pytest.raises(CalibError, match=r"module = 3: expected a torch\.nn\.Module"):
        own_model(3, torch.zeros(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_module_is_left_as_it_was(device: str) -> None:
    module = Block().to(device)
    kept = module.out.weight.grad = torch.ones(8, 24, device=device)
    model = own_model(module, torch.zeros(5, 8, device=device), real=True)
    Training(model, AdamW()).phases(model.workload)
    assert module.out.weight.grad is kept and module.inner[0].weight.grad is None


def test_dropout_that_is_on_is_said() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    assert own_model(module, torch.zeros(1, 2)).notes
    assert not own_model(module.eval(), torch.zeros(1, 2)).notes


def test_a_step_of_a_configuration_is_that_of_our_layers() -> None:
    """Products of forward and backward, and the parameters that are updated."""
    source = load(Path(__file__).parents[1] / "data" / "hf" / "vit_l", "bfloat16")
    asked = Workload("image", side=224, prompt_tokens=0, decode_steps=1)
    traced = Training(TrainedHF(source), AdamW()).phases(asked)
    from model.architectures import build

    ours = Training(build("vit"), AdamW()).phases(asked)
    assert list(traced) == list(ours)
    for name in ("forward", "optimizer"):
        assert products(traced[name]) == products(ours[name])
        assert moved(traced[name]) == pytest.approx(moved(ours[name]), rel=0.01)
    assert products(traced["backward"]) == pytest.approx(products(ours["backward"]), rel=0.01)


def products(phase) -> float:
    return total(phase.layer.calls(), lambda op: op.tensor_core_flops)


def moved(phase) -> float:
    return total(phase.layer.calls(), lambda op: op.bytes)


class Multiplied(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x


@pytest.mark.parametrize(
    ("dtype", "batch", "card", "said"),
    [
        (torch.int8, (), "9.0", "mm of int8.* on a card: .*torch._int_mm"),
        (torch.float8_e4m3fn, (), "9.0", "mm of float8_e4m3fn.* on a card: .*torch._scaled_mm"),
        (torch.int32, (2,), "9.0", "bmm of int32.* on a card"),
        (torch.bool, (), None, "mm of bool.* on a CPU"),
        (torch.float8_e5m2, (2,), None, "bmm of float8_e5m2.* on a CPU"),
        (torch.int8, (), None, ""),
        (torch.bfloat16, (2,), "9.0", ""),
        (torch.float64, (), "9.0", ""),
    ],
)
def test_a_product_that_torch_refuses_has_no_time(
    dtype: torch.dtype, batch: tuple[int, ...], card: str | None, said: str
) -> None:
    """Without contents torch takes any type; a CPU is asked what it does with them."""
    x = torch.zeros(*batch, 16, 16).to(dtype)
    model = own_model(Multiplied(), x).on(card)
    if said:
        with pytest.raises(CalibError, match=said):
            model.recording(False)
        if card is None:
            with pytest.raises(RuntimeError, match="not implemented"):
                Multiplied()(x)
    else:
        assert model.recording(False).calls
        if card is None:
            assert Multiplied()(x).shape == x.shape


def test_only_shapes_count_wherever_tensors_lie() -> None:
    """Parameters on meta and inputs with values, or the reverse, or both."""
    form = {"dtype": torch.float32}
    asked = [
        recorded(
            torch.nn.Linear(8, 8, device=at), (torch.zeros(2, 8, device=to, **form),), {}
        ).calls
        for at in ("cpu", "meta")
        for to in ("cpu", "meta")
    ]
    assert all(calls == asked[0] for calls in asked)
    step = own_model(torch.nn.Linear(8, 8, device="meta"), torch.zeros(2, 8)).recording(True)
    assert [row.name for row in step.backward if isinstance(row, Row)]
