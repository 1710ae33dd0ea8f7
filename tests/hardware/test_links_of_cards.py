"""Links of a card: read, refused, and what a message takes on them, by hand."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from calib.errors import CalibError
from calib.fit.calibration import uncalibrated
from calib.hardware import load_hardware
from calib.hardware.datasheet import HardwareError, bound, hardware_from_config
from calib.hardware.links import BASE_S, RANGE, link_seconds, nodes_of, read_links
from model.ops import AllReduce, AllToAll, Collective, SendRecv, grid

H200 = load_hardware("h200")


def test_a_message_on_one_node_by_hand() -> None:
    op = AllReduce(2**20, 8)
    expected = BASE_S + 14 * 0.6e-6 + 2 * 2**21 * 7 / 8 / 450e9
    assert link_seconds(op, H200.links) == pytest.approx(expected)
    assert link_seconds(replace(op, ranks=1), H200.links) == 0
    assert bound(op, H200) == "link"


def test_what_leaves_a_node_takes_the_network() -> None:
    ring = AllReduce(2**26, 16, nodes=2)  # each card's port takes an eighth of the node's edge
    edge = 2 * 2**27 * 15 / 16
    hops = 28 * 0.6e-6 + 2 * 2.7e-6
    wire = max(edge / 450e9, edge / 8 / 50e9)
    assert link_seconds(ring, H200.links) == pytest.approx(BASE_S + hops + wire)
    swap = AllToAll(2**26, 16, nodes=2)
    assert link_seconds(swap, H200.links) == pytest.approx(
        BASE_S + 2.7e-6 / 15 + 14 / 15 * 0.6e-6 + 2**26 / 50e9, rel=0.1
    )
    assert link_seconds(SendRecv(2**26, nodes=2), H200.links) > 2**27 / 50e9


def test_nodes_are_as_many_as_the_cards_need() -> None:
    assert [nodes_of(n, H200.links) for n in (1, 8, 9, 64)] == [1, 1, 2, 8]
    assert nodes_of(64, load_hardware("gb200").links) == 1


def test_a_collective_that_nobody_timed_is_the_link_with_a_wide_interval() -> None:
    ops: list[Collective] = [AllReduce(2**13, 8), SendRecv(2**20)]
    found = uncalibrated(H200).estimate(ops)
    plain = np.array([link_seconds(op, H200.links) for op in ops])
    low, middle, high = (found[c].to_numpy() / plain for c in ("low_s", "estimate_s", "high_s"))
    for side, ratio in zip((low, middle, high), RANGE, strict=True):
        assert side == pytest.approx(ratio)
    assert (found["provenance"] == "roofline").all()
    many = uncalibrated(H200).estimate(grid(AllReduce, elements=[2**13, 2**20], ranks=8))
    assert many["estimate_s"][0] == found["estimate_s"][0]


def test_a_card_without_links_says_so() -> None:
    alone = replace(H200, links={})
    with pytest.raises(CalibError, match=r"hw\.links"):
        uncalibrated(alone).estimate([AllReduce(2**13, 8)])
    lonely = replace(H200, links={"nvlink": H200.links["nvlink"]})
    with pytest.raises(CalibError, match="at most 8 cards"):
        uncalibrated(lonely).estimate([AllReduce(2**13, 16, nodes=2)])


@pytest.mark.parametrize(
    "links",
    [
        {"nvlink": {"bandwidth": 450e9}},
        {"nvlink": {"bandwidth": 450, "cards": 8}},
        {"pcie": {"bandwidth": 63e9, "cards": 0}},
        {"wire": {"bandwidth": 63e9, "cards": 8}},
        {"network": {"bandwidth": True}},
        [],
    ],
)
def test_links_that_cannot_be_are_refused_by_name(links: object) -> None:
    with pytest.raises(ValueError):
        read_links(links)
    given = {k: v for k, v in asdict(H200).items() if k not in ("links", "device_names")}
    with pytest.raises(HardwareError, match=r"hw\.links"):
        hardware_from_config({**given, "device_names": ["x"], "links": links})
