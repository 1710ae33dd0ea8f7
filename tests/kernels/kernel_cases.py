"""What the tests of the kernels share: random operands, and how near is near enough.

The dtypes are float32 and float16 under the interpreter: its bfloat16 ``tl.dot`` gives wrong
products in triton 3.7 and 3.9, so bfloat16 is for the device (marker ``gpu``).
"""

from __future__ import annotations

import torch

DTYPES = [torch.float32, torch.float16]
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
TF32_ROUNDING = 2.0**-11


def draw(*shape: int, dtype: torch.dtype, device: str, seed: int = 0) -> torch.Tensor:
    """Standard normal, the same on every device."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def assert_near(got: torch.Tensor, want: torch.Tensor, products: bool = True) -> None:
    """Within six roundings of the result's size, everywhere, and no hole left.

    An entry may be near zero as the sum of large ones, so the root mean square of the reference
    is added to its size. ``products``: on a GPU float32 factors are multiplied as tf32. Sums of
    float32 in another order than the reference's take the rest of 1e-5.
    """
    assert got.shape == want.shape
    assert torch.isfinite(got).all(), "not finite: an element was not written"
    rounding = ROUNDING[got.dtype]
    if got.dtype == torch.float32 and products and got.is_cuda:
        rounding = TF32_ROUNDING
    limit = max(6 * rounding, 1e-5) * (want.abs() + want.square().mean().sqrt())
    excess = ((got.float() - want).abs() - limit).max().item()
    assert excess <= 0, f"beyond the limit by {excess:.3g}"
