"""Published float32 products as samples: which cards, and what is taken off."""

from pathlib import Path

import pytest

from calib.cards.build.published import FILE, NEUSIGHT, published_products
from calib.hardware.datasheet import floor, load_hardware

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
