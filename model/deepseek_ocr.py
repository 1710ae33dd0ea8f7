"""DeepSeek-OCR: SAM and CLIP in sequence see the page, a 3B mixture of experts reads it out.

The passes are those of ``UnlimitedOcrForConditionalGeneration`` in ``transformers`` 5.23, the same
structure, run eagerly with SDPA and ``grouped_mm`` experts: the vision tower once for the whole
page and once for all tiles in a batch, the prefill of image and prompt tokens, one decode step.
Published dimensions: the configuration of deepseek-ai/DeepSeek-OCR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model.clip import ClipEncoder
from model.decoder import (
    DecoderLayer,
    Experts,
    MixtureOfExperts,
    ReferenceMasks,
    Router,
    SelfAttention,
    SwiGlu,
    TextModel,
)
from model.layer import Call, Child, Layer, Live, Step, call, free
from model.linear import Embedding, Linear
from model.ops import Copy, item_bytes
from model.sam import SamEncoder
from model.workload import Phase, Workload, check_logits, check_tiles

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
        yield call(Copy(tokens * (clip.hidden + sam_width), clip.dtype))
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
        yield self.moved(self.queries**2 + 1, page)
        pieces = 0
        if self.tiles is not None:
            rows, columns = (self.tiles[0] * self.tile_queries, self.tiles[1] * self.tile_queries)
            pieces = rows * (columns + 1)
            if self.tiles[1] > 1:
                yield self.moved(rows * columns, rows * columns)
            yield self.moved(rows * columns + 1, pieces)
            if self.tiles[1] > 1:
                yield self.dropped(rows * columns)
        yield self.moved(pieces + page + 1, pieces + page + 1)
        # What the towers returned is part of the result, what was projected is not.
        yield self.dropped(pieces + page)
        yield self.dropped(self.queries**2)
        if self.tiles is not None:
            yield self.dropped(self.tiles[0] * self.tiles[1] * self.tile_queries**2)

    def moved(self, tokens: Any, written: Any) -> Call:
        """The newline is read once and written after every row."""
        copy = Copy(tokens * self.hidden, dtype=self.dtype, out_elements=written * self.hidden)
        return call(copy, count=self.batch)

    def dropped(self, tokens: Any) -> Live:
        return free(self.batch * tokens * self.hidden, self.dtype)


@dataclass(frozen=True)
class Vision(Layer):
    """The root of the vision phase."""

    mirrors = "UnlimitedOcrForConditionalGeneration"
    features: ImageFeatures

    def forward(self) -> Iterator[Step]:
        yield Child("model", self.features)


@dataclass(frozen=True)
class Language(Layer):
    """The root of a prefill or a decode step: the language model and its head."""

    mirrors = "UnlimitedOcrForConditionalGeneration"
    language_model: TextModel
    lm_head: Linear

    def forward(self) -> Iterator[Step]:
        yield Child("model.language_model", self.language_model)
        yield Child("lm_head", self.lm_head)


@dataclass(frozen=True)
class DeepseekOCRModel:
    """The whole model. Dimensions are the published ones; ``dtype`` is that of all its tensors."""

    sam_hidden: int = 768
    sam_layers: int = 12
    sam_heads: int = 12
    sam_intermediate: int = 3072
    sam_window: int = 14
    sam_global_layers: tuple[int, ...] = (2, 5, 8, 11)
    sam_neck: int = 256
    sam_downsample: tuple[int, int] = (512, 1024)
    clip_hidden: int = 1024
    clip_layers: int = 24
    clip_heads: int = 16
    clip_intermediate: int = 4096
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
    dtype: str = "bfloat16"
    weight_dtype: str | None = None

    def __post_init__(self) -> None:
        item_bytes(self.dtype)
        if self.weight_dtype is not None:
            item_bytes(self.weight_dtype)
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple | list) else (value,)
            least = 0 if name in ("sam_global_layers", "dense_layers", "shared_experts") else 1
            if any(isinstance(n, int | float) and n < least for n in numbers):
                raise ValueError(f"{name} = {value}: expected a number >= {least}")
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    # What runs

    def vision(
        self, side: int = 1024, tiles: Tiles = None, tile_side: int = 640, batch: int = 1
    ) -> list[Call]:
        return self.vision_layer(side, tiles, tile_side, batch).calls()

    def prefill(
        self,
        tokens: Any,
        batch: Any = 1,
        logits: str = "all",
        routing: Sequence[float] | None = None,
    ) -> list[Call]:
        return self.prefill_layer(tokens, batch, logits, routing).calls()

    def decode_step(
        self, context: Any, batch: Any = 1, routing: Sequence[float] | None = None
    ) -> list[Call]:
        """One token of each sequence, seeing ``context`` keys and values, its own included."""
        return self.decode_layer(context, batch, routing).calls()

    def phases(
        self, workload: Workload, routing: dict[str, Sequence[float]] | None = None
    ) -> dict[str, Phase]:
        """The passes of one workload, in order.

        The decode phase is one step at the mean context of all steps: every cost of a step is
        linear in its context, so ``repeat`` times that step is the sum over the steps.
        """
        w, touched = workload, routing or {}
        tokens = self.image_tokens(w.side, w.tiles, w.tile_side) + w.prompt_tokens
        context = mean_context(tokens, w.decode_steps)
        prefill = self.prefill_layer(tokens, w.batch, w.logits, touched.get("prefill"))
        step = self.decode_layer(context, w.batch, touched.get("decode"))
        return {
            "vision": Phase(self.vision_layer(w.side, w.tiles, w.tile_side, w.batch)),
            "prefill": Phase(prefill),
            "decode": Phase(step, w.decode_steps),
        }

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

    # Its layers

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
            pieces=self.vision_tower(pieces, tile_side) if pieces else None,
            pieces_projector=self.projector(pieces, tile_side) if pieces else None,
            dtype=self.dtype,
        )
        return Vision(features)

    def vision_tower(self, batch: int, side: int) -> VisionTower:
        sam = SamEncoder(
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
        clip = ClipEncoder(
            batch,
            image_queries("side", side),
            hidden=self.clip_hidden,
            layers=self.clip_layers,
            heads=self.clip_heads,
            intermediate=self.clip_intermediate,
            dtype=self.dtype,
        )
        return VisionTower(sam, clip)

    def projector(self, batch: int, side: int) -> Linear:
        tokens = batch * image_queries("side", side) ** 2
        width = self.clip_hidden + self.sam_downsample[-1]
        return Linear(tokens, width, self.hidden, bias=True, dtype=self.dtype)

    def prefill_layer(
        self,
        tokens: Any,
        batch: Any = 1,
        logits: str = "all",
        routing: Sequence[float] | None = None,
    ) -> Layer:
        """Features of ``tokens`` tokens in, logits out. ``routing``: distinct experts touched in
        each mixture-of-experts layer; None means the expectation under uniform routing."""
        check_logits(logits)
        scored = batch * (tokens if logits == "all" else 1)
        model = self.language_model(batch, tokens, tokens, routing, embeds_tokens=False)
        return Language(model, self.head(scored))

    def decode_layer(
        self, context: Any, batch: Any = 1, routing: Sequence[float] | None = None
    ) -> Layer:
        model = self.language_model(batch, 1, context, routing, embeds_tokens=True)
        return Language(model, self.head(batch))

    def head(self, rows: Any) -> Linear:
        return Linear(rows, self.hidden, self.vocabulary, dtype=self.dtype)

    def language_model(
        self,
        batch: Any,
        tokens: Any,
        context: Any,
        routing: Sequence[float] | None,
        embeds_tokens: bool,
    ) -> TextModel:
        sparse = self.layers - self.dense_layers
        touched = [None] * sparse if routing is None else list(routing)
        if len(touched) != sparse:
            raise ValueError(f"routing = {routing}: expected {sparse} numbers, one a layer")
        experts = [None] * self.dense_layers + touched
        blocks = [
            self.decoder_layer(index, batch, tokens, context, experts[index])
            for index in range(self.layers)
        ]
        rows = batch * tokens
        return TextModel(
            tuple(blocks),
            Embedding(rows, self.vocabulary, self.hidden, self.dtype),
            embeds_tokens=embeds_tokens,
            masks=ReferenceMasks(batch, tokens, context),
        )

    def decoder_layer(
        self, index: int, batch: Any, tokens: Any, context: Any, active_experts: float | None = None
    ) -> DecoderLayer:
        attention = SelfAttention(
            batch,
            tokens,
            context,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.dtype,
            self.weight_dtype,
        )
        rows = batch * tokens
        if index < self.dense_layers:
            return DecoderLayer(attention, self.swiglu(rows, self.intermediate))
        return DecoderLayer(attention, self.mixture(rows, active_experts))

    def swiglu(self, rows: Any, intermediate: int) -> SwiGlu:
        return SwiGlu(rows, self.hidden, intermediate, self.dtype, self.weight_dtype)

    def mixture(self, rows: Any, active_experts: float | None) -> MixtureOfExperts:
        experts = Experts(
            rows,
            self.hidden,
            self.expert_intermediate,
            self.experts,
            self.top_k,
            self.dtype,
            self.weight_dtype,
            active_experts,
        )
        shared = self.shared_experts * self.expert_intermediate
        return MixtureOfExperts(
            Router(rows, self.hidden, self.experts, self.top_k, self.dtype),
            experts,
            self.swiglu(rows, shared) if shared else None,
        )

    # What it holds

    def parameters(self) -> int:
        """All published parameters, CLIP's unused patch convolution among them."""
        return sum(self.component_parameters().values())

    def component_parameters(self) -> dict[str, int]:
        tower = self.vision_tower(1, 1024)
        language = self.language_model(1, 1, 1, None, embeds_tokens=True)
        blocks = sum(block.weight_parameters() for block in language.blocks)
        return {
            "sam": tower.sam_encoder.weight_parameters(),
            "clip": tower.vision_encoder.weight_parameters(),
            "projector": self.projector(1, 1024).parameters(),
            "newline and separator": 2 * self.hidden,
            "embedding": language.embedding.parameters(),
            "decoder layers": blocks,
            "norm": self.hidden,
            "lm_head": self.head(1).parameters(),
        }


def image_queries(key: str, side: int) -> int:
    """Tokens along one side of an image. Raises ``ValueError`` if that is no whole number."""
    if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % TOKEN_SIDE:
        raise ValueError(f"{key} = {side!r}: expected a positive multiple of {TOKEN_SIDE}")
    return side // TOKEN_SIDE


def mean_context(prefilled: int, steps: int) -> int | float:
    """Keys seen in the mean by ``steps`` decode steps after ``prefilled`` tokens: step i sees
    prefilled + i. Half a key where the number of steps is even."""
    twice = 2 * prefilled + steps + 1
    return twice / 2 if twice % 2 else twice // 2
