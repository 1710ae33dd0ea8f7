"""A call as a profiler wrote it down is the operator that the dispatcher saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from calib.trace.profiled.called import Called, rows_of
from calib.trace.recorder import Recorder
from calib.trace.rules.rows import Row
from calib.trace.rules.table import calls_of
from model import ops

BF16 = "c10::BFloat16"


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.up, self.down = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32, bias=False)
        self.cut = torch.nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, tokens: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(tokens)) * 0.5
        heads = x.view(2, 7, 4, 8).transpose(1, 2)
        mixed = torch.nn.functional.softmax(heads @ heads.transpose(2, 3), dim=-1) @ heads
        x = x + mixed.transpose(1, 2).reshape(2, 7, 32).contiguous()
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return x.mean(-1).sum() + self.cut(picture).float().mean()


def seen(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[ops.Operator]:
    recorder = Recorder(model, on_card=True)
    with torch.inference_mode(), recorder:
        model(*inputs)
    recorder.close()
    return [c.op for c in calls_of(e for e in recorder.events if isinstance(e, Row))]


def frozen(value: Any) -> Any:
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


def written(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> list[Called]:
    asked: dict[str, Any] = {"activities": [ProfilerActivity.CPU], "record_shapes": True}
    with torch.inference_mode(), profile(**asked) as profiler:
        model(*inputs)
    profiler.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    listed = sorted((e for e in events if e.get("cat") == "cpu_op"), key=lambda e: e["ts"])
    keys = ("Input Dims", "Input type", "Input Strides", "Concrete Inputs")
    return [Called(e["name"], *(frozen(e["args"].get(key, [])) for key in keys)) for e in listed]


def test_a_profile_says_what_the_dispatcher_saw(tmp_path: Path) -> None:
    """Operators below others repeat what those are: all that the dispatcher saw is among them."""
    model, inputs = Small().eval(), (torch.zeros(2, 7, dtype=torch.long), torch.rand(1, 3, 8, 8))
    model(*inputs)
    known = {
        call.op
        for called in written(model, inputs, tmp_path / "trace.json")
        for call in calls_of(rows_of(called))
    }
    missed = [op for op in seen(model, inputs) if op not in known]
    assert len(known) > 10
    assert not missed


def test_what_is_made_of_others_or_not_torchs_own_is_nothing() -> None:
    tensor = ((4, 8), (8, 16)), ("float", "float"), ((8, 1), (16, 1)), ("", "")
    assert rows_of(Called("aten::linear", *tensor)) == ()
    assert rows_of(Called("mine::mm", *tensor)) == ()
    assert rows_of(Called("aten::no_such_operator", *tensor)) == ()
    assert [row.name for row in rows_of(Called("aten::mm", *tensor))] == ["mm"]


@pytest.mark.parametrize(
    "parts",
    [
        (((4, 8), (9, 16)), ("float", "float")),  # sizes that do not go together
        (((4, 8),), ("float",)),  # an argument is missing
        (((4, 8), (8, 16)), ("float", "mystery")),
        ((), ()),
        (((4, 8), (8, 16)), ("float",)),
        (((4, -8), (8, 16)), ("float", "float")),
        (((4, 2**62), (2**62, 16)), ("float", "float")),
    ],
)
def test_what_cannot_be_called_again_is_nothing(parts: tuple[Any, ...]) -> None:
    assert rows_of(Called("aten::mm", *parts)) == ()


def test_a_form_that_no_card_runs_is_nothing() -> None:
    scalars = ("Scalar",) * 3
    flat = Called(
        "aten::_scaled_dot_product_flash_attention",
        ((8,), (8,), (8,), (), (), (), ()),
        (BF16, BF16, BF16, *scalars, ""),
        ((1,), (1,), (1,), (), (), (), ()),
        ("", "", "", "0.", "False", "False", ""),
    )
    weight = Called("aten::embedding", ((8,), (4,)), ("float", "long int"))
    assert rows_of(flat) == rows_of(weight) == ()


def test_a_number_in_place_of_a_tensor_is_no_tensor() -> None:
    dims, types = ((16, 64), (), ()), (BF16, "double", "Scalar")
    called = Called("aten::add", dims, types, ((64, 1), (), ()), ("", "", "1"))
    (call,) = calls_of(rows_of(called))
    assert call.op == ops.Elementwise(1024, inputs=1)


def test_tensors_of_a_list_need_their_types() -> None:
    dims, strides = (((2, 4), (2, 4)), ()), (((4, 1), (4, 1)), ())
    untold = Called("aten::cat", dims, ("TensorList", "Scalar"), strides, ("", "0"))
    told = Called("aten::cat", dims, ((BF16, BF16), "Scalar"), strides, ("", "0"))
    assert rows_of(untold) == ()
    (call,) = calls_of(rows_of(told))
    assert isinstance(call.op, ops.Copy) and call.op.elements == 16


def test_what_a_result_is_written_to_is_not_read() -> None:
    sizes, types = ((16, 64),) * 2, (BF16, BF16)
    whole = Called("aten::add", (*sizes, ()), (*types, "Scalar"), (), ("", "", "1"))
    into = Called("aten::add", (*sizes, (), (16, 64)), (*types, "Scalar", BF16), (), ("",) * 4)
    assert rows_of(into) == rows_of(whole) != ()


def test_a_flag_that_is_not_written_down_is_not_known() -> None:
    form, scalars = (1, 8, 64, 64), ("Scalar",) * 3
    name, dims = "aten::_scaled_dot_product_flash_attention", (form,) * 3 + ((), (), (), ())
    types = (BF16, BF16, BF16, *scalars, "")
    assert rows_of(Called(name, dims, types)) == ()
    told = Called(name, dims, types, (), ("", "", "", "0.", "True", "False", ""))
    (call,) = calls_of(rows_of(told))
    assert isinstance(call.op, ops.Attention) and call.op.causal
