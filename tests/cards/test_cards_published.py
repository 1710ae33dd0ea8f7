"""Published float32 products and streams as samples: which cards, and what is taken off."""

from pathlib import Path

import numpy as np
import pytest

from calib.cards.build.published import FILE, NEUSIGHT, published_products
from calib.cards.build.published_streams import (
    START,
    STREAMS,
    ended,
    hosts_share,
    published_streams,
    read,
)
from calib.cards.shipped import load_card
from calib.hardware.datasheet import floor, load_hardware
from model.ops import Copy, Elementwise, Norm, Reduction, Softmax

HEADER = "device,kind,batch,m,n,k,seconds,kernel"


def rows(folder: Path, *lines: str) -> Path:
    path = folder / "products.csv"
    path.write_text("\n".join((HEADER, *lines)) + "\n", "utf-8")
    return path


def test_the_hosts_share_is_taken_off_and_what_it_hides_left_out(tmp_path: Path) -> None:
    """The first is 50 us later than its floor, the least of all: so late was the host."""
    t4 = load_hardware("t4")
    path = rows(
        tmp_path,
        "Tesla T4,linear,1,64,64,64,0.0000501536,small",
        "Tesla T4,linear,1,1024,512,256,0.00120,long",
        "Tesla T4,linear,1,64,64,128,0.00009,hidden",
        "Tesla T4,bmm,4,64,64,2048,0.0,instant",
        "Some Other Card,bmm,4,64,64,2048,0.01,none of ours",
    )
    (sample,) = (s for s in published_products(t4, path) if s.op.bias)
    assert (sample.op.m, sample.op.n, sample.op.k, sample.op.batch) == (1024, 512, 256, 1)
    assert sample.median == pytest.approx(0.00120 - 50e-6, rel=1e-2)
    assert sample.hardware == "t4" and sample.implementation == NEUSIGHT
    assert sample.cache == "hot" and sample.origin == "public"


def test_cards_of_one_compute_capability_lend_and_others_do_not() -> None:
    assert {s.hardware for s in published_products(load_hardware("v100_16gb"))} == {
        "v100_pcie_32gb"
    }
    assert {s.hardware for s in published_products(load_hardware("a30"))} == {"a100_pcie_40gb"}
    assert published_products(load_hardware("h200")) == []


@pytest.mark.parametrize("card", ["a100_pcie_40gb", "p100", "p4", "t4", "v100_pcie_32gb"])
def test_the_files_products_are_no_faster_than_their_floor(card: str) -> None:
    hardware = load_hardware(card)
    samples = published_products(hardware)
    assert 600 < len(samples) <= 800
    assert all(s.hardware == card and s.op.dtype == "float32" for s in samples)
    assert all(s.median >= floor(s.op, hardware) for s in samples)
    assert FILE.with_name("README.md").read_text("utf-8").count("MIT")


CARDS = ("p100", "p4", "t4", "v100_pcie_32gb")
SIZES = ((10, 10), (1000, 1000), (2000, 2000), (4000, 2000), (8000, 2000))


def timed(device: str, name: str, until: float, over: float, kernel) -> list[str]:
    """Lines of a call whose kernel starts at ``until`` and whose events take ``over`` at least."""
    return [
        f"{device},{name},{rows},{cols},{max(over, until + kernel(rows * cols)):.9f}"
        for rows, cols in SIZES
    ]


