"""Offsets beyond 2^31 elements, and launches of more programs than the grid's short axes hold.

A tensor of few elements can lie over many: heads, columns or channels 2^30 apart. An offset kept in
32 bits comes out 2^32 too low, which here is memory that holds zeros, and the product is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import HAS_CUDA
from kernel_cases import assert_near, draw

from kernels import conv, mlp, norm
from kernels.attention import attention_forward, attention_reference
from kernels.attention_backward import differentiable_attention
from kernels.attention_decode import decode_attention, decode_reference
from kernels.configs.candidates import Tile
from kernels.launch import ARCHITECTURES
from kernels.shipped import specimens

APART = 1 << 30
F16 = torch.float16


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """A little over 2^32 elements, few of them touched; on a CPU a file that takes no room."""
    size = (1 << 32) + (1 << 22)
    if HAS_CUDA:
        return torch.zeros(size, dtype=F16, device="cuda")
    path = tmp_path_factory.mktemp("sparse") / "memory"
    with path.open("wb") as file:
        file.truncate(2 * size)
    return torch.from_file(str(path), shared=True, size=size, dtype=F16)


@pytest.fixture
def apart(memory: torch.Tensor, device: str) -> Callable[..., torch.Tensor]:
    """Random tensors whose ``side``, of three, has strides of 2^30; they start half way, so that a
    wrong offset still lies in the memory."""

    def make(*shape: int, side: int, seed: int = 0) -> torch.Tensor:
        assert shape[side] == 3
        strides = list(torch.empty([n for i, n in enumerate(shape) if i != side]).stride())
        strides.insert(side, APART)
        view = memory.as_strided(shape, strides, (1 << 31) + (seed << 16))
        return view.copy_(draw(*shape, dtype=F16, device=device, seed=seed))

    return make


Make = Callable[..., torch.Tensor]


def test_the_offsets_are_too_large_for_32_bits(apart: Make) -> None:
    x = apart(1, 3, 4, 5, side=1)
    assert x.stride(1) < 1 << 31 <= 2 * x.stride(1)


@pytest.mark.parametrize("of", ["q", "k", "v", "bias"])
def test_heads_of_attention(of: str, apart: Make, device: str) -> None:
    parts = {name: draw(1, 3, 20, 16, dtype=F16, device=device, seed=4) for name in "qkv"}
    parts["bias"] = draw(1, 3, 20, 20, dtype=F16, device=device, seed=4)
    parts[of] = apart(*parts[of].shape, side=1)
    got = attention_forward(**parts, tile=Tile(16, 16))[0]
    assert_near(got, attention_reference(**parts))


def test_gradients_of_heads(apart: Make, device: str) -> None:
    k = apart(1, 3, 20, 16, side=1)
    near = (k.contiguous(), draw(1, 3, 20, 16, dtype=F16, device=device, seed=4))
    far = (k, near[1])
    assert k.contiguous().stride(1) < APART
    got, want = (
        torch.autograd.grad(differentiable_attention(b, a, b, tile=Tile(16, 16)).sum(), [a, b])
        for a, b in ([x.detach().requires_grad_() for x in pair] for pair in (far, near))
    )
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("splits", [1, 2])
def test_heads_of_decoding(splits: int, apart: Make) -> None:
    q, k = apart(1, 3, 1, 16, side=1), apart(1, 3, 40, 16, side=1, seed=1)
    got = decode_attention(q, k, k, tile=Tile(16, 16), splits=splits)
    assert_near(got, decode_reference(q, k, k))


@pytest.mark.parametrize("rows", [2, 20])
def test_columns_of_products(rows: int, apart: Make) -> None:
    x, weight = apart(rows, 3, side=1), apart(5, 3, side=1, seed=1)
    assert_near(mlp.linear(x, weight), mlp.linear_reference(x, weight))
    assert_near(mlp.swiglu(x, weight, weight), mlp.swiglu_reference(x, weight, weight))


def test_columns_of_norms(apart: Make, device: str) -> None:
    x, weight = apart(4, 3, side=1), torch.ones(3, dtype=F16, device=device)
    assert_near(norm.softmax(x), norm.softmax_reference(x), products=False)
    assert_near(norm.rms_norm(x, weight), norm.rms_norm_reference(x, weight), products=False)


@pytest.mark.parametrize("groups", [1, 3])
def test_channels_of_convolutions(groups: int, apart: Make, device: str) -> None:
    x = apart(1, 3, 6, 5, side=1)
    weight = draw(3, 3 // groups, 3, 3, dtype=F16, device=device)
    want = conv.conv2d_reference(x, weight, padding=1, groups=groups)
    assert_near(conv.conv2d(x, weight, padding=1, groups=groups), want)


@pytest.mark.parametrize("card", ARCHITECTURES)
def test_grids_have_one_axis(card: str) -> None:
    """The first holds 2^31 - 1 programs, the others 65535: too few for heads of a large batch."""
    assert all(len(s.launch.grid) == 1 for s in specimens(ARCHITECTURES[card]))
