"""A vision transformer that classifies images (Dosovitskiy et al., arXiv:2010.11929)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from model.causal_lm import check_dimensions
from model.clip import ClipLayer
from model.layer import Call, Child, Layer, Step, call, free
from model.linear import LayerNorm, Linear
from model.ops import Copy, Elementwise
from model.sam import SamPatchEmbed
from model.workload import Phase, Workload

VIT_NAMES = ("layernorm_before", "attention", "o_proj", "layernorm_after")


@dataclass(frozen=True)
class VitEmbeddings(Layer):
    """Embedded patches after a class token, and learned positions added."""

    mirrors = "ViTEmbeddings"
    patches: SamPatchEmbed

    @property
    def positions(self) -> Any:
        """Elements of the table of positions."""
        embed = self.patches
        return ((embed.side // embed.patch) ** 2 + 1) * embed.hidden

    def parameters(self) -> Any:
        return self.patches.hidden + self.positions

    def parameter_dtype(self) -> str:
        return self.patches.dtype

    def forward(self) -> Iterator[Step]:
        embed = self.patches
        yield Child("patch_embeddings", embed)
        whole = embed.batch * self.positions
        embedded = whole - embed.batch * embed.hidden
        joined = Copy(embedded + embed.hidden, dtype=embed.dtype, out_elements=whole)
        # Patches come channel by channel.
        yield call(replace(joined, transposed=True, axes=9))
        yield free(embedded, embed.dtype)
        added = Elementwise(whole, dtype=embed.dtype, broadcast=self.positions)
        yield call(replace(added, axes=1 + (embed.batch > 1)))
        yield free(whole, embed.dtype)


@dataclass(frozen=True)
class VitEncoder(Layer):
    """Embeddings, blocks and the last norm."""

    mirrors = "ViTModel"
    embeddings: VitEmbeddings
    blocks: tuple[ClipLayer, ...]

    def forward(self) -> Iterator[Step]:
        block = self.blocks[0]
        rows, features = block.batch * block.tokens, block.batch * block.tokens * block.hidden
        yield Child("embeddings", self.embeddings)
        for index, layer in enumerate(self.blocks):
            yield Child(f"layers.{index}", layer)
            # The first layer's input is held to the end, and so is the last one's result.
            if index > 0:
                yield free(features, block.dtype)
        yield Child("layernorm", LayerNorm(rows, block.hidden, block.dtype))
        yield free(2 * features, block.dtype)


@dataclass(frozen=True)
class VitClassifier(Layer):
    """The root: classes from the class token."""

    mirrors = "ViTForImageClassification"
    vit: VitEncoder
    classifier: Linear

    def forward(self) -> Iterator[Step]:
        yield Child("vit", self.vit)
        yield Child("classifier", self.classifier)


@dataclass(frozen=True, kw_only=True)
class Vit:
    """Dimensions; by default those of ViT-L/16 on images of 224 pixels, 1000 classes."""

    divided: ClassVar[tuple[tuple[str, str], ...]] = (("hidden", "heads"),)

    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    intermediate: int = 4096
    side: int = 224
    patch: int = 16
    channels: int = 3
    classes: int = 1000
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        check_dimensions(self, ())
        if self.side % self.patch:
            raise ValueError(f"side = {self.side}: expected a multiple of patch = {self.patch}")

    def vision(self, side: int = 224, batch: Any = 1) -> list[Call]:
        return self.vision_layer(side, batch).calls()

    def vision_layer(self, side: int = 224, batch: Any = 1) -> Layer:
        """Raises ``ValueError`` for images of another side than the positions were learned for."""
        if side != self.side:
            raise ValueError(f"side = {side}: expected {self.side}, as positions were learned for")
        tokens = (side // self.patch) ** 2 + 1
        embed = SamPatchEmbed(batch, side, self.patch, self.channels, self.hidden, self.dtype)
        block = ClipLayer(
            batch,
            tokens,
            self.hidden,
            self.heads,
            self.intermediate,
            activation="gelu",
            names=VIT_NAMES,
            dtype=self.dtype,
        )
        encoder = VitEncoder(VitEmbeddings(embed), (block,) * self.layers)
        head = Linear(batch, self.hidden, self.classes, bias=True, dtype=self.dtype)
        return VitClassifier(encoder, head)

    def phases(self, workload: Workload, routing: None = None) -> dict[str, Phase]:
        """One pass over the image; a workload without one has the side of the model."""
        side = self.side if workload.side is None else workload.side
        return {"vision": Phase(self.vision_layer(side, workload.batch))}

    def parameters(self) -> int:
        return sum(self.component_parameters().values())

    def component_parameters(self) -> dict[str, int]:
        root = self.vision_layer(self.side)
        parts = {**root.children()["vit"].children(), **root.children()}
        layers = sum(p.weight_parameters() for n, p in parts.items() if n.startswith("layers."))
        named = {n: parts[n].weight_parameters() for n in ("embeddings", "layernorm", "classifier")}
        return {**named, "layers": layers}
