"""A Hugging Face configuration as a model: built without weights, traced, estimated like ours.

The class is one that ``transformers`` itself registers for the configuration's ``model_type``; no
code is loaded from anywhere else, nothing is downloaded, and parameters are fake tensors, which
hold no numbers. What runs is what an eager CPU would dispatch, fused attention included. The
experts of a mixture run as one grouped product; those touched are the expectation under uniform
routing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from calib.trace.hf.guard import KEY, one_line
from calib.trace.hf.spread import Spread
from calib.trace.weights.stored import Weights
from model.causal_lm import mean_context
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import torch

    from calib.trace.passes import Traced
    from model.parallel import Layout

ROUTING = (
    "Experts touched are the expectation under uniform routing; real routing touches fewer, so "
    "a batch's experts are read at most as often as said."
)
FURTHER = 4
"""How much longer the prompt is whose activations tell how they grow."""
SIZES = {
    "hidden": ("hidden_size", "d_model"),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "intermediate": ("intermediate_size", "encoder_ffn_dim"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "max_target_positions"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "top_k": ("num_experts_per_tok",),
}
"""Our names of dimensions, for the report, and theirs."""


@dataclass(frozen=True, eq=False)
class HFModel:
    """A class of ``transformers`` and its configuration. ``name``: as :func:`name_of` says.
    ``assumed``: the file names no dtype; ``card``: the compute capability of the card whose kernels
    are asked, None: a CPU's. ``spread``: of several cards, of which it is the first. ``unnamed``:
    parts of the configuration that the file leaves to the library's defaults."""

    name: str
    kind: type
    config: Any
    dtype: str
    assumed: bool = False
    weights: Weights = field(default_factory=Weights, repr=False)
    card: str | None = None
    spread: Spread | None = None
    unnamed: tuple[str, ...] = ()
    traced: dict[Workload, Traced] = field(default_factory=dict, repr=False)
    further: dict[Workload, Traced] = field(default_factory=dict, repr=False)

    @property
    def dimensions(self) -> dict[str, Any]:
        """What the report says of the model."""
        text = self.config.get_text_config(decoder=True)
        found: dict[str, Any] = {"model_type": self.config.model_type, "class": self.kind.__name__}
        for ours, theirs in SIZES.items():
            values = (number(text, name) for name in theirs)
            value = next((v for v in values if isinstance(v, int)), None)
            if value is not None:
                found[ours] = value
        return {**found, "dtype": self.dtype}

    @property
    def notes(self) -> list[str]:
        """What a reader must know, of the workloads that were traced too."""
        found = [ROUTING] if self.dimensions.get("experts") else []
        found += self.weights.notes
        if self.assumed:
            found.append(f"{KEY} names no dtype: {self.dtype} is assumed (hf.dtype=... to choose).")
        return found + [note for traced in self.traced.values() for note in traced.notes]

    def on(self, card: str | None) -> HFModel:
        return replace(self, card=card, traced={}, further={})

    def on_cards(self, layout: Layout, others: tuple[int, int]) -> HFModel:
        """As the first card of ``layout`` runs it (:class:`calib.trace.hf.spread.Spread`)."""
        return replace(self, spread=Spread(layout, others), traced={}, further={})

    def features(self, workload: Workload, phase: str) -> tuple[int, str] | None:
        """Elements that a stage of a pipeline hands on, and their dtype; None of what is seen."""
        hidden = self.dimensions.get("hidden")
        tokens = {"prefill": self.prompt_length(workload), "decode": 1}.get(phase)
        return (workload.batch * tokens * hidden, self.dtype) if tokens and hidden else None

    def phases(self, workload: Workload, routing: None = None) -> dict[str, Phase]:
        """The passes of ``workload``, traced once: of text, ``prefill`` and a ``decode`` step at
        the mean context, rounded up; of images ``vision``; of what is only read ``encode``; of
        an encoder that is decoded from, ``encoder`` before them.

        Raises ``CalibError`` for a kind of model, or a side of an image, that cannot be traced.
        """
        return self.trace(workload).phases

    def trace(self, workload: Workload) -> Traced:
        """The passes, and what they leave in memory."""
        if workload not in self.traced:
            from calib.trace.passes import traced_phases

            with one_line(f"{self.name}: {self.kind.__name__}"):
                traced = traced_phases(self, workload)
                traced = self.weights.onto(traced, self.dtype, self.card)
                self.traced[workload] = self.spread.onto(traced) if self.spread else traced
        return self.traced[workload]

    def weight_bytes(self, workload: Workload) -> float:
        """Of all parameters as they are stored, those that no pass of ``workload`` touches
        included."""
        return float(self.trace(workload).weight_bytes)

    def prompt_length(self, workload: Workload) -> int | None:
        """Tokens before the first that is decoded; None of a model whose text does not grow."""
        known = self._alike(workload)
        traced = self.trace(known)
        if not traced.is_text:
            return None
        return traced.length + workload.prompt_tokens - known.prompt_tokens

    def working(self, workload: Workload) -> dict[str, tuple[float, float]]:
        """KV cache at the end, and activations at the peak [bytes], of each phase.

        From a traced pass of the same workload at another batch and prompt: both grow with the
        batch, at most in proportion; with the prompt a cache as it is laid out, and activations
        as :meth:`calib.trace.passes.Traced.working` says.
        """
        known = self._alike(workload)
        traced = self.trace(known)
        more = workload.prompt_tokens - known.prompt_tokens
        further = self._further(known) if more else None
        parts = traced.working(more, workload.decode_steps, further)
        times = workload.batch / known.batch
        return {name: (c * times, a * times) for name, (c, a) in parts.items()}

    def _alike(self, workload: Workload) -> Workload:
        """One that was traced, equal but for its batch and, where text grows, its prompt."""
        for known, traced in self.traced.items():
            prompt = workload.prompt_tokens if traced.is_text else known.prompt_tokens
            if replace(known, batch=workload.batch, prompt_tokens=prompt) == workload:
                return known
        return workload

    def _further(self, known: Workload) -> Traced:
        """The passes up to a prompt several times as long."""
        from calib.trace.passes import traced_phases

        if known not in self.further:
            longer = replace(known, prompt_tokens=FURTHER * max(known.prompt_tokens, 1))
            with one_line(f"{self.name}: {self.kind.__name__}"):
                traced = traced_phases(self, longer, last="prefill")
                traced = self.weights.onto(traced, self.dtype, self.card)
                self.further[known] = self.spread.onto(traced) if self.spread else traced
        return self.further[known]

    def formulas(self, workload: Workload) -> dict[str, Phase]:
        """The same passes by our own layers, where they have the architecture; else nothing."""
        from calib.trace.hf.ours import FORMULAS

        if self.config.model_type not in FORMULAS or self.weights.scheme is not None:
            return {}
        try:
            ours = FORMULAS[self.config.model_type](self.config, self.dtype)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return {}  # the file has what our layers have not
        found: dict[str, Phase] = ours.phases(workload)
        if "decode" in found:  # at the context that is traced
            mean = mean_context(ours.prompt_length(workload), workload.decode_steps)
            layer = ours.decode_layer(math.ceil(mean), workload.batch)
            found["decode"] = Phase(layer, workload.decode_steps)
        return found

    def build(self) -> torch.nn.Module:
        """The model without values, on whatever kind of tensors is in force."""
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, self.dtype))
        try:
            built = self._made()
        finally:
            torch.set_default_dtype(before)
        return self.weights.of(self.spread.cut(built) if self.spread else built)

    def _made(self) -> torch.nn.Module:
        """By the library's own constructor."""
        from transformers.initialization import no_init_weights

        with no_init_weights():
            module: Any = self.kind(self.config).eval()
        module.tie_weights()  # which the library does when it loads weights
        made: torch.nn.Module = module
        return made


def number(config: Any, name: str) -> Any:
    """None where a configuration has no such, or another for each layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # of the library's own, for what differs from layer to layer
        return None
