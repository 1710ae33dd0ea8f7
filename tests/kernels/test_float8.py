"""Products of float8: what the sums are kept in, and what the result is written in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_cases import assert_near

from kernels import mlp
from kernels.configs.candidates import Tile

ROOT = Path(__file__).parents[2]
FLOAT8 = torch.float8_e4m3fn
DIGITS = 14
"""Significant bits of a running sum in Hopper's matrix unit (DeepSeek-V3, arXiv 2412.19437, 3.3.2:
"around 14"); one instruction adds 32 products."""
AT_ONCE = 32

COMPILE = """
import torch
from kernels.launch import ARCHITECTURES
from kernels.mlp.product import linear_launches
from kernels.resources import compile_for
x = torch.empty(512, 1280, dtype=getattr(torch, {dtype!r}), device="meta")
o = torch.empty(512, 512, dtype=torch.bfloat16, device="meta")
card = ARCHITECTURES["sm_90"]
(launch,) = linear_launches(x, x, None, o, None, card)
print(launch.arguments["BK"], compile_for(launch, card).asm["ttgir"].replace("\\n", " "))
"""


def draw8(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(FLOAT8)


def rounded(sums: np.ndarray) -> np.ndarray:
    """Cut to ``DIGITS`` significant bits."""
    mantissa, exponent = np.frexp(sums)
    return np.ldexp(np.trunc(np.ldexp(mantissa, DIGITS)), exponent - DIGITS)


def summed(terms: np.ndarray, step: int) -> np.ndarray:
    """[n, K] summed in the matrix unit for ``step`` of K at a time, the steps in float32."""
    total = np.zeros(len(terms), np.float32)
    for start in range(0, terms.shape[1], step):
        inside = np.zeros(len(terms))
        for one in range(start, min(start + step, terms.shape[1]), AT_ONCE):
            inside = rounded(inside + terms[:, one : one + AT_ONCE].sum(1))
        total += inside.astype(np.float32)
    return total


def test_steps_keep_the_error_of_a_long_sum_small() -> None:
    """8,192 products of one sign, whose cuts all fall on one side. One run through the unit is off
    by more than a rounding of the bfloat16 that it is written in; steps of 128 by a tenth of one.
    """
    x, w = (draw8(50, 8192, seed=s).float().abs().numpy() for s in (1, 2))
    terms = (x * w).astype(np.float64)
    exact = terms.sum(1)
    whole, steps = (np.abs(summed(terms, k) / exact - 1).max() for k in (8192, 128))
    assert whole > 1.5 * 2.0**-8
    assert steps < 0.1 * 2.0**-8


def test_float8_holds_no_sum_of_many_products() -> None:
    """Why the result is in bfloat16: some sums of 8,192 products lie beyond the largest float8,
    and the rest would be off by a sixteenth."""
    x, w = draw8(2000, 8192, seed=1).float(), draw8(2000, 8192, seed=2).float()
    assert (x @ w.T).abs().max() > torch.finfo(FLOAT8).max
    assert mlp.operands.result_dtype(x.to(FLOAT8)) == torch.bfloat16


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("rows", [2, 33])
def test_a_product_of_float8(rows: int, device: str) -> None:
    x, w = (draw8(n, 144, seed=n).to(device) for n in (rows, 45))
    got = mlp.linear(x, w, tile=None if rows == 2 else Tile(16, 32, 16))
    assert got.dtype == torch.bfloat16
    assert_near(got, mlp.linear_reference(x, w))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16"])
def test_the_step_reaches_the_compiled_kernel(dtype: str) -> None:
    """Compiled for a Hopper that is not here, in a process without the interpreter."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE.format(dtype=dtype)]
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    step, text = done.stdout.split(" ", 1)
    assert "warp_group_dot" in text
    bounded = f"maxNumImpreciseAcc = {step} " in text
    assert bounded == (dtype == "float8_e4m3fn")
