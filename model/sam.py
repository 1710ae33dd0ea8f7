"""SAM's ViT-B encoder as DeepSeek-OCR uses it: windowed and global blocks, neck, net_2, net_3.

An image of ``side`` pixels becomes a grid of (side / 16)^2 patches. Eight of twelve blocks attend
within windows of 14 x 14, the grid zero-padded to a multiple of 14 (attention and its projections
work on the padded grid, the MLP does not); four attend globally. Every block adds a relative
position bias that is the sum of a term for rows and one for columns, materialised for all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Child, Layer, Step, call, free, when
from model.linear import Convolution, LayerNorm, Linear, Mlp, add, cast
from model.ops import Attention, Copy, Elementwise, Gather, Matmul, Other, item_bytes


@dataclass(frozen=True)
class SamAttention(Layer):
    """Attention over ``batch`` square grids of ``grid`` x ``grid`` tokens with decomposed bias.

    ``table_grid``: the grid that the relative position tables [2 * table_grid - 1, head_dim] were
    learned for; they are resampled to ``grid``. ``batch`` counts windows where there are any.
    A single grid needs fewer copies, since views of it stay regular.
    """

    mirrors = "UnlimitedOcrSamVisionSdpaAttention"
    batch: int
    grid: int
    hidden: int
    heads: int
    table_grid: int
    dtype: str = "bfloat16"

    @property
    def tokens(self) -> Any:
        return self.grid * self.grid

    @property
    def head_dim(self) -> Any:
        return self.hidden // self.heads

    @property
    def features(self) -> Any:
        """Elements of the queries (or of the keys, the values, the result)."""
        return self.batch * self.tokens * self.hidden

    @property
    def pairs(self) -> Any:
        """Elements of the bias: all pairs of tokens of a grid, for every head."""
        return self.batch * self.heads * self.tokens * self.tokens

    def parameters(self) -> Any:
        return 2 * (2 * self.table_grid - 1) * self.head_dim

    def forward(self) -> Iterator[Step]:
        rows = self.batch * self.tokens
        yield Child("qkv", Linear(rows, self.hidden, 3 * self.hidden, True, self.dtype))
        yield from when(self.batch > 1, call(Copy(3 * self.features, dtype=self.dtype, axes=5)))
        yield from self.position_table()
        yield from self.position_table()
        yield from self.position_bias()
        yield call(
            Attention(
                batch=self.batch,
                q_len=self.tokens,
                kv_len=self.tokens,
                heads=self.heads,
                kv_heads=self.heads,
                head_dim=self.head_dim,
                dtype=self.dtype,
                bias=True,
            )
        )
        joined = (
            call(Copy(self.features, dtype=self.dtype, axes=4)),
            free(self.features, self.dtype),
        )
        yield from when(self.batch > 1, *joined)
        yield Child("proj", Linear(rows, self.hidden, self.hidden, True, self.dtype))
        # Queries, keys and values, perhaps twice; the result of attention; the bias.
        copies = 1 + (self.batch > 1)
        yield free((3 * copies + 1) * self.features + self.pairs, self.dtype)

    def position_table(self) -> Iterator[Step]:
        """One axis: the table resampled, then a row of it for each (query, key) offset."""
        grid, item = self.grid, item_bytes(self.dtype)
        resampled = (2 * grid - 1) * self.head_dim
        learned = (2 * self.table_grid - 1) * self.head_dim
        yield call(
            Other(
                "upsample_linear1d",
                read=learned * item,
                written=resampled * item,
                arithmetic=3 * resampled,
                dtype=self.dtype,
            )
        )
        offsets = grid * grid
        for _ in range(2):
            yield call(Other("arange", written=grid * item_bytes("int64"), dtype="int64"))
            yield call(Elementwise(grid, dtype="int64", out_dtype="float32"))
            yield free(grid, "int64")
        difference = Elementwise(offsets, inputs=0, broadcast=2 * grid, dtype="float32", axes=2)
        yield call(difference, gradient="none")
        yield call(Elementwise(offsets, dtype="float32"), gradient="none")
        yield free(offsets, "float32")
        yield call(Copy(offsets, dtype="float32", out_dtype="int64"), gradient="none")
        yield call(Gather(offsets, self.head_dim, dtype=self.dtype))
        yield free(offsets, "int64")
        yield free(offsets + 2 * grid, "float32")
        yield free(resampled, self.dtype)

    def position_bias(self) -> Iterator[Step]:
        """Queries against both tables, then their outer sum: a value for each pair of tokens."""
        term = Matmul(
            m=self.batch * self.heads * self.grid,
            n=self.grid,
            k=self.head_dim,
            batch=self.grid,
            dtype=self.dtype,
        )
        # Queries are copied into order; those of several grids lie right for the second axis.
        axes = 4 - (self.batch > 1)
        for copied in (True, self.batch == 1):
            yield from when(copied, call(Copy(self.features, dtype=self.dtype, axes=axes)))
            yield call(term)
            yield from when(copied, free(self.features, self.dtype))
        terms = 2 * self.batch * self.heads * self.tokens * self.grid
        yield call(Elementwise(self.pairs, 0, dtype=self.dtype, broadcast=terms, axes=5))
        yield free(terms + 2 * self.tokens * self.head_dim, self.dtype)
        yield call(Copy(self.pairs, dtype=self.dtype, axes=3))
        yield free(self.pairs, self.dtype)


@dataclass(frozen=True)
class SamLayer(Layer):
    """A transformer block on ``batch`` grids; ``window`` = 0 attends over the whole grid."""

    mirrors = "UnlimitedOcrSamVisionLayer"
    batch: int
    grid: int
    hidden: int
    heads: int
    intermediate: int
    window: int
    table_grid: int
    dtype: str = "bfloat16"

    @property
    def tokens(self) -> Any:
        return self.batch * self.grid * self.grid

    @property
    def windows(self) -> Any:
        """Windows along one side of the padded grid."""
        return -(-self.grid // self.window)

    @property
    def padded(self) -> Any:
        """Tokens of the padded grids."""
        return self.batch * (self.windows * self.window) ** 2

    def forward(self) -> Iterator[Step]:
        """The residual stream lies channel by channel in memory, as the patches' convolution left
        it: a sum takes the layout of its first term, so every norm and sum here sees it."""
        elements = self.tokens * self.hidden
        norm = LayerNorm(self.tokens, self.hidden, self.dtype, transposed=True)
        residual = add(elements, self.dtype, transposed=True, axes=2 + (self.batch > 1))
        yield Child("layer_norm1", norm)
        yield from self.windowed_attention() if self.window else self.global_attention()
        yield residual
        yield free(elements, self.dtype)
        yield Child("layer_norm2", norm)
        yield Child("mlp", Mlp(self.tokens, self.hidden, self.intermediate, dtype=self.dtype))
        yield residual
        # The first sum, the second norm and the MLP's result.
        yield free(3 * elements, self.dtype)

    def global_attention(self) -> Iterator[Step]:
        yield Child("attn", self.attention(self.batch, self.grid))
        yield free(self.tokens * self.hidden, self.dtype)

    def windowed_attention(self) -> Iterator[Step]:
        """Pad, partition, attend, put together again, crop."""
        whole, padded = self.tokens * self.hidden, self.padded * self.hidden
        yield call(Copy(whole, dtype=self.dtype, out_elements=padded, axes=2))
        yield call(Copy(padded, dtype=self.dtype, axes=4))
        yield free(whole + padded, self.dtype)
        yield Child("attn", self.attention(self.batch * self.windows**2, self.window))
        yield free(padded, self.dtype)
        yield call(Copy(padded, dtype=self.dtype, axes=4))
        if self.windows * self.window != self.grid:
            yield call(Copy(whole, dtype=self.dtype, axes=2 + (self.batch > 1)))
            yield free(padded, self.dtype)
        yield free(padded, self.dtype)

    def attention(self, batch: Any, grid: Any) -> SamAttention:
        return SamAttention(batch, grid, self.hidden, self.heads, self.table_grid, self.dtype)


@dataclass(frozen=True)
class SamPatchEmbed(Layer):
    """Patches of ``patch`` x ``patch`` pixels, embedded by one strided convolution."""

    mirrors = "UnlimitedOcrSamPatchEmbeddings, ViTPatchEmbeddings"
    batch: int
    side: int
    patch: int
    channels: int
    hidden: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        convolution = Convolution(
            self.batch,
            self.channels,
            self.hidden,
            self.side,
            kernel=self.patch,
            stride=self.patch,
            bias=True,
            dtype=self.dtype,
            first=True,
        )
        yield Child("projection", convolution)


@dataclass(frozen=True)
class SamNeck(Layer):
    """1 x 1 and 3 x 3 convolutions to ``channels``, each followed by a norm over channels."""

    mirrors = "UnlimitedOcrSamVisionNeck"
    batch: int
    grid: int
    hidden: int
    channels: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        batch, grid, channels, dtype = self.batch, self.grid, self.channels, self.dtype
        norm = LayerNorm(batch * grid * grid, channels, dtype)
        dropped = free(batch * grid * grid * channels, dtype)
        yield Child("conv1", Convolution(batch, self.hidden, channels, grid, 1, dtype=dtype))
        yield Child("layer_norm1", replace(norm, transposed=True))
        yield dropped
        conv2 = Convolution(batch, channels, channels, grid, kernel=3, padding=1, dtype=dtype)
        yield Child("conv2", conv2)
        yield dropped
        yield Child("layer_norm2", norm)
        yield dropped


@dataclass(frozen=True)
class SamDownsample(Layer):
    """net_2 and net_3: two 3 x 3 convolutions of stride 2, a quarter of the tokens each."""

    mirrors = "UnlimitedOcrSamVisionProj"
    batch: int
    grid: int
    channels: int
    downsample: tuple[int, int]
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        middle, last = self.downsample
        yield Child("conv1", self.halving(self.channels, middle, self.grid))
        half = self.grid // 2
        yield Child("conv2", self.halving(middle, last, half))
        yield free(self.batch * middle * half * half, self.dtype)

    def halving(self, inputs: int, outputs: int, grid: Any) -> Convolution:
        return Convolution(
            self.batch, inputs, outputs, grid, kernel=3, stride=2, padding=1, dtype=self.dtype
        )


@dataclass(frozen=True)
class SamEncoder(Layer):
    """``batch`` images of ``side`` pixels -> [batch, downsample[-1], side / 64, side / 64]."""

    mirrors = "UnlimitedOcrSamVisionEncoder"
    batch: int
    side: int
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    channels: int = 3
    patch: int = 16
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    pretrained_side: int = 1024
    neck: int = 256
    downsample: tuple[int, int] = (512, 1024)
    dtype: str = "bfloat16"

    @property
    def grid(self) -> Any:
        return self.side // self.patch

    @property
    def table_grid(self) -> int:
        return self.pretrained_side // self.patch

    def parameters(self) -> Any:
        """The absolute position of each patch of the grid it was trained on."""
        return self.table_grid**2 * self.hidden

    def forward(self) -> Iterator[Step]:
        batch, grid, dtype = self.batch, self.grid, self.dtype
        embed = SamPatchEmbed(batch, self.side, self.patch, self.channels, self.hidden, dtype)
        yield Child("patch_embed", embed)
        yield from self.position()
        dropped = free(batch * grid * grid * self.hidden, dtype)
        for index in range(self.layers):
            yield Child(f"layers.{index}", self.layer(index))
            yield dropped
        yield Child("neck", SamNeck(batch, grid, self.hidden, self.neck, dtype))
        yield dropped
        yield Child("proj", SamDownsample(batch, grid, self.neck, self.downsample, dtype))
        yield free(batch * grid * grid * self.neck, dtype)

    def layer(self, index: int) -> SamLayer:
        window = 0 if index in self.global_layers else self.window
        return SamLayer(
            self.batch,
            self.grid,
            self.hidden,
            self.heads,
            self.intermediate,
            window,
            table_grid=window or self.table_grid,
            dtype=self.dtype,
        )

    def position(self) -> Iterator[Step]:
        """Absolute positions, resampled where the grid is not the one of training, then added."""
        elements = self.grid**2 * self.hidden
        if self.grid != self.table_grid:
            yield from resample(self.table_grid**2 * self.hidden, elements, self.dtype)
        total, dtype = self.batch * elements, self.dtype
        added = Elementwise(total, dtype=dtype, broadcast=elements, transposed=True)
        yield call(replace(added, axes=2 + (self.batch > 1)))
        yield free(self.batch * elements, self.dtype)
        if self.grid != self.table_grid:
            yield free(elements, self.dtype)


def resample(learned: Any, wanted: Any, dtype: str) -> Iterator[Step]:
    """Bicubic, antialiased, in float32: separable filters of some 4 taps an axis and element."""
    yield from cast(learned, dtype, "float32")
    item = item_bytes("float32")
    filtered = Other(
        "upsample_bicubic2d",
        read=learned * item,
        written=wanted * item,
        arithmetic=16 * wanted,
        dtype="float32",
    )
    yield call(filtered)
    if dtype != "float32":
        yield free(learned, "float32")
        yield call(Copy(wanted, "float32", dtype))
        yield free(wanted, "float32")
