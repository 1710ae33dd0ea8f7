"""Rows that are walked again, and the cache that may still hold them."""

from __future__ import annotations

import pytest

from calib.fit.physics.blocks.stream_blocks import stream_columns, walk_seconds
from calib.fit.physics.blocks.walks import bytes_again
from calib.hardware.datasheet import load_hardware
from model.ops import Elementwise, Norm, Softmax

H100, B200, A100 = (load_hardware(name) for name in ("h100", "b200", "a100"))


@pytest.mark.parametrize("card", [H100, A100])
def test_a_cache_holds_the_rows_of_blocks_that_run_at_once(card) -> None:
    """As Liger-Kernel's cross entropy shows: 16384 columns from the cache, 32768 from memory."""
    held, missed = (Softmax(16384, cols, "float32") for cols in (16384, 65536))
    assert bytes_again(held, card) < 0.3 * held.bytes_read
    assert bytes_again(missed, card) == pytest.approx(2 * missed.bytes_read, rel=0.02)


def test_what_registers_or_shared_memory_hold_is_read_once() -> None:
    for cols, dtype in ((512, "float32"), (9216, "float32"), (9217 + 3, "float32")):
        assert bytes_again(Softmax(2**20, cols, dtype), H100) == 0
    assert bytes_again(Softmax(2**20, 9221, "float32"), H100) > 0  # no whole 16 bytes


def test_few_rows_are_held_however_wide() -> None:
    op = Softmax(8, 2**17, "float32")
    assert bytes_again(op, H100) < 0.01 * op.bytes_read


@pytest.mark.parametrize("op", [Softmax(4096, 65536), Norm(4096, 65536, "layernorm")])
def test_gradients_walk_rows_twice(op) -> None:
    (gradient,) = op.backward()
    assert bytes_again(gradient, H100) == pytest.approx(gradient.bytes_read, rel=0.05)
    assert "bound again streamed" in stream_columns(gradient, H100, True)


def test_a_map_walks_nothing_again() -> None:
    assert bytes_again(Elementwise(2**30, 2), H100) == 0
    assert walk_seconds(Elementwise(2**30, 2), H100) == 0


@pytest.mark.parametrize(
    ("card", "rows", "cols", "dtype", "seconds"),
    [
        (H100, 4096, 4096, "float16", 60.5e-6),
        (H100, 1024, 50257, "float16", 112.2e-6),
        (H100, 4096, 32000, "float16", 323.7e-6),
        (B200, 4096, 4096, "float32", 55.4e-6),
        (B200, 4096, 4224, "float32", 89.6e-6),
        (B200, 4096, 9344, "float32", 91.9e-6),
    ],
)
def test_wide_rows_take_what_was_published(card, rows, cols, dtype, seconds) -> None:
    assert walk_seconds(Softmax(rows, cols, dtype), card) == pytest.approx(seconds, rel=0.2)
