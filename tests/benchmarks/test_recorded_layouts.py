"""Recorded operators lie in memory as those of a trace do: models are traced, written down as a
profiler does it, without strides and results, and read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from torch import nn

from benchmarks.recorded.layouts import Memory
from benchmarks.recorded.record import Recorded
from benchmarks.recorded.rows import recorded_phase
from calib.trace.module import recorded, rows
from calib.trace.rules.rows import Row, Size, argument_names
from calib.trace.rules.table import calls_of
from model.ops import Attention, ChannelNorm, Conv2d, Copy, Elementwise, Other

NAMES = {"float32": "float", "int64": "long_int", "bfloat16": "BFloat16"}
SMALL = {"num_hidden_layers": 2, "hidden_size": 96, "num_attention_heads": 6}
TEXT = {"vocab_size": 50, "intermediate_size": 160}


def table(listed: Sequence[Row]) -> pd.DataFrame:
    """Paths, names with overloads, shapes and types of tensors that are arguments themselves."""
    return pd.DataFrame([written(row) for row in listed]).assign(kind="", seconds=1e-6)


def written(row: Row) -> dict[str, str]:
    packet = getattr(torch.ops.aten, row.name)
    names = {o: argument_names(getattr(packet, o)) for o in packet.overloads()}
    fit = [o for o, some in names.items() if set(some) == set(row.given)]
    suffix = next((o for o in fit if ("Scalar" in o) != tensor_pair(row)), fit[0])
    sizes = [s for n in names[suffix] for s in [row.given[n]] if isinstance(s, Size)]
    return {
        "path": row.path,
        "aten": row.name + ("" if suffix == "default" else f".{suffix}"),
        "shapes": " ".join(f"[{','.join(map(str, s.shape))}]" for s in sizes),
        "dtypes": " ".join(NAMES.get(s.dtype, s.dtype) for s in sizes),
    }


def tensor_pair(row: Row) -> bool:
    return isinstance(row.given.get("other", row.given.get("exponent")), Size)


def phase(listed: Sequence[Row], name: str) -> Any:
    return recorded_phase(Recorded("nobodys", "w", name, 1, table(listed), 1e-3)).layer.calls()


def traced(module: nn.Module, **inputs: Any) -> list[Row]:
    events = recorded(module.to(torch.bfloat16).eval(), (), inputs, card="9.0").events
    return list(rows(events))


def ids(tokens: int, batch: int = 3) -> torch.Tensor:
    return torch.zeros(batch, tokens, dtype=torch.int64)


def pixels(side: int, batch: int = 3) -> torch.Tensor:
    return torch.zeros(batch, 3, side, side, dtype=torch.bfloat16)


def models() -> Iterator[Any]:
    """Rotated halves and shared heads; one joined projection, of two kinds; a norm behind; a class
    token; channels innermost; a residual stream that lies across."""
    text, image = {**SMALL, **TEXT}, {**SMALL, "intermediate_size": 160}
    shared = {**text, "num_key_value_heads": 2}
    yield "llama", transformers.LlamaModel, transformers.LlamaConfig(**shared), "prefill", ids(21)
    neox = transformers.GPTNeoXConfig(**text)
    yield "neox", transformers.GPTNeoXModel, neox, "prefill", ids(21)
    gpt = transformers.GPT2Config(n_embd=96, n_head=6, n_layer=2, vocab_size=50)
    yield "gpt2", transformers.GPT2Model, gpt, "prefill", ids(21)
    yield "bert", transformers.BertModel, transformers.BertConfig(**text), "encode", ids(21)
    vit = transformers.ViTConfig(**image, image_size=80, patch_size=16)
    yield "vit", transformers.ViTModel, vit, "vision", pixels(80)
    next_ = transformers.ConvNextConfig(hidden_sizes=[24, 40], depths=[1, 2], num_stages=2)
    yield "convnext", transformers.ConvNextModel, next_, "vision", pixels(80)


MODELS = {name: rest for name, *rest in models()}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_was_written_down_is_what_was_traced(name: str) -> None:
    kind, config, what, given = MODELS[name]
    module = kind(config)
    main = "pixel_values" if given.is_floating_point() else "input_ids"
    listed = traced(module, **{main: given})
    theirs = [c.op for c in calls_of(listed) if not isinstance(c.op, Other)]
    ours = [c.op for c in phase(listed, what) if not isinstance(c.op, Other)]
    assert len(theirs) == len(ours) > 10
    unlike = [(a, b) for a, b in zip(theirs, ours, strict=True) if laid(a) != laid(b)]
    assert len(unlike) <= len(theirs) / 20, unlike


def laid(op: Any) -> tuple[Any, ...]:
    """What hangs on layouts, and what work it is."""
    names = ("axes", "transposed", "planar", "causal")
    return op.operator, round(op.flops), *(getattr(op, name, None) for name in names)


def row(aten: str, shapes: str, dtype: str = "BFloat16") -> tuple[str, ...]:
    return "m", aten, "", shapes, " ".join([dtype] * shapes.count("["))


def ops(rows_: list[tuple[str, ...]], name: str = "prefill") -> list[Any]:
    given = pd.DataFrame(rows_, columns=["path", "aten", "kind", "shapes", "dtypes"])
    one = Recorded("nobodys", "w", name, 1, given.assign(seconds=1e-6), 1e-3)
    return [call.op for call in recorded_phase(one).layer.calls()]


def test_heads_of_a_projection_are_turned_and_a_clone_brings_them_into_order() -> None:
    found = ops([row("mm", "[14,96] [96,96]"), row("clone", "[2,6,7,16]")])
    assert found[1] == Copy(2 * 7 * 96, axes=4)
    again = ops([row("clone", "[2,6,7,16]"), row("relu", "[2,6,7,16]")])
    assert again[0].axes == 4, "nobody clones what lies in order, whoever wrote it"
    assert again[1] == Elementwise(2 * 7 * 96)


def test_a_first_key_is_joined_to_nothing_and_a_later_one_to_a_dense_cache() -> None:
    """Torch joins an empty tensor by the slow kernel."""
    step = [row("mm", "[2,96] [96,96]")] * 3
    attends = "[2,6,{q},16] [2,6,{k},16] [2,6,{k},16]"
    name = "_scaled_dot_product_cudnn_attention"
    joins = [row("cat", "")] * 2
    decode = ops([*step, *joins, row(name, attends.format(q=1, k=9))], "decode")
    assert [op.axes for op in decode[3:5]] == [1, 1]
    assert [op.elements for op in decode[3:5]] == [2 * 9 * 96] * 2
    empty = [row("_to_copy", "[0]")] * 2
    first = [row("mm", "[18,96] [96,96]")] * 3
    prefill = ops([*first, *empty, *joins, row(name, attends.format(q=9, k=9))])
    assert [op.axes for op in prefill[-3:-1]] == [12, 12]
    assert isinstance(prefill[-1], Attention) and prefill[-1].causal
    assert not ops([row(name, attends.format(q=9, k=9))], "encode")[0].causal


def test_a_patch_convolution_has_its_channels_though_only_rows_are_read() -> None:
    rows_ = [row("convolution", "[2,3,80,80] [96,3,16,16] [96]"), row("cat", "")]
    found = ops([*rows_, row("add.Tensor", "[2,26,96] [1,26,96]")], "vision")
    assert found[0] == Conv2d(2, 3, 96, 80, 80, kernel=16, stride=16, bias=True)
    assert found[1].transposed and found[1].axes > 1, "patches lie channel by channel"


def test_a_window_that_was_padded_before_is_not_padded_again() -> None:
    rows_ = [row("convolution", "[2,40,16,16] [40,1,3,3]"), row("relu", "[2,40,14,14]")]
    assert ops(rows_)[0] == Conv2d(2, 40, 40, 16, 16, kernel=3, groups=40, planar=True)


def test_a_norm_by_group_counts_itself() -> None:
    assert ops([row("native_group_norm", "[2,40,9,9] [40] [40]")]) == [
        ChannelNorm(2 * 40 * 81, 40, "groupnorm", vectors=2)
    ]


def test_a_weight_that_is_added_to_what_lies_across_changes_nothing_of_how_it_lies() -> None:
    memory = Memory()
    memory.write("convolution", Size((1, 40, 9, 9), "bfloat16", expanded=(False,) * 4))
    seen = Size((1, 9, 9, 40), "bfloat16", expanded=(False,) * 4)
    first, second = memory.read("add", [seen, seen])
    assert first.strides == (3240, 9, 1, 81) and not second.strides


def test_numbers_that_are_masked_keep_their_type() -> None:
    given = "[2,7,9] [2,7,9]"
    both = ("m", "where.ScalarOther", "", given, "bool BFloat16")
    assert ops([both])[0].out_dtype in (None, "bfloat16")
    assert ops([("m", "eq.Tensor", "", given, "long_int long_int")])[0].out_dtype == "bool"
