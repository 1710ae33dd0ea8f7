"""Our counts beside those of torch's FLOP counter, component by component.

    python -m benchmarks.analytic_counts --out docs/analytic.md

The counter runs the implementation of ``transformers`` at full size on ``meta`` tensors, with
eager attention and batched experts, which it sees whole. Nothing is measured, so the table is the
same on every machine. Exit status 1 where a count differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference_models import (
    EAGER,
    NO_MASKS,
    REFERENCES,
    build_reference,
    without_initial_values,
)
from model.architectures import build
from model.causal_lm import CausalLM
from model.deepseek_ocr import DeepseekOCRModel, OcrModel, Tiles
from model.layer import Layer

SIDES = (512, 640, 1024, 1280)
TILES: tuple[Tiles, ...] = ((1, 2), (2, 3), (3, 3))
PROMPT = 10
PUBLISHED = {
    "DeepSeek-OCR": 3_336_106_240,
    "DeepSeek-OCR-2": 3_389_119_360,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-30B-A3B": 30_532_122_624,
    "ViT-L/16": 304_326_632,
}


@dataclass(frozen=True)
class Row:
    """One component: FLOPs of its pass (or its gradient), ours and the counter's."""

    component: str
    shape: str
    ours: int
    counted: int


def empty(*shape: int, gradient: bool = False) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta", requires_grad=gradient)


