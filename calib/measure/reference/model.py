"""The reference model: ``transformers``' implementation of DeepSeek-OCR, with random weights.

Nothing is downloaded. What is timed later needs three things of the weights: memory of their own
(so that they come from main memory), values that stay finite, and routing that spreads tokens over
experts. Matrices are therefore N(0, 0.02), norms 1, biases 0. One block of such values is drawn and
tiled over all matrices, each from a random offset; its length is prime, so that neither two rows
nor two experts are alike. That fills 3.3 billion parameters in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from model.deepseek_ocr import DeepseekOCRModel, page_side
from model.ops import item_bytes
from model.workload import Workload

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32")
STANDARD_DEVIATION = 0.02
BLOCK = 16_777_259
"""Values drawn before they repeat; a prime."""
SAM_PATCH = 16
BIAS_COPIES = 3
"""SAM's position bias for all pairs of tokens: summed, made contiguous, and scaled within SDPA."""
WORKING_BYTES = 10**9
"""Libraries, activations besides the ones counted, and the profiler's record of a pass."""


@dataclass(frozen=True)
class Reference:
    """A model that is ready to run. ``decoder_layers``: how many there was memory for."""

    model: torch.nn.Module
    dimensions: DeepseekOCRModel
    device: str
    decoder_layers: int
    parameters: int
    notes: tuple[str, ...] = ()


def build_reference(
    dimensions: Mapping[str, Any] | None = None,
    workload: Workload | None = None,
    device: str = "cpu",
    seed: int = 0,
    available_bytes: float | None = None,
) -> Reference:
    """Build the model with ``dimensions`` (fields of ``DeepseekOCRModel``) on ``device``.

    Where ``available_bytes`` (None: what the device reports) does not hold it beside what
    ``workload`` needs, it gets fewer decoder layers and a note that says so.

    Raises ``CalibError`` for a dimension that the implementation cannot have, a ``transformers``
    without the class, and too little memory for even one decoder layer.
    """
    import torch

    wanted = reference_dimensions(dimensions or {})
    available = available_memory(device) if available_bytes is None else available_bytes
    layers, note = layers_that_fit(wanted, workload, available)
    with torch.device("meta"):
        model = model_class()._from_config(
            reference_config(wanted, layers),
            dtype=getattr(torch, wanted.dtype),
            attn_implementation="sdpa",
            experts_implementation="grouped_mm",
        )
    model = model.to_empty(device=device).eval().requires_grad_(False)
    fill_parameters(model, seed)
    fill_buffers(model)
    count = sum(p.numel() for p in model.parameters())
    return Reference(model, wanted, device, layers, count, (note,) if note else ())


def reference_dimensions(dimensions: Mapping[str, Any]) -> DeepseekOCRModel:
    """The published dimensions with ``dimensions`` in their place, checked."""
    try:
        wanted = DeepseekOCRModel(**dimensions)
    except (TypeError, ValueError) as error:
        raise CalibError(f"reference model: {error}") from error
    if wanted.dtype not in DTYPES:
        raise CalibError(
            f"reference model: dtype = {wanted.dtype!r}: expected one of {', '.join(DTYPES)}"
        )
    if wanted.weight_dtype not in (None, wanted.dtype):
        raise CalibError(
            f"reference model: weight_dtype = {wanted.weight_dtype!r}: expected null, since this "
            "implementation stores its weights in dtype"
        )
    if wanted.head_dim * wanted.heads != wanted.hidden:
        raise CalibError(
            f"reference model: head_dim = {wanted.head_dim}: expected hidden / heads = "
            f"{wanted.hidden} / {wanted.heads}, which this implementation takes"
        )
    if wanted.sam_downsample[-1] != wanted.clip_hidden:
        raise CalibError(
            f"reference model: sam_downsample = {wanted.sam_downsample}: expected clip_hidden = "
            f"{wanted.clip_hidden} as the last, since SAM's features are CLIP's patch embeddings"
        )
    return wanted


def model_class() -> Any:
    """The class that implements the structure.

    Raises ``CalibError`` where the ``transformers`` at hand has none.
    """
    import transformers

    try:
        return transformers.UnlimitedOcrForConditionalGeneration
    except (AttributeError, ImportError) as error:
        raise CalibError(
            f"reference model: transformers {transformers.__version__} has no "
            "UnlimitedOcrForConditionalGeneration: expected transformers >= 5.23; install it, or "
            "run with measured=false"
        ) from error


