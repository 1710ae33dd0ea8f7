"""The vendor's code: our layers against a module of the same operators, and against the kernels
that others counted on a card."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from dispatched import assert_same_operators, dispatched
from live_memory import live_memory
from torch._subclasses.fake_tensor import FakeTensorMode
from vendor_code import Cache, Root

from benchmarks.rtx5090 import KERNELS
from calib.trace.module import record
from model.deepseek_ocr import DeepseekOCRModel
from model.deepseek_ocr_vendor import LoopedMixture, VendorDeepseekOCR, VendorLanguage
from model.layer import Call, total
from model.moe import Routing

MODEL = VendorDeepseekOCR()
TOKENS = 64
"""Decoded in the published run."""


SHORT = replace(MODEL, layers=3)
"""One dense layer and two mixtures."""


@cache
def fake_root(model: VendorDeepseekOCR) -> tuple[FakeTensorMode, Root]:
    mode, before = FakeTensorMode(), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with mode:
            return mode, Root(model).eval()
    finally:
        torch.set_default_dtype(before)


def loads(root: VendorLanguage) -> list[int]:
    layers = (node.layer for node in root.nodes())
    return next(layer.loads() for layer in layers if isinstance(layer, LoopedMixture))


class Passes:
    """A prefill of features and the decode step after it, on tensors without contents."""

    def __init__(self, model: VendorDeepseekOCR, tokens: int, batch: int) -> None:
        self.model, self.tokens, self.batch = model, tokens, batch
        self.mode, self.module = fake_root(model)
        self.prefilled = model.prefill_layer(tokens, batch)
        self.step = model.decode_layer(tokens + 1, batch)

    def prefill(self) -> tuple[Callable[[], Any], Cache]:
        self.module.route(loads(self.prefilled))
        features = torch.zeros(self.batch, self.tokens, MODEL.hidden, dtype=torch.bfloat16)
        mask, cache = torch.ones(self.batch, self.tokens, dtype=torch.long), Cache()
        return lambda: self.module(features, mask, mask, cache), cache

    def decode(self) -> tuple[Callable[[], Any], Cache]:
        self.module.route(loads(self.step))
        form = self.batch, MODEL.heads, self.tokens, MODEL.head_dim
        held = [torch.zeros(form, dtype=torch.bfloat16) for _ in range(2 * self.model.layers)]
        cache = Cache(enumerate(zip(held[::2], held[1::2], strict=True)))
        one = torch.zeros(self.batch, 1, dtype=torch.long)
        mask = torch.ones(self.batch, self.tokens + 1, dtype=torch.long)
        held.clear()
        return lambda: self.module(one, mask, one, cache), cache


def without_waits(calls: list[Call]) -> list[Call]:
    """Tensors without contents cannot be waited for."""
    return [call for call in calls if not call.sync]


@pytest.mark.parametrize(("tokens", "batch"), [(31, 1), (7, 2)])
def test_dispatches_what_we_list(tokens: int, batch: int) -> None:
    passes = Passes(SHORT, tokens, batch)
    with passes.mode:
        for root, (run, _) in (
            (passes.prefilled, passes.prefill()),
            (passes.step, passes.decode()),
        ):
            passes.module.route(loads(root))
            assert_same_operators(without_waits(root.calls()), record(passes.module, run).calls)


def test_a_decode_step_has_the_published_kernels() -> None:
    """Operator by operator, to the integer: 1,219 kernels a token."""
    passes = Passes(MODEL, 283, 1)
    with passes.mode:
        rows = dispatched(passes.module, passes.decode()[0])
    found = Counter("attention" if "attention" in row.base else row.base for row in rows)
    published: Counter[str] = Counter()
    kernels = 0
    for row in csv.DictReader(KERNELS.open(encoding="utf-8")):
        parts = [int(row[part]) for part in ("pass", "library", "loop")]
        assert sum(parts) * TOKENS == int(row["instances"]), row["kernel"]
        published[row["operator"]] += parts[0]
        kernels += sum(parts)
    allocated = found.pop("empty_like")  # an operator without a kernel
    assert found == +published
    assert kernels == 1219
    calls = without_waits(MODEL.decode_step(284))
    assert sum(call.launches * call.count for call in calls) == published.total() + allocated


def test_the_host_waits_for_the_mask_and_in_every_mixture() -> None:
    waits = [call.path for call in MODEL.decode_step(284) if call.sync]
    mixtures = [f"model.language_model.layers.{i}.mlp" for i in range(1, 12)]
    assert waits == ["model.language_model", *mixtures]
    more = [call.path for call in MODEL.prefill(283) if call.sync and "self_attn" in call.path]
    assert len(more) == MODEL.layers


def test_only_launches_and_casts_differ_from_transformers() -> None:
    """Products are the same; a product of depth 1 makes rotary angles."""
    theirs = DeepseekOCRModel()
    for ours, other, positions in (
        (MODEL.prefill_layer(283), theirs.prefill_layer(283), 283),
        (MODEL.decode_layer(284), theirs.decode_layer(284), 1),
    ):
        angles = MODEL.layers * 2 * positions * MODEL.head_dim // 2
        products = other.forward_tensor_core_flops() + angles
        assert ours.forward_tensor_core_flops() == products
        assert ours.weight_parameters() == other.weight_parameters()
        assert ours.kv_cache_bytes() == other.kv_cache_bytes()
    # The router's weights are cast to float32 and back in every layer.
    step = MODEL.decode_layer(284).forward_io_bytes()
    assert 1.0 < step / theirs.decode_layer(284).forward_io_bytes() < 1.01


@pytest.mark.parametrize(
    ("rows", "routing", "expected"),
    [
        (1, None, [1] * 6),
        (2, Routing(7.4), [2] * 5 + [1] * 2),
        (100, Routing(3), [100] * 6),
        (100, Routing(64), [10] * 24 + [9] * 40),
    ],
)
def test_tokens_are_spread_over_the_experts_touched(
    rows: int, routing: Routing | None, expected: list[int]
) -> None:
    mixture = MODEL.mixture(rows, routing)
    assert isinstance(mixture, LoopedMixture)
    assert mixture.loads() == expected
    products = 2 * rows * 6 * 3 * 1280 * 896
    experts = [c for c in mixture.calls() if "experts." in c.path and "shared" not in c.path]
    assert total(experts, lambda op: op.tensor_core_flops) == products


@pytest.mark.parametrize(("tokens", "batch"), [(65, 1), (31, 2)])
def test_peak_memory_is_that_of_live_tensors(tokens: int, batch: int) -> None:
    passes = Passes(SHORT, tokens, batch)
    with passes.mode, torch.no_grad():
        for root, (run, cache) in (
            (passes.prefilled, passes.prefill()),
            (passes.step, passes.decode()),
        ):
            passes.module.route(loads(root))
            held = (tensor for pair in cache.values() for tensor in pair)
            peak, _ = live_memory(passes.module, run, before=held)
            ours = root.activation_bytes() + root.kv_cache_bytes()
            assert ours == pytest.approx(peak, rel=0.001)


def test_a_small_one_runs_and_routes_by_itself() -> None:
    """Nothing but the sequence of operators is claimed, but the sequence computes something."""
    small = replace(
        MODEL,
        **{"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 32},
        **{"intermediate": 96, "experts": 8, "top_k": 3, "expert_intermediate": 48},
        vocabulary=97,
    )
    torch.manual_seed(0)
    module, cache = Root(small).to(torch.bfloat16).eval(), Cache()
    prompt = torch.arange(7)[None]
    with torch.no_grad():
        whole = module(prompt, torch.ones_like(prompt), prompt, cache)
        again = Cache()
        module(prompt[:, :6], torch.ones(1, 6), prompt[:, :6], again)
        last = module(prompt[:, 6:], torch.ones(1, 7), torch.tensor([[6]]), again)
    assert whole.shape == (1, 7, 97)
    assert torch.allclose(whole[:, -1:], last, atol=0.05)
