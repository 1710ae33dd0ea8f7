"""What main memory sustains on a card of which no sample tells, by what someone published.

A share of the datasheet's bandwidth is not carried from any card to any other: HBM keeps its check
bits beside the data, GDDR6 among them (an A10 reports 23 of its 24 GB), and moves them too. torch's
copies reach 0.90 of an H200's bandwidth and 0.78 of an A10's. So to a card with a published copy

    bandwidth = published / (published of the teacher / its bandwidth)

is what kernels are told to share, whose samples are the teacher's. Cards of one compute capability
with as many bytes at the same rate have the same memory: an A10G's is an A10's.
"""

from __future__ import annotations

from dataclasses import replace

from calib.hardware.datasheet import Hardware, hardware_names, load_hardware

_COPIED = "bandwidth"


def published_share(hardware: Hardware) -> float | None:
    """Of the datasheet's bandwidth, what copies were published to reach: its own, or those of a
    card with the same memory; None: nothing was."""
    known = [hardware, *(c for c in map(load_hardware, _others(hardware)) if _same(c, hardware))]
    shares = (c.published(_COPIED) for c in known)
    return next((rate / hardware.bandwidth for rate in shares if rate is not None), None)


def _others(hardware: Hardware) -> list[str]:
    return [name for name in hardware_names() if name not in ("cpu", hardware.name)]


def _same(one: Hardware, other: Hardware) -> bool:
    same = ("compute_capability", "bandwidth", "memory_bytes")
    return all(getattr(one, name) == getattr(other, name) for name in same)


def streaming(clocks: Hardware, card: Hardware, teacher: Hardware) -> Hardware:
    """``clocks``, ``card`` as it clocks, with what its memory sustains over a share that samples of
    ``teacher`` tell; as it is where nothing was published of either."""
    share, taught = published_share(card), published_share(teacher)
    if share is None or taught is None or teacher.name == card.name:
        return clocks
    return replace(clocks, bandwidth=clocks.bandwidth * share / taught)