def reference_config(dimensions: DeepseekOCRModel, layers: int) -> Any:
    """The implementation's configuration, with ``layers`` decoder layers of full attention."""
    from transformers import UnlimitedOcrConfig

    d = dimensions
    sam = {
        "hidden_size": d.sam_hidden,
        "num_hidden_layers": d.sam_layers,
        "num_attention_heads": d.sam_heads,
        "mlp_dim": d.sam_intermediate,
        "window_size": d.sam_window,
        "global_attn_indexes": list(d.sam_global_layers),
        "output_channels": d.sam_neck,
        "downsample_channels": list(d.sam_downsample),
    }
    clip = {
        "hidden_size": d.clip_hidden,
        "num_hidden_layers": d.clip_layers,
        "num_attention_heads": d.clip_heads,
        "intermediate_size": d.clip_intermediate,
    }
    text = {
        "vocab_size": d.vocabulary,
        "hidden_size": d.hidden,
        "intermediate_size": d.intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": d.heads,
        "num_key_value_heads": d.kv_heads,
        "n_routed_experts": d.experts,
        "num_experts_per_tok": d.top_k,
        "moe_intermediate_size": d.expert_intermediate,
        "n_shared_experts": d.shared_experts,
        "layer_types": ["full_attention"] * layers,
        "mlp_layer_types": ["dense" if i < d.dense_layers else "sparse" for i in range(layers)],
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {"sam_config": sam, "encoder_config": clip}
    return UnlimitedOcrConfig(vision_config=vision, text_config=text)


def fill_parameters(model: torch.nn.Module, seed: int) -> None:
    """Matrices N(0, 0.02), norms 1, biases 0; vectors of tokens are matrices of one row."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    first = next(model.parameters())
    drawn = torch.randn(BLOCK, generator=generator).mul_(STANDARD_DEVIATION)
    block = drawn.to(device=first.device, dtype=first.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(r"norm\w*\.weight$", name):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                start = int(torch.randint(BLOCK, (), generator=generator))
                tile(parameter.view(-1), block, start)


def tile(target: torch.Tensor, block: torch.Tensor, start: int) -> None:
    """Fill the flat ``target`` with ``block``, again and again, beginning at ``start``."""
    done = 0
    while done < target.numel():
        piece = block[start : start + target.numel() - done]
        target[done : done + piece.numel()].copy_(piece)
        done, start = done + piece.numel(), 0


def fill_buffers(model: torch.nn.Module) -> None:
    """Recompute what ``to_empty`` left as garbage: rotary frequencies and position indices.

    Raises ``CalibError`` for a buffer that this does not know.
    """
    import torch

    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name in ("inv_freq", "original_inv_freq"):
                values, _ = module.compute_default_rope_parameters(module.config)
            elif name == "position_ids":
                values = torch.arange(buffer.numel()).view_as(buffer)
            else:
                raise CalibError(f"reference model: buffer {path}.{name} has no known content")
            setattr(module, name, values.to(buffer.device))


def layers_that_fit(
    dimensions: DeepseekOCRModel, workload: Workload | None, available: float
) -> tuple[int, str]:
    """The most decoder layers that ``available`` bytes hold, and a note where that is not all."""
    needed = {n: needed_memory(dimensions, workload, n) for n in range(1, dimensions.layers + 1)}
    fitting = [n for n, need in needed.items() if need <= available]
    whole = f"{needed[dimensions.layers] / 1e9:.1f} GB"
    if not fitting:
        raise CalibError(
            f"reference model: {available / 1e9:.1f} GB of memory are available: expected {whole} "
            f"for the whole model, {needed[1] / 1e9:.1f} GB with a single decoder layer; free "
            "memory or run with measured=false"
        )
    if max(fitting) == dimensions.layers:
        return dimensions.layers, ""
    return max(fitting), (
        f"the measured model has {max(fitting)} of {dimensions.layers} decoder layers: all of them "
        f"need {whole} of memory, {available / 1e9:.1f} GB are available"
    )


def needed_memory(dimensions: DeepseekOCRModel, workload: Workload | None, layers: int) -> float:
    """Bytes for the weights with ``layers`` decoder layers and for running ``workload``.

    Counted of the activations: the logits of the prefill, the cache, and SAM's position bias for
    all pairs of tokens, of the page or of the tiles, whichever is larger.
    """
    d, item = dimensions, item_bytes(dimensions.dtype)
    language = d.language_model(1, 1, 1, None, embeds_tokens=True)
    left_out = sum(block.weight_parameters() for block in language.blocks[layers:])
    weights = (d.parameters() - left_out) * item
    if workload is None:
        return weights + WORKING_BYTES
    w = workload
    tokens = d.prompt_length(w)
    pairs = [w.batch * (page_side(w) // SAM_PATCH) ** 4]
    if w.tiles is not None:
        pairs += [w.batch * w.tiles[0] * w.tiles[1] * (w.tile_side // SAM_PATCH) ** 4]
    bias = BIAS_COPIES * d.sam_heads * max(pairs) * item
    logits = w.batch * (tokens if w.logits == "all" else 1) * d.vocabulary * item
    keys = w.batch * (tokens + w.decode_steps) * d.kv_heads * d.head_dim * item
    return weights + bias + logits + 2 * (layers + 1) * keys + WORKING_BYTES


def available_memory(device: str) -> float:
    """Free bytes of ``device``; on a CPU also within the limit of its control group."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later is free too
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(min(psutil.virtual_memory().available, control_group_memory()))


def control_group_memory(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left of a container's memory limit; infinite where there is none.

    Pages that only cache files are counted as free, since the kernel drops them first.
    """
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf")
    if limit == "max":
        return float("inf")
    return int(limit) - used + int(statistics.get("inactive_file", 0))
