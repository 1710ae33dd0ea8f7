"""Linear layers, SwiGLU and experts against torch in float32, at sizes no tile divides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw
from torch.nn import functional

from kernels import mlp
from kernels.configs.candidates import Tile
from kernels.launch import ARCHITECTURES
from kernels.mlp.few_rows import VECTOR_ROWS
from kernels.mlp.operands import can_bulk

pytestmark = pytest.mark.usefixtures("poisoned")

SMALL = Tile(16, 32, 16)
"""Small enough that odd sizes need several tiles along every side."""
BF16 = torch.bfloat16
full = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
@pytest.mark.parametrize("k", [71, 72])  # by pointers; by descriptor, whose rows are of 16 bytes
def test_linear(dtype: torch.dtype, activation: str | None, k: int, device: str) -> None:
    x = draw(33, k, dtype=dtype, device=device)
    weight, bias = (draw(*s, dtype=dtype, device=device) for s in ((45, k), (45,)))
    got = mlp.linear(x, weight, bias, activation, SMALL)
    assert_near(got, mlp.linear_reference(x, weight, bias, activation))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 130])
def test_linear_as_picked(rows: int, device: str) -> None:
    """No tile given: few rows to the vector kernel, many to tensor cores; leading dimensions."""
    x = draw(2, rows, 40, dtype=torch.float16, device=device)[:1]
    weight = draw(77, 40, dtype=torch.float16, device=device)
    assert_near(mlp.linear(x, weight), mlp.linear_reference(x, weight))


def test_linear_takes_any_stride(device: str) -> None:
    x = draw(72, 33, dtype=torch.float16, device=device).T
    weight = draw(72, 90, dtype=torch.float16, device=device).T[::2]
    assert_near(mlp.linear(x, weight, tile=SMALL), mlp.linear_reference(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [71, 72])
@pytest.mark.parametrize("splits", [3, 7])  # K is 5 steps of 16: of 7 parts some have none
def test_linear_split_over_programs(dtype: torch.dtype, k: int, splits: int, device: str) -> None:
    x = draw(33, k, dtype=dtype, device=device)
    weight, bias = (draw(*s, dtype=dtype, device=device) for s in ((45, k), (45,)))
    got = mlp.linear(x, weight, bias, "quick_gelu", replace(SMALL, splits=splits))
    assert_near(got, mlp.linear_reference(x, weight, bias, "quick_gelu"))


def test_parameters_take_any_stride(device: str) -> None:
    """A bias out of a fused parameter, ends out of a table of counts."""
    x, weight = (draw(*s, dtype=torch.float16, device=device) for s in ((9, 24), (13, 24)))
    bias = draw(39, dtype=torch.float16, device=device)[::3]
    for rows in (2, 9):
        got = mlp.linear(x[:rows], weight, bias)
        assert_near(got, mlp.linear_reference(x[:rows], weight, bias))
    ends = torch.tensor([[4, 0], [9, 0]], dtype=torch.int32, device=device)[:, 0]
    both = torch.stack([weight, -weight])
    assert_near(mlp.grouped_linear(x, both, ends), mlp.grouped_reference(x, both, ends))


def test_rows_that_are_one_row(device: str) -> None:
    """``expand`` makes rows of stride 0, which pass for aligned and which no descriptor takes."""
    x = draw(1, 72, dtype=torch.float16, device=device).expand(33, 72)
    weight = draw(45, 72, dtype=torch.float16, device=device)
    assert not can_bulk(ARCHITECTURES["sm_90"], x)
    assert_near(mlp.linear(x, weight, tile=SMALL), mlp.linear_reference(x, weight))


def test_descriptors_are_used_where_rows_are_aligned(device: str) -> None:
    """Guards the two cases of ``test_linear`` against testing the same path twice."""
    aligned, odd = (draw(33, k, dtype=torch.float16, device=device) for k in (72, 71))
    assert can_bulk(ARCHITECTURES["sm_90"], aligned)
    assert not can_bulk(ARCHITECTURES["sm_90"], odd)
    assert not can_bulk(ARCHITECTURES["sm_80"], aligned)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 4])
def test_vector(dtype: torch.dtype, rows: int, device: str) -> None:
    x = draw(rows, 1031, dtype=dtype, device=device)
    weight, bias = (draw(*s, dtype=dtype, device=device) for s in ((13, 1031), (13,)))
    got = mlp.linear(x, weight, bias, "silu")
    assert_near(got, mlp.linear_reference(x, weight, bias, "silu"), products=False)


def test_gelu_is_the_exact_one(device: str) -> None:
    """One times each of a line of weights: the activation alone, to the precision of its erf."""
    line = torch.linspace(-6, 6, 241, device=device)
    got = mlp.linear(torch.ones(1, 1, device=device), line[:, None], activation="gelu")[0]
    torch.testing.assert_close(got, functional.gelu(line), atol=6e-7, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, k", [(33, 71), (33, 72), (2, 71)])
def test_swiglu_of_the_halves_of_one_weight(
    dtype: torch.dtype, rows: int, k: int, device: str
) -> None:
    x = draw(rows, k, dtype=dtype, device=device) / k**0.5
    gate, up = draw(90, k, dtype=dtype, device=device).chunk(2)
    got = mlp.swiglu(x, gate, up, SMALL if rows > VECTOR_ROWS else None)
    assert_near(got, mlp.swiglu_reference(x, gate, up))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [71, 72])
def test_grouped_with_idle_experts(dtype: torch.dtype, k: int, device: str) -> None:
    ends = torch.tensor([0, 5, 5, 23, 40, 41, 41], dtype=torch.int32, device=device)
    x = draw(41, k, dtype=dtype, device=device)
    weight = draw(7, 45, k, dtype=dtype, device=device)
    got = mlp.grouped_linear(x, weight, ends, SMALL)
    assert_near(got, mlp.grouped_reference(x, weight, ends))


def test_grouped_all_rows_to_one_expert(device: str) -> None:
    ends = torch.tensor([0, 0, 37], dtype=torch.int32, device=device)
    x = draw(37, 24, dtype=torch.float16, device=device)
    weight = draw(3, 24, 40, dtype=torch.float16, device=device).mT
    weight = weight[:, :, :24]
    assert_near(mlp.grouped_linear(x, weight, ends), mlp.grouped_reference(x, weight, ends))


def test_bad_input_is_named(device: str) -> None:
    x, weight = draw(3, 8, dtype=BF16, device=device), draw(5, 9, dtype=BF16, device=device)
    with pytest.raises(ValueError, match=r"weight: \(5, 9\).*expected \(N, 8\)"):
        mlp.linear(x, weight)
    with pytest.raises(ValueError, match=r"activation = 'relu'.*expected one of"):
        mlp.linear(x, weight[:, :8], activation="relu")
    with pytest.raises(ValueError, match=r"bias: \(4,\), expected \(5,\)"):
        mlp.linear(x, weight[:, :8], x.new_empty(4))
    with pytest.raises(ValueError, match=r"up: \(4, 8\), expected the shape of gate \(5, 8\)"):
        mlp.swiglu(x, weight[:, :8], weight[:4, :8])
    with pytest.raises(ValueError, match=r"expected \[rows, K\] and \[experts, N, K\]"):
        mlp.grouped_linear(x, weight[:, :8], torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"ends: .*expected \(2,\) torch.int32"):
        mlp.grouped_linear(x, torch.stack([weight[:, :8]] * 2), torch.tensor([1, 3]))


@full
@pytest.mark.parametrize(
    "m, n, k",
    [(1, 6848, 1280), (8, 1280, 6848), (73, 1280, 1283), (283, 1280, 6848), (4096, 3072, 768)],
)
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_linear_full_size(m: int, n: int, k: int, activation: str, device: str) -> None:
    x, weight = draw(m, k, dtype=BF16, device=device), draw(n, k, dtype=BF16, device=device)
    bias = draw(n, dtype=BF16, device=device)
    got = mlp.linear(x, weight, bias, activation)
    assert_near(got, mlp.linear_reference(x, weight, bias, activation))


@full
@pytest.mark.parametrize("m", [1, 493, 4096])
def test_swiglu_full_size(m: int, device: str) -> None:
    x = draw(m, 1280, dtype=BF16, device=device) / 1280**0.5
    gate, up = draw(2 * 6848, 1280, dtype=BF16, device=device).chunk(2)
    assert_near(mlp.swiglu(x, gate, up), mlp.swiglu_reference(x, gate, up))


@full
def test_grouped_full_size(device: str) -> None:
    counts = torch.randint(0, 93, (64,), generator=torch.Generator().manual_seed(0))
    ends = counts.cumsum(0).to(torch.int32).to(device)
    x = draw(int(counts.sum()), 1280, dtype=BF16, device=device)
    weight = draw(64, 1792, 1280, dtype=BF16, device=device)
    got = mlp.grouped_linear(x, weight, ends)
    assert_near(got, mlp.grouped_reference(x, weight, ends))
