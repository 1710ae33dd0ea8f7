"""Backbones of timm as those of ``transformers``, where timm is not installed.

A detector's configuration names the network that it looks with by timm's name. Residual networks
``transformers`` has itself, of the same layers and dimensions.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

RESNETS = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
"""Kind of layer, and layers of each of the four stages (He et al., 2015, table 1)."""
WIDTHS = {"basic": [64, 128, 256, 512], "bottleneck": [256, 512, 1024, 2048]}
"""Channels of the four stages."""


def with_own_backbone(config: Any) -> Any:
    """``config`` with a network of ``transformers`` in place of timm's, if that cannot be had."""
    inner: Any = getattr(config, "backbone_config", None)
    if getattr(inner, "model_type", None) != "timm_backbone" or find_spec("timm"):
        return config
    name = str(inner.backbone).split(".")[0]
    if name not in RESNETS:
        return config
    from transformers import ResNetConfig

    kind, depths = RESNETS[name]
    stages = [f"stage{n}" for n in range(1, 5)]
    indices = [n % 5 for n in (inner.out_indices or [-1])]
    given: dict[str, Any] = {
        "num_channels": getattr(inner, "num_channels", 3),
        "layer_type": kind,
        "depths": depths,
        "hidden_sizes": WIDTHS[kind],
        "out_features": [stages[n - 1] for n in indices if n > 0] or stages[-1:],
    }
    config.backbone_config = ResNetConfig(**given)
    return config
