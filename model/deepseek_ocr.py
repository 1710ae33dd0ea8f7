"""DeepSeek-OCR: SAM and CLIP in sequence see the page, a 3B mixture of experts reads it out.

The passes are those of ``UnlimitedOcrForConditionalGeneration`` in ``transformers`` 5.23, the same
structure, run eagerly with SDPA and ``grouped_mm`` experts: the vision tower once for the whole
page and once for all tiles in a batch, the prefill of image and prompt tokens, one decode step.
Published dimensions: the configuration of deepseek-ai/DeepSeek-OCR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from model.causal_lm import CausalLM, LayerRouting
from model.clip import ClipEncoder
from model.layer import Call, Child, Layer, Live, Step, call, free
from model.linear import Linear
from model.masks import Masks, ReferenceMasks
from model.ops import Copy
from model.sam import SamEncoder
from model.workload import Phase, Workload, check_tiles

TOKEN_SIDE = 64
"""Pixels that one image token stands for along a side: patches of 16, merged 4 to 1 an axis."""

Tiles = tuple[int, int] | None


@dataclass(frozen=True)
class VisionTower(Layer):
    """SAM, CLIP on SAM's features, and both side by side for every token."""

    mirrors = "UnlimitedOcrVisionModel"
    sam_encoder: SamEncoder
    vision_encoder: ClipEncoder

    def forward(self) -> Iterator[Step]:
        clip = self.vision_encoder
        yield Child("sam_encoder", self.sam_encoder)
        yield Child("vision_encoder", clip)
        tokens = clip.batch * (clip.tokens - 1)
        sam_width = self.sam_encoder.downsample[-1]
        axes = 1 + 8 * (clip.batch > 1)
        yield call(Copy(tokens * (clip.hidden + sam_width), clip.dtype, axes=axes))
        yield free(tokens * sam_width + clip.batch * clip.tokens * clip.hidden, clip.dtype)


@dataclass(frozen=True)
class ImageFeatures(Layer):
    """Features of one page an image: the page as a whole and, with ``tiles``, in pieces.

    A learned newline ends every row of tokens, a learned separator the page.
    """

    mirrors = "UnlimitedOcrModel.get_image_features"
    batch: int
    queries: int
    tile_queries: int
    tiles: Tiles
    hidden: int
    page: VisionTower
    page_projector: Linear
    pieces: VisionTower | None = None
    pieces_projector: Linear | None = None
    dtype: str = "bfloat16"

    def parameters(self) -> Any:
        """The newline and the separator."""
        return 2 * self.hidden

    def forward(self) -> Iterator[Step]:
        yield Child("vision_tower", self.page)
        yield Child("multi_modal_projector", self.page_projector)
        if self.pieces is not None and self.pieces_projector is not None:
            yield Child("vision_tower", self.pieces)
            yield Child("multi_modal_projector", self.pieces_projector)
        page = self.queries * (self.queries + 1)
        yield self.moved(self.queries**2 + 1, page, axes=9)
        pieces = 0
        if self.tiles is not None:
            rows, columns = (self.tiles[0] * self.tile_queries, self.tiles[1] * self.tile_queries)
            pieces = rows * (columns + 1)
            if self.tiles[1] > 1:
                yield self.moved(rows * columns, rows * columns, axes=3)
            yield self.moved(rows * columns + 1, pieces, axes=9)
            if self.tiles[1] > 1:
                yield self.dropped(rows * columns)
        yield self.moved(pieces + page + 1, pieces + page + 1)
        # What the towers returned is part of the result, what was projected is not.
        yield self.dropped(pieces + page)
        yield self.dropped(self.queries**2)
        if self.tiles is not None:
            yield self.dropped(self.tiles[0] * self.tiles[1] * self.tile_queries**2)

    def moved(self, tokens: Any, written: Any, axes: int = 1) -> Call:
        """The newline is read once and written after every row."""
        made = written * self.hidden
        copy = Copy(tokens * self.hidden, dtype=self.dtype, out_elements=made, axes=axes)
        return call(copy, count=self.batch)

    def dropped(self, tokens: Any) -> Live:
        return free(self.batch * tokens * self.hidden, self.dtype)


@dataclass(frozen=True)
class Vision(Layer):
    """The root of the vision phase."""

    mirrors = "UnlimitedOcrForConditionalGeneration, DeepseekOcr2ForConditionalGeneration"
    features: Layer

    def forward(self) -> Iterator[Step]:
        yield Child("model", self.features)


