"""What a card of a server runs in a step, as kernels of its engine, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from calib.cards.engines.card import EngineCard
from calib.estimates.stack.formats import Formats
from calib.estimates.stack.lower import Kernel, folded, lowered
from model.causal_lm import CausalLM
from model.layer import Call, Layer
from model.ops import Attention, item_bytes
from model.ops.grids import Sizes
from model.parallel import Layout
from model.parallel.layout import share
from model.parallel.one_card import Place

BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5625}
"""Of a weight of the layers, by the format of products; four bits and a scale of a byte for 16."""
PARTS = ("gemm", "attention", "moe", "comm", "stream")
KINDS = {"matmul": "gemm", "attention": "attention", "moe_mlp": "moe"}
KINDS |= {"latent_attention": "attention"}
KINDS |= dict.fromkeys(
    ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"), "comm"
)


@dataclass(frozen=True)
class Server:
    """A model on ``layout``'s cards; passes are of one replica's requests.

    ``fuses``: as an engine does; else each of the model's own operators is a kernel. Kernels are
    those of all layers: of a pipeline, of all stages.
    """

    model: CausalLM
    layout: Layout
    formats: Formats
    fuses: bool = True

    def decode(self, batch: Any, context: Any) -> list[Kernel]:
        """One token of each of ``batch`` sequences that see ``context`` keys. Of arrays [n] each
        kernel is a grid."""
        batch, context = (_sizes(value) for value in (batch, context))
        return self._kernels(self._two_layers().decode_layer(context, batch), batch)

    def prompt(self, tokens: Any) -> list[Kernel]:
        """A sequence of ``tokens``, the last of which is scored."""
        return self._kernels(self._two_layers().prefill_layer(_sizes(tokens), 1, "last"), 1)

    def _two_layers(self) -> CausalLM:
        """The second layer stands for all that follow: they are alike."""
        return replace(self.model, layers=2, dense_layers=min(self.model.dense_layers, 2))

    def _kernels(self, root: Layer, sequences: Any) -> list[Kernel]:
        place = Place(self.layout, 0, (sequences * self.layout.dp, sequences))
        calls = place.of_root(root).calls()  # type: ignore[arg-type]
        times = self.model.layers - 1
        calls = [_repeated(call, times) for call in calls]
        if self.fuses:
            return lowered(calls, self.formats)
        return [Kernel(call.path, call.op, call.count) for call in folded(calls)]

    def weight_bytes(self) -> float:
        """Of one card: of a pipeline the one with the most."""
        model, layout = self.model, self.layout
        parts = _parameters(model)
        ends = [parts["embedding"] / layout.tp, parts["lm_head"] / layout.tp]
        wide = (max(ends) if layout.pp > 1 else sum(ends)) * item_bytes("bfloat16")
        sparse = model.layers - model.dense_layers
        experts = sparse * model.experts * 3 * model.hidden * model.expert_intermediate
        rest = (parts["decoder layers"] - experts) / layout.tp
        layers = (rest + experts / layout.stage_cards) * self.stage_share(0)
        return wide + layers * BYTES[self.formats.products]

    def token_bytes(self) -> float:
        """What a card's cache keeps of a token."""
        heads = max(self.model.kv_heads // self.layout.tp, 1)
        item = 1.0 if self.formats.cache == "fp8" else 2.0
        return 2 * self.model.layers * self.stage_share(0) * heads * self.model.head_dim * item

    def stage_share(self, stage: int) -> float:
        """Of the layers, what a stage of the pipeline has."""
        return float(share(self.model.layers, self.layout.pp, stage) / self.model.layers)


@lru_cache(maxsize=64)
def _parameters(model: CausalLM) -> dict[str, int]:
    return model.language_parameters()


def _sizes(value: Any) -> Any:
    return Sizes.of(value) if isinstance(value, np.ndarray) else value


def _repeated(call: Call, times: int) -> Call:
    return replace(call, count=call.count * times) if ".layers.1" in call.path else call


def attention(kernels: Sequence[Kernel]) -> list[Kernel]:
    return [k for k in kernels if isinstance(k.op, Attention)]


def by_token(kernels: Sequence[Kernel]) -> list[Kernel]:
    """What a step runs of each token, whatever sequence it is of."""
    return [k for k in kernels if not isinstance(k.op, Attention) and k.path != "lm_head"]


@dataclass(frozen=True)
class Times:
    """[n] seconds of as many steps, by part; ``launches``; ``spread``: half-width of the 90%
    interval over the seconds: errors of one part hang together, those of two do not."""

    seconds: np.ndarray
    parts: dict[str, np.ndarray]
    launches: np.ndarray
    spread: np.ndarray


def timed(steps: Sequence[Sequence[Kernel]], card: EngineCard) -> Times:
    """``steps``: of [n] requests alike but for their sizes, the kernels in order."""
    count = len(steps)
    parts = {name: np.zeros(count) for name in PARTS}
    wide = {name: np.zeros(count) for name in PARTS}
    launches = np.zeros(count)
    for same in zip(*steps, strict=True):
        first, times = same[0], np.array([float(k.count) for k in same])
        found = card.estimates([k.op for k in same], first.name)
        part = KINDS.get(first.op.operator, "stream")
        parts[part] += found.seconds * times
        high = np.where(np.isfinite(found.high), found.high, 2 * found.seconds)
        wide[part] += (high - found.low) / 2 * times
        launches += times
    seconds = np.sum(list(parts.values()), axis=0)
    spread = np.sqrt(np.sum(np.square(list(wide.values())), axis=0))
    return Times(seconds, parts, launches, spread / np.maximum(seconds, 1e-12))
