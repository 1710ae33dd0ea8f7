"""The probes of bandwidth against torch."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw

from kernels import stream
from kernels.configs.candidates import Tile

pytestmark = pytest.mark.usefixtures("poisoned")


def check(size: tuple[int, ...], dtype: torch.dtype, device: str, tile: Tile | None) -> None:
    a, b = (draw(*size, dtype=dtype, device=device, seed=i) for i in (0, 1))
    assert torch.equal(stream.copy(a, tile), a)
    assert_near(stream.scale(a, 0.3, tile), stream.scale_reference(a, 0.3), products=False)
    assert_near(stream.add(a, b, tile), stream.add_reference(a, b), products=False)
    assert_near(stream.triad(a, b, 0.3, tile), stream.triad_reference(a, b, 0.3), products=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [None, Tile(1, 256)])
def test_streams(dtype: torch.dtype, tile: Tile | None, device: str) -> None:
    check((3, 1111), dtype, device, tile)


def test_torch_hands_out_poison(device: str) -> None:
    """The other tests lean on it: an element that no kernel writes is NaN."""
    assert torch.empty(5, device=device).isnan().all()
    assert torch.empty_like(torch.ones(5, dtype=torch.float16, device=device)).isnan().all()


def test_empty_kernel_launches(device: str) -> None:
    stream.empty_launch().run()


def test_bad_input_is_named(device: str) -> None:
    a = draw(4, 6, dtype=torch.float32, device=device)
    with pytest.raises(ValueError, match=r"p_a: .*expected a contiguous tensor"):
        stream.copy(a.T)
    with pytest.raises(ValueError, match=r"p_b: \(4,\)"):
        stream.add(a, a[:, 0].contiguous())


@pytest.mark.gpu
def test_streams_full_size(device: str) -> None:
    check(((1 << 26) + 7,), torch.bfloat16, device, None)
