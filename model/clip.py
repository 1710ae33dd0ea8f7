"""CLIP-L as DeepSeek-OCR uses it, SAM's features its patch embeddings; its blocks are ViT's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Child, Layer, Step, call, free
from model.linear import Embedding, LayerNorm, Linear, Mlp, add
from model.ops import Attention, Copy, Elementwise
from model.sam import resample

CLIP_NAMES = ("layer_norm1", "self_attn", "out_proj", "layer_norm2")


@dataclass(frozen=True)
class ClipEmbeddings(Layer):
    """A class token before ``grid`` x ``grid`` patch embeddings, and learned positions added.

    The published weights hold a patch convolution [hidden, channels, patch, patch] that nothing
    calls (``transformers``' build leaves it out): it counts as parameters and as nothing else.
    """

    mirrors = "UnlimitedOcrVisionEmbeddings"
    batch: int
    grid: int
    hidden: int
    pretrained_grid: int
    patch: int
    channels: int
    dtype: str = "bfloat16"

    @property
    def patches(self) -> Any:
        return self.grid * self.grid

    @property
    def table(self) -> Embedding:
        rows = self.pretrained_grid**2 + 1
        return Embedding(rows, rows, self.hidden, self.dtype)

    @property
    def resampled(self) -> bool:
        return self.grid != self.pretrained_grid

    @property
    def unused_parameters(self) -> int:
        return self.hidden * self.channels * self.patch**2

    def parameters(self) -> Any:
        table = self.table.parameters() if self.resampled else 0
        return self.hidden + self.unused_parameters + table

    def forward(self) -> Iterator[Step]:
        positions = (self.patches + 1) * self.hidden
        # One class token, read once and written before the patches of every image.
        read = (self.batch * self.patches + 1) * self.hidden
        embedded = Copy(read, dtype=self.dtype, out_elements=self.batch * positions)
        yield call(replace(embedded, axes=1 + 8 * (self.batch > 1)))
        yield from self.position()
        added = Elementwise(self.batch * positions, dtype=self.dtype, broadcast=positions)
        yield call(replace(added, axes=1 + (self.batch > 1)))
        yield free((self.batch + 1) * positions, self.dtype)

    def position(self) -> Iterator[Step]:
        """The table as it is, or its patch part resampled and the class token put before it."""
        if not self.resampled:
            yield Child("position_embedding", self.table)
            return
        learned, wanted = (self.pretrained_grid**2 * self.hidden, self.patches * self.hidden)
        yield from resample(learned, wanted, self.dtype)
        yield call(Copy(wanted + self.hidden, dtype=self.dtype))
        yield free(wanted, self.dtype)


@dataclass(frozen=True)
class ClipAttention(Layer):
    """Multi-head attention of all tokens with all tokens, four linear maps with biases."""

    mirrors = "UnlimitedOcrAttention, ViTAttention"
    batch: int
    tokens: int
    hidden: int
    heads: int
    output: str = "out_proj"
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        linear = Linear(self.batch * self.tokens, self.hidden, self.hidden, True, self.dtype)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield Child(name, linear)
        yield call(
            Attention(
                batch=self.batch,
                q_len=self.tokens,
                kv_len=self.tokens,
                heads=self.heads,
                kv_heads=self.heads,
                head_dim=self.hidden // self.heads,
                dtype=self.dtype,
            )
        )
        yield Child(self.output, linear)
        # Queries, keys, values and what attention made of them.
        yield free(4 * self.batch * self.tokens * self.hidden, self.dtype)


@dataclass(frozen=True)
class ClipLayer(Layer):
    """A pre-norm transformer block.

    ``names``: of the first norm, the attention, its last linear map and the second norm.
    """

    mirrors = "UnlimitedOcrEncoderLayer, ViTLayer"
    batch: int
    tokens: int
    hidden: int
    heads: int
    intermediate: int
    activation: str = "quick_gelu"
    names: tuple[str, str, str, str] = CLIP_NAMES
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        rows = self.batch * self.tokens
        norm1, attention, output, norm2 = self.names
        norm = LayerNorm(rows, self.hidden, self.dtype)
        residual = add(rows * self.hidden, self.dtype)
        names = ("fc1", "activation_fn", "fc2")
        dropped = free(rows * self.hidden, self.dtype)
        yield Child(norm1, norm)
        layer = ClipAttention(self.batch, self.tokens, self.hidden, self.heads, output, self.dtype)
        yield Child(attention, layer)
        yield dropped
        yield residual
        yield dropped
        yield Child(norm2, norm)
        mlp = Mlp(rows, self.hidden, self.intermediate, self.activation, names, self.dtype)
        yield Child("mlp", mlp)
        yield dropped
        yield residual
        yield dropped
        yield dropped


@dataclass(frozen=True)
class LayerStack(Layer):
    """Blocks one after the other, named ``layers.0``, ``layers.1``, ..., ``features`` between."""

    mirrors = "UnlimitedOcrEncoder"
    features: int
    blocks: tuple[Layer, ...]
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        for index, block in enumerate(self.blocks):
            yield Child(f"layers.{index}", block)
            # The first block's input belongs to the caller.
            if index > 0:
                yield free(self.features, self.dtype)


@dataclass(frozen=True)
class ClipEncoder(Layer):
    """[batch, hidden, grid, grid] features of SAM -> [batch, grid^2 + 1, hidden]."""

    mirrors = "UnlimitedOcrVisionEncoder"
    batch: int
    grid: int
    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    activation: str = "quick_gelu"
    pretrained_grid: int = 16
    patch: int = 14
    channels: int = 3
    dtype: str = "bfloat16"

    @property
    def tokens(self) -> Any:
        return self.grid * self.grid + 1

    def forward(self) -> Iterator[Step]:
        embeddings = ClipEmbeddings(
            self.batch,
            self.grid,
            self.hidden,
            self.pretrained_grid,
            self.patch,
            self.channels,
            self.dtype,
        )
        yield Child("embeddings", embeddings)
        # The name is misspelt in the published weights, and so in every implementation of them.
        norm = LayerNorm(self.batch * self.tokens, self.hidden, self.dtype)
        yield Child("pre_layrnorm", norm)
        features = self.batch * self.tokens * self.hidden
        yield free(features, self.dtype)
        blocks = (self.layer(),) * self.layers
        yield Child("encoder", LayerStack(features, blocks, self.dtype))
        yield free(features, self.dtype)

    def layer(self) -> ClipLayer:
        return ClipLayer(
            self.batch,
            self.tokens,
            self.hidden,
            self.heads,
            self.intermediate,
            self.activation,
            dtype=self.dtype,
        )