@dataclass(frozen=True, kw_only=True)
class OcrModel(CausalLM):
    """What the DeepSeek-OCR models share: SAM sees the page, a language model reads it out."""

    path: ClassVar[str] = "model.language_model"
    reads_features: ClassVar[bool] = True
    may_be_zero: ClassVar[tuple[str, ...]] = (*CausalLM.may_be_zero, "sam_global_layers")
    divided: ClassVar[tuple[tuple[str, str], ...]] = (
        *CausalLM.divided,
        ("sam_hidden", "sam_heads"),
    )

    sam_hidden: int = 768
    sam_layers: int = 12
    sam_heads: int = 12
    sam_intermediate: int = 3072
    sam_window: int = 14
    sam_global_layers: tuple[int, ...] = (2, 5, 8, 11)
    sam_neck: int = 256
    sam_downsample: tuple[int, int] = (512, 1024)
    hidden: int = 1280
    layers: int = 12
    dense_layers: int = 1
    heads: int = 10
    kv_heads: int = 10
    head_dim: int = 128
    intermediate: int = 6848
    experts: int = 64
    top_k: int = 6
    expert_intermediate: int = 896
    shared_experts: int = 2
    vocabulary: int = 129280
    positions: int | None = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        beyond = [index for index in self.sam_global_layers if index >= self.sam_layers]
        if beyond:
            indices = f"indices below sam_layers = {self.sam_layers}"
            raise ValueError(f"sam_global_layers = {self.sam_global_layers}: expected {indices}")

    def vision(
        self, side: int = 1024, tiles: Tiles = None, tile_side: int = 640, batch: int = 1
    ) -> list[Call]:
        return self.vision_layer(side, tiles, tile_side, batch).calls()

    def vision_layer(
        self, side: int = 1024, tiles: Tiles = None, tile_side: int = 640, batch: int = 1
    ) -> Layer:
        raise NotImplementedError

    def image_tokens(self, side: int, tiles: Tiles = None, tile_side: int = 640) -> int:
        raise NotImplementedError

    def prompt_length(self, workload: Workload) -> int:
        image = self.image_tokens(page_side(workload), workload.tiles, workload.tile_side)
        return image + workload.prompt_tokens

    def phases(
        self, workload: Workload, routing: dict[str, LayerRouting] | None = None
    ) -> dict[str, Phase]:
        w = workload
        vision = Phase(self.vision_layer(page_side(w), w.tiles, w.tile_side, w.batch))
        return {"vision": vision, **super().phases(workload, routing)}

    def sam_encoder(self, batch: int, side: int) -> SamEncoder:
        return SamEncoder(
            batch,
            side,
            hidden=self.sam_hidden,
            layers=self.sam_layers,
            heads=self.sam_heads,
            intermediate=self.sam_intermediate,
            window=self.sam_window,
            global_layers=self.sam_global_layers,
            neck=self.sam_neck,
            downsample=self.sam_downsample,
            dtype=self.dtype,
        )


@dataclass(frozen=True, kw_only=True)
class DeepseekOCRModel(OcrModel):
    """DeepSeek-OCR; by default its published dimensions."""

    divided: ClassVar[tuple[tuple[str, str], ...]] = (
        *OcrModel.divided,
        ("clip_hidden", "clip_heads"),
    )

    clip_hidden: int = 1024
    clip_layers: int = 24
    clip_heads: int = 16
    clip_intermediate: int = 4096

    def masks(self, batch: Any, tokens: Any, context: Any) -> Masks:
        return ReferenceMasks(batch, tokens, context)

    def image_tokens(self, side: int, tiles: Tiles = None, tile_side: int = 640) -> int:
        """Tokens of one page: a row of n = side / 64 tokens and a newline n times, a separator;
        before them the tiles' rows in the same way.

        Raises ``ValueError`` for a side that is no multiple of 64 or tiles that are none.
        """
        check_tiles(tiles)
        queries = image_queries("side", side)
        tokens = queries * (queries + 1) + 1
        if tiles is not None:
            piece = image_queries("tile_side", tile_side)
            tokens += tiles[0] * piece * (tiles[1] * piece + 1)
        return tokens

    def vision_layer(
        self, side: int = 1024, tiles: Tiles = None, tile_side: int = 640, batch: int = 1
    ) -> Layer:
        check_tiles(tiles)
        pieces = batch * tiles[0] * tiles[1] if tiles else 0
        features = ImageFeatures(
            batch=batch,
            queries=image_queries("side", side),
            tile_queries=image_queries("tile_side", tile_side),
            tiles=tiles,
            hidden=self.hidden,
            page=self.vision_tower(batch, side),
            page_projector=self.projector(batch, side),
            pieces=self.vision_tower(pieces, tile_side) if tiles else None,
            pieces_projector=self.projector(pieces, tile_side) if tiles else None,
            dtype=self.dtype,
        )
        return Vision(features)

    def vision_tower(self, batch: int, side: int) -> VisionTower:
        clip = ClipEncoder(
            batch,
            image_queries("side", side),
            hidden=self.clip_hidden,
            layers=self.clip_layers,
            heads=self.clip_heads,
            intermediate=self.clip_intermediate,
            dtype=self.dtype,
        )
        return VisionTower(self.sam_encoder(batch, side), clip)

    def projector(self, batch: int, side: int) -> Linear:
        tokens = batch * image_queries("side", side) ** 2
        width = self.clip_hidden + self.sam_downsample[-1]
        return Linear(tokens, width, self.hidden, bias=True, dtype=self.dtype)

    def component_parameters(self) -> dict[str, int]:
        """Published parameters, CLIP's unused patch convolution among them."""
        tower = self.vision_tower(1, 1024)
        return {
            "sam": tower.sam_encoder.weight_parameters(),
            "clip": tower.vision_encoder.weight_parameters(),
            "projector": self.projector(1, 1024).parameters(),
            "newline and separator": 2 * self.hidden,
            **self.language_parameters(),
        }


def page_side(workload: Workload) -> int:
    """Raises ``ValueError`` for a workload without an image."""
    if workload.side is None:
        raise ValueError(f"side = None in workload {workload.name}: expected pixels of an image")
    return workload.side


def image_queries(key: str, side: Any) -> int:
    """Tokens along one side of an image. Raises ``ValueError`` if that is no whole number."""
    if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % TOKEN_SIDE:
        raise ValueError(f"{key} = {side!r}: expected a positive multiple of {TOKEN_SIDE}")
    return side // TOKEN_SIDE
