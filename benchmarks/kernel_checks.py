"""Whether a kernel's result is right, beside the truth in float32, for any of its contenders."""

from __future__ import annotations

import torch

from benchmarks.kernel_cases import Outcome, Run

ROUNDING = 2.0**-8
"""Of bfloat16; a checked output may be off by 16 of them, relative to the result's size."""


def check(run: Run, reference: Outcome) -> None:
    """Raises ``ValueError`` where an output has a hole or is off by more than its rounding.

    An element may be off by 16 roundings of its own size, and of the size of the whole result or of
    its row, whichever is larger. Of its row, since an error has the size of the terms that were
    summed, and those of a row are alike: the gradient of an early key under a causal mask is a sum
    over all later queries, tens of times as large as that of a late one. By the whole result alone,
    torch's own flash and cuDNN attention were refused for one element of eight millions.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    try:
        outputs = run()
    finally:
        torch.use_deterministic_algorithms(False)
    for got, want in zip(several(outputs), several(reference), strict=True):
        wrong = ~((got.float() - want).abs() <= allowance(want))
        if wrong.any():
            raise ValueError(f"{int(wrong.sum())} of {wrong.numel()} elements are wrong")


def allowance(want: torch.Tensor) -> torch.Tensor:
    """By how much each element may be off, see :func:`check`."""
    squares = want.float().square()
    size = torch.maximum(squares.mean(), squares.mean(-1, keepdim=True)).sqrt()
    return 16 * ROUNDING * (want.abs() + size)


def several(outputs: Outcome) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
