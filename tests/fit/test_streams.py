"""What main memory sustains where nobody's samples tell."""

from __future__ import annotations

import pytest

from calib.cards.shipped import load_card
from calib.fit.physics.limits.streams import published_share, streaming
from calib.hardware.datasheet import load_hardware
from model.ops import Elementwise

A10, A10G, H200, L40S = (load_hardware(name) for name in ("a10", "a10g", "h200", "l40s"))


def test_cards_with_the_same_memory_share_what_was_published() -> None:
    assert published_share(A10G) == published_share(A10) == pytest.approx(469 / 600)
    assert published_share(H200) == pytest.approx(4.3 / 4.8)
    assert published_share(L40S) is None


def test_a_share_that_a_teacher_tells_is_brought_to_what_the_card_sustains() -> None:
    share = published_share(H200)
    assert share is not None
    assert streaming(A10, A10, H200).bandwidth * share == pytest.approx(469e9)
    assert streaming(H200, H200, H200) is H200
    assert streaming(L40S, L40S, H200) is L40S


@pytest.mark.parametrize("card", [A10, A10G])
def test_a_map_streams_as_a_copy_was_seen_to(card) -> None:
    shipped = load_card(card)
    assert shipped is not None
    op = Elementwise(2**30, dtype="float32")
    (seconds,) = shipped.estimates([op], "torch", [False]).seconds
    assert op.bytes / seconds == pytest.approx(469e9, rel=0.08)
