"""What a device reaches at best, measured: the ceilings beside its datasheet.

A ceiling is an ordinary sample of an operator that does one thing at length (``origin`` "ceiling"):
a large product of random data for each dtype (of float32 with its factors whole, and tf32, whose
factors are float32 that the matrix unit cuts), a scaled copy and a sum that stream from main
memory, the same copy within half of the L2. Its figure is what the operator counts over its median
time.
Beside a matrix peak stands the one that follows from the clock that the sample ran at, where it is
known: FLOP per clock and SM x SMs x clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from calib.hardware.datasheet import Hardware
from calib.hardware.device import clock_true_peak
from calib.samples.host_costs import HOST_COSTS
from calib.samples.sample import Sample
from model.ops import Elementwise, Matmul, Operator

ORIGIN = "ceiling"
FLOPS, BANDWIDTH, SECONDS = "FLOP/s", "bytes/s", "s"
_CARD_SIDE, _CARD_SIDE_FLOAT32, _CPU_SIDE = 8192, 4096, 2048
_CARD_ELEMENTS, _CPU_ELEMENTS = 2**28, 2**26
_PRODUCTS = ("bfloat16", "float16", "tf32", "float8_e4m3fn", "int8", "float32")
_ON_A_CPU = ("bfloat16", "float32")


@dataclass(frozen=True)
class Ceiling:
    """One figure: measured, of the datasheet (or probed), and of the clock that it ran at.

    ``share``: measured over datasheet; ``clock_share``: over the clock's; None where not known.
    """

    name: str
    unit: str
    measured: float
    datasheet: float | None = None
    share: float | None = None
    clock_hz: float | None = None
    clock_share: float | None = None


def ceiling_operators(hardware: Hardware) -> list[tuple[Operator, str]]:
    """The operators to measure on ``hardware``, each with its cache state."""
    on_card = hardware.compute_capability is not None
    dtypes = [d for d in _PRODUCTS if d in hardware.peak_flops and (on_card or d in _ON_A_CPU)]
    elements = _CARD_ELEMENTS if on_card else _CPU_ELEMENTS
    resident = max(hardware.l2_bytes // 8, 1)  # two bytes an element, read and written: half
    products = [(_product(dtype, on_card), "hot") for dtype in dtypes]
    return [
        *products,
        (Elementwise(elements), "cold"),
        (Elementwise(elements, inputs=2), "cold"),
        (Elementwise(min(resident, elements)), "hot"),
    ]


def _product(dtype: str, on_card: bool) -> Operator:
    side = _CARD_SIDE_FLOAT32 if dtype == "float32" else _CARD_SIDE
    side = side if on_card else _CPU_SIDE
    return Matmul(side, side, side, dtype=dtype)


def ceilings(samples: Iterable[Sample], hardware: Hardware) -> list[Ceiling]:
    """The figures of those ``samples`` that are ceilings or host costs, the best of each name."""
    best: dict[str, Ceiling] = {}
    for found in _figures(samples, hardware):
        known = best.get(found.name)
        better = known is None or (found.measured > known.measured) == (found.unit != SECONDS)
        if better:
            best[found.name] = found
    return list(best.values())


def _figures(samples: Iterable[Sample], hardware: Hardware) -> Iterator[Ceiling]:
    for sample in samples:
        if sample.status != "ok" or not len(sample.seconds):
            continue
        if sample.origin == ORIGIN:
            yield _figure(sample, hardware)
        elif sample.op in HOST_COSTS.values():
            yield Ceiling(str(vars(sample.op)["name"]).replace("_", " "), SECONDS, sample.median)


def _figure(sample: Sample, hardware: Hardware) -> Ceiling:
    op, clock = sample.op, sample.sm_clock_hz
    if not isinstance(op, Matmul):
        reached = float(op.bytes) / sample.median
        if sample.cache == "hot":
            return Ceiling("bandwidth of the last cache", BANDWIDTH, reached, clock_hz=clock)
        peak = hardware.bandwidth
        return Ceiling("bandwidth", BANDWIDTH, reached, peak, reached / peak, clock)
    dtype = multiplied_as(op, sample.implementation)
    reached, peak = op.flops / sample.median, hardware.peak_flops[dtype]
    true = clock_true_peak(hardware, dtype, clock) if clock else None
    return Ceiling(
        f"product of {dtype}" + ", factors whole" * (dtype == "float32"),
        FLOPS,
        reached,
        peak,
        reached / peak,
        clock,
        reached / true if true else None,
    )


def multiplied_as(op: Matmul, implementation: str) -> str:
    """The type in which a matrix unit takes the factors: our kernels cut float32 to tf32, and
    samples of them that say float32 are of that."""
    return "tf32" if implementation == "triton" and op.dtype == "float32" else op.dtype
