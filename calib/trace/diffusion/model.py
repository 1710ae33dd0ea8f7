"""A configuration of ``diffusers``: the model that is asked at every step of denoising.

The class is one that the library itself exports; what the file says beyond the arguments of its
constructor is left out, and nothing is fetched.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, shown
from calib.trace.hf.guard import KEY
from calib.trace.hf.model import HFModel
from model.parallel import Layout, LayoutError
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import torch

NAMED = "_class_name"
"""The key that names the class."""
SHOWN = ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim")


class Denoiser(HFModel):
    """A class of ``diffusers``; ``config``: the arguments of its constructor."""

    @property
    def dimensions(self) -> dict[str, Any]:
        known = {n: self.config[n] for n in SHOWN if isinstance(self.config.get(n), int)}
        return {
            "model_type": "diffusion",
            "class": self.kind.__name__,
            **known,
            "dtype": self.dtype,
        }

    def formulas(self, workload: Workload) -> dict[str, Phase]:
        return {}

    def on_cards(self, layout: Layout, others: tuple[int, int]) -> HFModel:
        raise LayoutError(*layout.first, "1 for a model of diffusers")

    def _made(self) -> torch.nn.Module:
        made: torch.nn.Module = self.kind(**self.config).eval()
        return made


def class_and_arguments(file: Path, given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """Raises ``CalibError`` where the library is missing, or has no such model."""
    named, library = given[NAMED], _library(file)
    known = [n for n in library._import_structure["models"] if not n.startswith("AutoModel")]
    kind = getattr(library, named, None) if named in known else None
    if not isinstance(kind, type) or not issubclass(kind, library.ModelMixin):
        raise CalibError(
            f"{KEY} = {file}: {NAMED} = {shown(named)}: expected a model of diffusers, such as "
            "UNet2DConditionModel or FluxTransformer2DModel"
        )
    takes = inspect.signature(kind).parameters
    return kind, {name: value for name, value in given.items() if name in takes}


def _library(file: Path) -> ModuleType:
    try:
        import diffusers
    except ImportError:
        raise CalibError(
            f"{KEY} = {file}: it names a model of diffusers, which is not installed: expected "
            "pip install 'calib[diffusion]'"
        ) from None
    library: ModuleType = diffusers
    return library
