"""A device's peaks, and the least time that an operator can take on it.

    floor(op, hardware) = max(min_flops / peak, bytes / bandwidth)        [s]

``peak`` is the rate of the units that execute the operator: for a product (matmul, convolution,
attention) the rate of its dtype, for everything else the float32 rate outside the matrix units,
since pointwise arithmetic is done in float32 whatever the tensors hold. Peaks come from a
datasheet (``conf/hw``), from a derivation (:mod:`calib.hardware.device`) or from probes, and are a
reference, not a bound: a card that clocks above its rated boost exceeds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from calib.checkout import CONF, read_yaml
from calib.errors import one_of
from calib.hardware.figures import (
    KEYS,
    MAY_BE_PROBED,
    HardwareError,
    read_figure,
    wrong_figure,
)
from calib.hardware.links import bandwidth_seconds
from calib.hardware.rates import rate_of
from model.ops import Collective, Conv2d, Convolution, Operator, TensorCoreOperator


@dataclass(frozen=True)
class Hardware:
    """What one device can do at best. Figures not known before they are probed are NaN, 0 or {}.

    name                     as in ``conf/hw``
    device_names             as the driver reports them
    compute_capability       "12.0"; None on a CPU
    sm_count                 streaming multiprocessors; cores on a CPU
    clock_hz                 rated boost clock [Hz]
    peak_flops               dense products with float32 accumulation, by dtype [FLOP/s]
    cuda_core_flops          float32 outside the matrix units [FLOP/s]
    bandwidth                main memory [bytes/s]
    memory_bytes             main memory [bytes]
    l2_bytes                 L2, on a CPU the last-level cache [bytes]
    shared_memory_per_block  the most a block may opt in to [bytes]; None on a CPU
    threads_per_sm           None on a CPU
    power_w                  board power [W]; None where no one states it
    links                    to other cards, by kind (:mod:`calib.hardware.links`)
    sources                  figure -> where it is from; a figure's own name or the mapping it is in
    measured                 figure -> published measured ceiling: low, high, source
    provenance               how the peaks are known: datasheet, derived or probed
    cuda                     version of CUDA that torch is built for; None: as what ships was
                             measured with
    """

    name: str
    device_names: tuple[str, ...]
    compute_capability: str | None
    sm_count: int
    clock_hz: float
    peak_flops: dict[str, float]
    cuda_core_flops: float
    bandwidth: float
    memory_bytes: int
    l2_bytes: int
    shared_memory_per_block: int | None = None
    threads_per_sm: int | None = None
    power_w: float | None = None
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: str = "datasheet"
    cuda: str | None = None

    def published(self, figure: str) -> float | None:
        """The middle of what ``measured`` states of ``figure``; None where it states nothing."""
        found = self.measured.get(figure)
        return None if found is None else float((found["low"] + found["high"]) / 2)

    @cached_property
    def unprobed(self) -> tuple[str, ...]:
        """Names of the figures that are still to be probed."""
        return tuple(n for n in MAY_BE_PROBED if _unknown(getattr(self, n)))


def _unknown(value: Any) -> bool:
    return value in (0, {}) or (isinstance(value, float) and math.isnan(value))


def peak(op: Operator, hardware: Hardware) -> float:
    """FLOP/s of the units that execute ``op``. Raises ``HardwareError``, a ``ValueError``.

    float32 on a card is multiplied as torch does by default: products outside the matrix units with
    their factors whole (``torch.backends.cuda.matmul.fp32_precision``), convolutions as tf32
    (``torch.backends.cudnn.conv.fp32_precision``). A dtype without a line of its own in the card's
    table runs as :mod:`calib.hardware.rates` says.
    """
    if hardware.unprobed:
        raise HardwareError(
            f"hardware {hardware.name!r}: {', '.join(hardware.unprobed)} not probed yet: "
            "expected figures from probes of the device"
        )
    if not isinstance(op, TensorCoreOperator):
        return hardware.cuda_core_flops
    dtype = str(vars(op)["dtype"])
    if (
        isinstance(op, Conv2d | Convolution)
        and dtype == "float32"
        and "tf32" in hardware.peak_flops
    ):
        dtype = "tf32"
    known = rate_of(
        dtype, hardware.peak_flops, hardware.compute_capability, hardware.cuda_core_flops
    )
    if known is None:
        raise HardwareError(
            f"dtype = {dtype!r}: hardware {hardware.name!r} has no peak for it; "
            f"expected one of {', '.join(hardware.peak_flops)}"
        )
    return known


def multiprocessor_rate(op: Operator, hardware: Hardware) -> Any:
    """FLOP a cycle of a multiprocessor of a GPU, at the peak for ``op``."""
    return peak(op, hardware) / hardware.sm_count / hardware.clock_hz


def share_missed(ratio: Any, edge: float) -> np.ndarray:
    """Of reads that go in a circle over a working set ``ratio`` times as large as the cache; half
    of them at ``edge``."""
    with np.errstate(divide="ignore"):  # nothing read, nothing missed
        return np.asarray(1 / (1 + (ratio / edge) ** -_STEEPNESS))


def least_seconds(op: Operator, hardware: Hardware) -> Any:
    """What main memory takes for the bytes that no cache of a GPU can hold [s]: no call is faster.

    0 on a CPU, whose bandwidth was probed and is no bound.
    """
    if hardware.compute_capability is None:
        return 0.0
    beyond = np.maximum(np.asarray(op.bytes, dtype=float) - hardware.l2_bytes, 0.0)
    return beyond / hardware.bandwidth


MOST_ABOVE = 1.3
"""How far above its rating a card may clock."""


def least_arithmetic(op: Operator, hardware: Hardware) -> Any:
    """What the products of ``op`` take at the highest clock [s]: no kernel of a GPU is faster. 0 on
    a CPU, whose peak was probed, of a convolution, whose library may multiply less (Winograd), and
    of what is no product."""
    is_product = isinstance(op, TensorCoreOperator) and not isinstance(op, Conv2d | Convolution)
    if hardware.compute_capability is None or not is_product:
        return 0.0
    return op.min_flops / peak(op, hardware) / MOST_ABOVE


_STEEPNESS = 8.0
"""How steeply the share rises: read off hot attention, whose times jump within a factor of two."""


def floors(op: Operator, hardware: Hardware) -> tuple[Any, Any]:
    """(min_flops / peak, bytes / bandwidth) [s]; arrays for a grid. Of what several cards do
    together, the slower of memory and link is the second.

    Raises ``HardwareError``, a ``ValueError``, for a dtype that the device has no peak for.
    """
    compute, memory = op.min_flops / peak(op, hardware), op.bytes / hardware.bandwidth
    if isinstance(op, Collective):
        memory = np.maximum(memory, bandwidth_seconds(op, hardware.links))
    return compute, memory


def floor(op: Operator, hardware: Hardware) -> Any:
    """max(min_flops / peak, bytes / bandwidth) [s]; an array for a grid.

    Raises as :func:`floors` does.
    """
    return np.maximum(*floors(op, hardware))


def bound(op: Operator, hardware: Hardware) -> Any:
    """Which of the :func:`floors` counts: "compute" or "memory", "link" of what several cards do
    together; an array for a grid."""
    compute, memory = floors(op, hardware)
    other = "link" if isinstance(op, Collective) else "memory"
    named = np.where(compute > memory, "compute", other)
    return named if named.ndim else str(named)


def arithmetic_intensity(op: Operator) -> Any:
    """flops / bytes [FLOP/byte]; NaN where no memory is touched; an array for a grid."""
    moved = np.asarray(op.bytes, dtype=float)
    ratio = np.asarray(op.flops, dtype=float) / np.where(moved == 0, np.nan, moved)
    return ratio if ratio.ndim else float(ratio)


def hardware_names() -> list[str]:
    """The cards that ``conf/hw`` describes."""
    return sorted(path.stem for path in (CONF / "hw").glob("*.yaml"))


def load_hardware(name: str) -> Hardware:
    """The device that ``conf/hw/<name>.yaml`` describes.

    Raises ``HardwareError`` with the names that exist, or with the key that is wrong in the file.
    """
    path = CONF / "hw" / f"{name}.yaml"
    if path.stem != name or not path.is_file():
        raise HardwareError(f"hw = {name!r}: expected {one_of(name, hardware_names())}")
    return _read_hardware(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read_hardware(path: Path, changed: int) -> Hardware:
    """``changed``: when the file was. A card that is asked for asks for all that are like it."""
    return hardware_from_config(read_yaml(path))


def hardware_from_config(config: Mapping[str, Any]) -> Hardware:
    """A ``Hardware`` from the keys of ``conf/hw``, each checked.

    Products of float32 run outside the matrix units, so ``peak_flops.float32`` is
    ``cuda_core_flops`` unless it is given.

    Raises ``HardwareError`` naming the key, its value and what is accepted.
    """
    for key in config:
        if key not in KEYS:
            accepted = one_of(str(key), KEYS).replace("of", "of the keys", 1)
            raise wrong_figure(key, config[key], accepted)
    for entry in fields(Hardware):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in config:
            raise HardwareError(f"hw.{entry.name} is missing: expected {KEYS[entry.name][1]}")
    provenance = config.get("provenance", "datasheet")
    values = {key: read_figure(key, value, provenance) for key, value in config.items()}
    if values["peak_flops"]:
        values["peak_flops"].setdefault("float32", values["cuda_core_flops"])
    return Hardware(**values)
