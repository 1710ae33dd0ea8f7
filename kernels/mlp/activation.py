"""What a product may end with: activations of the float32 accumulator, before its one store.

gelu        0.5 x (1 + erf(x / sqrt 2))      the exact one
quick_gelu  x sigmoid(1.702 x)               CLIP's
silu        x sigmoid(x)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

ACTIVATIONS = (None, "gelu", "quick_gelu", "silu")


def activation_reference(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """One of ``ACTIVATIONS`` of ``x``, elementwise."""
    if activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return getattr(functional, activation)(x) if activation else x


@triton.jit
def erf(b_x):
    """To 1.5e-7 (Abramowitz and Stegun, 7.1.26); the library's takes so many registers that the
    largest tiles would spill."""
    b_t = 1.0 / (1.0 + 0.3275911 * tl.abs(b_x))
    b_p = b_t * (1.421413741 + b_t * (-1.453152027 + b_t * 1.061405429))
    b_p = b_t * (0.254829592 + b_t * (-0.284496736 + b_p))
    b_e = 1.0 - b_p * tl.exp(-b_x * b_x)
    return tl.where(b_x < 0.0, -b_e, b_e)


@triton.jit
def activate(b_y, ACTIVATION: tl.constexpr):
    if ACTIVATION == "gelu":
        b_y = 0.5 * b_y * (1.0 + erf(b_y * 0.7071067811865476))
    elif ACTIVATION == "quick_gelu":
        b_y = b_y * tl.sigmoid(1.702 * b_y)
    elif ACTIVATION == "silu":
        b_y = b_y * tl.sigmoid(b_y)
    return b_y