def test_what_was_waited_for_is_longer_by_what_came_before_the_kernel(tmp_path: Path) -> None:
    """Maps at 0.8 of the bandwidth. The P4's softmaxes were timed on a host half as fast: that its
    kernels start at 42 and not at 21 microseconds is told by the other cards."""
    path, lines, bandwidth = tmp_path / "streams.csv", ["device,op,rows,cols,seconds"], {}
    slow = {"Tesla P4": 2.0}
    devices = ("Tesla T4", "Tesla V100-PCIE-32GB", "Tesla P4")
    for device, name in zip(devices, ("t4", "v100_pcie_32gb", "p4"), strict=True):
        card = load_hardware(name)
        bandwidth[name] = 0.8 * card.bandwidth

        def add(n: int, rate: float = bandwidth[name], clock: float = card.clock_hz) -> float:
            return 12 * n / rate + START / clock

        def softmax(n: int, rate: float = bandwidth[name]) -> float:
            return 12e-6 + 10 * n / rate

        lines += timed(device, "add", 13e-6, 26e-6, add)
        host = slow.get(device, 1.0)
        lines += timed(device, "softmax", 21e-6 * host, 34e-6 * host, softmax)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    late = hosts_share(read(path)[0])
    for card in bandwidth:
        assert late[card, "elementwise"] == pytest.approx(13e-6, rel=1e-3)
    assert late["t4", "softmax"] == pytest.approx(21e-6, rel=1e-3)
    assert late["p4", "softmax"] == pytest.approx(42e-6, rel=1e-3)
    taken = published_streams(load_hardware("p4"), "torch", path)
    assert len(taken) == 8 and {s.implementation for s in taken} == {"torch"}
    (longest,) = (s for s in taken if s.op == Softmax(8000, 2000, dtype="float32"))
    assert longest.median == pytest.approx(12e-6 + 160e6 / bandwidth["p4"], rel=1e-3)


def test_long_maps_lie_on_one_line_whatever_they_compute() -> None:
    """The claim by which the host's share is told apart: to 5%."""
    cards, _ = read()
    late = hosts_share(cards)
    assert set(cards) == set(CARDS)
    for card in CARDS:
        maps = published_streams(load_hardware(card), "torch")
        rate = [
            (s.median - START / load_hardware(card).clock_hz) / s.op.bytes
            for s in maps
            if isinstance(s.op, Elementwise)
        ]
        assert len(rate) >= 25 and max(np.abs(np.array(rate) / np.median(rate) - 1)) < 0.1
        assert all(0 < late[card, kind] < ended(rows) for kind, rows in cards[card].items())


@pytest.mark.parametrize("card", CARDS)
def test_the_files_streams_are_no_faster_than_their_floor(card: str) -> None:
    hardware = load_hardware(card)
    samples = published_streams(hardware, "torch")
    assert {s.op.operator for s in samples} == {"elementwise", "softmax", "norm"}
    assert all(s.hardware == card and s.op.dtype == "float32" for s in samples)
    assert all(s.median >= floor(s.op, hardware) for s in samples)
    assert STREAMS.name in FILE.with_name("README.md").read_text("utf-8")


def test_streams_are_lent_as_products_are() -> None:
    (lender,) = {s.hardware for s in published_streams(load_hardware("v100_16gb"), "torch")}
    assert lender == "v100_pcie_32gb"
    assert published_streams(load_hardware("a100"), "torch") == []


@pytest.mark.parametrize("card", (*CARDS, "v100_16gb", "v100_32gb"))
def test_what_streams_moves_its_bytes_and_no_faster_than_maps(card: str) -> None:
    """Of half the bytes half the time, of any kind; a written-out norm is eight kernels, of which
    a layernorm's samples tell nothing."""
    found = load_card(load_hardware(card))
    assert found is not None

    def seconds(*ops) -> np.ndarray:
        return found.estimates(list(ops), hot=False).seconds

    wide, narrow = seconds(*(Elementwise(2**24, dtype=d) for d in ("float32", "float16")))
    assert wide / narrow == pytest.approx(2, rel=0.05)
    for op in (Copy(2**24, dtype="float32"), Reduction(2**12, 2**13, dtype="float32")):
        assert seconds(op)[0] == pytest.approx(wide, rel=0.1)
    layernorm = Norm(4096, 2048, kind="layernorm", dtype="float32")
    written, whole = seconds(Norm(4096, 2048, dtype="float32"), layernorm)
    assert written > 3 * whole
    assert found.figures.tells(layernorm, "torch")
    assert not found.figures.tells(Norm(4096, 2048, dtype="float32"), "torch")