def count(run: Callable[[], Any]) -> int:
    """FLOPs of a pass, without a gradient."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def count_gradient(run: Callable[[], torch.Tensor]) -> int:
    """FLOPs of the gradient of a pass alone."""
    with FlopCounterMode(display=False) as counter:
        result = run()
        forward = counter.get_total_flops()
        result.sum().backward()
    return int(counter.get_total_flops() - forward)


def reference(name: str) -> Any:
    with torch.device("meta"), without_initial_values():
        return build_reference(*REFERENCES[name](), implementation=EAGER)


def pages(real: Any, side: int, tiles: Tiles, tile_side: int) -> Callable[[], torch.Tensor]:
    """A page and, with tiles, all its tiles in a batch; the features of all tokens."""
    local: dict[str, Any] = {}
    if tiles is not None:
        pieces = tiles[0] * tiles[1]
        local["pixel_values_local"] = empty(pieces, 3, tile_side, tile_side)
        local["num_local_patches"] = [pieces]
        if hasattr(real.model, "image_newline"):
            local["patches_grid"] = [[tiles[1], tiles[0]]]
    page = empty(1, 3, side, side)
    return lambda: torch.cat(real.model.get_image_features(page, **local).pooler_output)


def vision_rows(ours: DeepseekOCRModel, real: Any) -> Iterator[Row]:
    """SAM, CLIP and projector on their own, then whole pages, forward and backward."""
    tower = real.model.vision_tower
    for side in SIDES:
        queries, shape = side // 64, f"{side} px"
        page, features = empty(1, 3, side, side), empty(1, 1024, queries, queries)
        both = empty(1, queries**2, 2048)
        layer = ours.vision_tower(1, side)
        projector = ours.projector(1, side)
        yield row("SAM", shape, layer.sam_encoder, count(partial(tower.sam_encoder, page)))
        clip = count(partial(tower.vision_encoder, features))
        yield row("CLIP", shape, layer.vision_encoder, clip)
        projected = count(partial(real.model.multi_modal_projector, both))
        yield row("projector", shape, projector, projected)
    for side, tiles in [(s, None) for s in SIDES] + [(1024, t) for t in TILES]:
        yield from page_rows(ours, real, "vision", side, tiles, 640)


def page_rows(
    ours: OcrModel, real: Any, name: str, side: int, tiles: Tiles, tile_side: int
) -> Iterator[Row]:
    layer = ours.vision_layer(side, tiles, tile_side)
    shape = f"{side} px" + (f" + {tiles[0]} x {tiles[1]} tiles of {tile_side}" if tiles else "")
    run = pages(real, side, tiles, tile_side)
    yield row(name, shape, layer, count(run))
    gradient = layer.backward_tensor_core_flops()
    yield Row(f"{name}, gradient", shape, gradient, count_gradient(run))


def row(component: str, shape: str, layer: Layer, counted: int) -> Row:
    return Row(component, shape, layer.forward_tensor_core_flops(), counted)


def layer_rows(ours: DeepseekOCRModel, real: Any, tokens: int) -> Iterator[Row]:
    """One dense and one mixture-of-experts layer, and the head."""
    text, shape = real.model.language_model, f"{tokens} tokens"
    hidden, angles = empty(1, tokens, ours.hidden), empty(1, tokens, ours.head_dim)
    for index, name in ((0, "dense decoder layer"), (1, "MoE decoder layer")):
        block = text.layers[index]
        counted = count(partial(block, hidden, position_embeddings=(angles, angles)))
        yield row(name, shape, ours.decoder_layer(index, 1, tokens, tokens), counted)
    yield row("lm_head", shape, ours.head(tokens), count(lambda: real.lm_head(hidden)))


def language_rows(ours: CausalLM, real: Any, name: str, tokens: int, batch: int) -> Iterator[Row]:
    """A prefill and its gradient, and the decode step after it."""
    text = getattr(real.model, "language_model", real.model)
    caches: list[Any] = [
        transformers.DynamicCache(config=real.config.get_text_config()) for _ in range(2)
    ]
    common = {"attention_mask": NO_MASKS} if name == "DeepSeek-OCR" else {}
    features = empty(batch, tokens, ours.hidden, gradient=True)
    one = torch.zeros(batch, 1, dtype=torch.long, device="meta")

    def run(cache: Any, **given: Any) -> torch.Tensor:
        passed = {**given, **common, "past_key_values": cache, "use_cache": True}
        return real.lm_head(text(**passed).last_hidden_state)

    prefill = count(lambda: run(caches[0], inputs_embeds=features))
    step = count(lambda: run(caches[0], input_ids=one))
    gradient = count_gradient(lambda: run(caches[1], inputs_embeds=features))
    shape = f"{tokens} tokens" + (f" x {batch}" if batch > 1 else "")
    layer = ours.prefill_layer(tokens, batch)
    yield row("prefill", shape, layer, prefill)
    yield Row("prefill, gradient", shape, layer.backward_tensor_core_flops(), gradient)
    context = f"{tokens + 1} keys" + (f" x {batch}" if batch > 1 else "")
    yield row("decode step", context, ours.decode_layer(tokens + 1, batch), step)


def deepseek_ocr_rows() -> list[Row]:
    ours, real = DeepseekOCRModel(), reference("deepseek_ocr")
    rows = list(vision_rows(ours, real))
    lengths = [ours.image_tokens(side) + PROMPT for side in SIDES]
    lengths += [ours.image_tokens(1024, tiles) + PROMPT for tiles in TILES]
    rows += layer_rows(ours, real, lengths[0])
    for tokens in lengths:
        rows += language_rows(ours, real, "DeepSeek-OCR", tokens, batch=1)
    rows += language_rows(ours, real, "DeepSeek-OCR", lengths[0], batch=8)
    return rows


def deepseek_ocr_2_rows() -> list[Row]:
    ours, real = build("deepseek_ocr_2"), reference("deepseek_ocr_2")
    rows: list[Row] = []
    for side, tiles in ((768, None), (1024, None), (1024, (2, 3))):
        rows += page_rows(ours, real, "vision", side, tiles, 768)
    return rows + list(language_rows(ours, real, "DeepSeek-OCR-2", 267, batch=1))


def text_rows(architecture: str, name: str) -> list[Row]:
    return list(language_rows(build(architecture), reference(architecture), name, 128, batch=2))


def vit_rows() -> list[Row]:
    images = empty(4, 3, 224, 224)
    layer, real = build("vit").vision_layer(224, batch=4), reference("vit")
    gradient = count_gradient(lambda: real(images).logits)
    return [
        row("classifier", "224 px x 4", layer, count(lambda: real(images))),
        Row("classifier, gradient", "224 px x 4", layer.backward_tensor_core_flops(), gradient),
    ]


def sections() -> dict[str, list[Row]]:
    return {
        "DeepSeek-OCR": deepseek_ocr_rows(),
        "DeepSeek-OCR-2": deepseek_ocr_2_rows(),
        "Llama-3.1-8B": text_rows("llama", "Llama-3.1-8B"),
        "Qwen3-30B-A3B": text_rows("qwen3_moe", "Qwen3-30B-A3B"),
        "ViT-L/16": vit_rows(),
    }


def parameter_table() -> list[str]:
    lines = ["| model | component | parameters |", "|---|---|---:|"]
    names = dict(
        zip(PUBLISHED, ("deepseek_ocr", "deepseek_ocr_2", "llama", "qwen3_moe", "vit"), strict=True)
    )
    for model, architecture in names.items():
        ours = build(architecture)
        lines += [f"| {model} | {c} | {n:,} |" for c, n in ours.component_parameters().items()]
        lines.append(
            f"| **{model}** | **all; published {PUBLISHED[model]:,}** | **{ours.parameters():,}** |"
        )
    return lines


def count_table(rows: list[Row]) -> list[str]:
    lines = [
        "| component | shape | our FLOPs | FlopCounterMode | difference |",
        "|---|---|---:|---:|---:|",
    ]
    return lines + [
        f"| {r.component} | {r.shape} | {r.ours:,} | {r.counted:,} | {r.ours - r.counted:,} |"
        for r in rows
    ]


def document(found: dict[str, list[Row]]) -> str:
    rows = [r for part in found.values() for r in part]
    differing = sum(r.ours != r.counted for r in rows)
    lines = [
        "# The analytic model against independent counts",
        "",
        "Written by `python -m benchmarks.analytic_counts`; do not edit. FLOPs of matrix products,",
        f"convolutions and attention (a multiply-add is two) of {len(rows)} passes, ours from the",
        "formulas of `model/`, the others from `torch.utils.flop_counter.FlopCounterMode` on the",
        f"implementation of transformers {transformers.__version__} (torch {torch.__version__}),",
        "full size, on `meta` tensors, with eager attention and batched experts, which the counter",
        f"sees whole. **{differing} of {len(rows)} differ.**",
        "",
        "A gradient is that of the sum of the result with respect to all weights and the features,",
        "not to the image: twice its pass, less the first convolution's share for the image.",
        "",
        "That the sequence of operators, the bytes of each and the peak of live memory are",
        "those of the implementation too is held by tests (`tests/model/test_deepseek_ocr.py`,",
        "`test_decoder.py`, `test_vision.py`), on tensors that know their shape and hold no data.",
    ]
    for name, part in found.items():
        lines += ["", f"## {name}", "", *count_table(part)]
    lines += ["", "## Parameters", "", *parameter_table()]
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs/analytic.md"))
    path: Path = parser.parse_args(argv).out
    found = sections()
    partial = path.with_name(path.name + ".partial")
    partial.write_text(document(found))
    os.replace(partial, path)
    differing = [r for part in found.values() for r in part if r.ours != r.counted]
    for r in differing:
        print(
            f"{r.component} at {r.shape}: ours {r.ours:,}, counted {r.counted:,}", file=sys.stderr
        )
    print(f"{path}: {sum(map(len, found.values()))} counts, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
