"""DeepSeek-OCR-2: learned queries read SAM's features in a small language model's blocks.

The passes are those of ``DeepseekOcr2ForConditionalGeneration``. A view of 1024 pixels becomes
256 tokens, one of 768 pixels (a tile) 144; no newlines, one separator a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from model.decoder import DecoderLayer, SelfAttention, TextModel
from model.deepseek_ocr import OcrModel, Tiles, Vision, image_queries
from model.layer import Child, Layer, Step, call, free, when
from model.linear import Linear, SwiGlu
from model.masks import HybridMasks
from model.ops import Copy, Elementwise, Matmul
from model.sam import SamEncoder
from model.workload import check_tiles

QUERIES = (144, 256)
"""Learned queries of the two resolutions, 768 and 1024 pixels."""


@dataclass(frozen=True)
class QueryTower(Layer):
    """SAM's features and as many learned queries go through the encoder; the queries come out."""

    mirrors = "DeepseekOcr2VisionModel"
    sam_encoder: SamEncoder
    vision_encoder: TextModel
    queries: int

    @property
    def width(self) -> Any:
        return self.sam_encoder.downsample[-1]

    def parameters(self) -> Any:
        """The queries of both resolutions."""
        return sum(QUERIES) * self.width

    def parameter_dtype(self) -> str:
        return self.sam_encoder.dtype

    def forward(self) -> Iterator[Step]:
        sam = self.sam_encoder
        features = sam.batch * (sam.grid // 4) ** 2 * self.width
        queries = self.queries * self.width
        yield Child("sam_encoder", sam)
        whole = features + sam.batch * queries
        joined = Copy(features + queries, dtype=sam.dtype, out_elements=whole)
        yield call(replace(joined, axes=1 + 8 * (sam.batch > 1)))
        yield Child("vision_encoder", self.vision_encoder)
        yield free(features + whole, sam.dtype)


@dataclass(frozen=True)
class SlicedLinear(Linear):
    """A linear map of the queries of ``views`` views: those of several do not lie together, so
    they are copied first, and the bias is added on its own."""

    views: int = 1

    def forward(self) -> Iterator[Step]:
        inputs, outputs = self.rows * self.inputs, self.rows * self.outputs
        product = Matmul(self.rows, self.outputs, self.inputs, dtype=self.dtype)
        yield from when(self.views == 1, call(replace(product, bias=True)))
        yield from when(
            self.views > 1,
            call(Copy(inputs, dtype=self.dtype, axes=2)),
            call(product),
            free(inputs, self.dtype),
            call(Elementwise(outputs, dtype=self.dtype, broadcast=self.outputs, axes=2)),
            free(outputs, self.dtype),
        )


@dataclass(frozen=True)
class QueryFeatures(Layer):
    """The page's tokens after those of its tiles, and a learned separator."""

    mirrors = "DeepseekOcr2Model.get_image_features"
    batch: int
    queries: int
    tile_tokens: int
    hidden: int
    page: QueryTower
    page_projector: Linear
    pieces: QueryTower | None = None
    pieces_projector: Linear | None = None
    dtype: str = "bfloat16"

    def parameters(self) -> Any:
        """The separator."""
        return self.hidden

    def forward(self) -> Iterator[Step]:
        yield Child("vision_tower", self.page)
        yield Child("multi_modal_projector", self.page_projector)
        if self.pieces is not None and self.pieces_projector is not None:
            yield Child("vision_tower", self.pieces)
            yield Child("multi_modal_projector", self.pieces_projector)
        tokens = self.tile_tokens + self.queries
        yield call(Copy((tokens + 1) * self.hidden, dtype=self.dtype), count=self.batch)
        yield free(self.batch * tokens * self.hidden, self.dtype)


@dataclass(frozen=True, kw_only=True)
class DeepseekOCR2Model(OcrModel):
    """DeepSeek-OCR-2; by default its published dimensions."""

    divided: ClassVar[tuple[tuple[str, str], ...]] = (
        *OcrModel.divided,
        ("encoder_hidden", "encoder_heads"),
        ("encoder_heads", "encoder_kv_heads"),
    )

    sam_downsample: tuple[int, int] = (512, 896)
    encoder_layers: int = 24
    encoder_heads: int = 14
    encoder_kv_heads: int = 2
    encoder_intermediate: int = 4864

    @property
    def encoder_hidden(self) -> int:
        return self.sam_downsample[-1]

    def image_tokens(self, side: int, tiles: Tiles = None, tile_side: int = 768) -> int:
        """Tokens of one page with its tiles, the separator included."""
        check_tiles(tiles)
        tokens = self.queries("side", side) + 1
        if tiles is not None:
            tokens += tiles[0] * tiles[1] * self.queries("tile_side", tile_side)
        return tokens

    def queries(self, key: str, side: int) -> int:
        """As many as the resolution of the view has; SAM's features may be fewer."""
        small, large = QUERIES
        return small if image_queries(key, side) ** 2 <= small else large

    def vision_layer(
        self, side: int = 1024, tiles: Tiles = None, tile_side: int = 768, batch: int = 1
    ) -> Layer:
        check_tiles(tiles)
        count = tiles[0] * tiles[1] if tiles else 0
        pieces = batch * count
        features = QueryFeatures(
            batch=batch,
            queries=self.queries("side", side),
            tile_tokens=count * self.queries("tile_side", tile_side),
            hidden=self.hidden,
            page=self.vision_tower(batch, side),
            page_projector=self.projector(batch, side),
            pieces=self.vision_tower(pieces, tile_side) if tiles else None,
            pieces_projector=self.projector(pieces, tile_side) if tiles else None,
            dtype=self.dtype,
        )
        return Vision(features)

    def vision_tower(self, batch: int, side: int) -> QueryTower:
        queries, patches = self.queries("side", side), image_queries("side", side) ** 2
        tokens, dtype = patches + queries, self.dtype
        attention = SelfAttention(
            batch,
            tokens,
            tokens,
            self.encoder_hidden,
            self.encoder_heads,
            self.encoder_kv_heads,
            self.encoder_hidden // self.encoder_heads,
            dtype,
            bias=True,
            masked=True,
        )
        mlp = SwiGlu(batch * tokens, self.encoder_hidden, self.encoder_intermediate, dtype)
        blocks = (DecoderLayer(attention, mlp),) * self.encoder_layers
        masks = HybridMasks(batch, tokens, patches)
        encoder = TextModel(blocks, masks, embeds_tokens=False)
        return QueryTower(self.sam_encoder(batch, side), encoder, queries)

    def projector(self, batch: int, side: int) -> Linear:
        tokens = batch * self.queries("side", side)
        width = self.encoder_hidden
        return SlicedLinear(tokens, width, self.hidden, True, self.dtype, views=batch)

    def component_parameters(self) -> dict[str, int]:
        tower = self.vision_tower(1, 1024)
        return {
            "sam": tower.sam_encoder.weight_parameters(),
            "encoder": tower.vision_encoder.weight_parameters(),
            "queries": tower.parameters(),
            "projector": self.projector(1, 1024).parameters(),
            "separator": self.hidden,
            **self.language_parameters(),
        }
