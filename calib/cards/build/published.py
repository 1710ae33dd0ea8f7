"""Published timings as samples: of float32 products on five older cards, of attention on three.

Attention: ``benchmarks/data/public_attention.csv``, cuDNN on an H200 and a B200 and FlashAttention
2 on an A100 as NVIDIA timed them, rows that judge nothing (``benchmarks.public_attention``). On
shapes within the range of the record's own samples cuDNN's is the kernel that torch runs: 16 causal
prefills were told to 1.3% before.

Products, who timed them and how: ``benchmarks/data/neusight/README.md``. Between the first of the
two events and the kernel the host is at work, so each timing is

    seconds = late + kernel,    late = least of (seconds - floor), of one card and kind of call

which is taken off; what is not twice as long as ``late`` says more about the host, and is left out.
Inputs were replayed and the cache never flushed: ``hot``.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

from calib.checkout import ROOT
from calib.hardware.attention_backend import backend_of
from calib.hardware.datasheet import Hardware, floor, hardware_names, load_hardware
from calib.hardware.device import match_device
from calib.samples.sample import HOT, Sample
from model.ops import Attention, AttentionBackward, Matmul

ATTENTION = ROOT / "benchmarks" / "data" / "public_attention.csv"
FILE = ROOT / "benchmarks" / "data" / "neusight" / "float32_products.csv"
SIZES = ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
BACKWARD = "backward"
"""The pass of a row that timed a gradient."""
NEUSIGHT = "neusight"
"""The implementation: torch's linear and bmm, as NeuSight timed them."""
SOURCE = "NeuSight (ASPLOS 2025), MIT"


def published_products(hardware: Hardware, path: Path = FILE) -> list[Sample]:
    """Samples of ``hardware`` itself, else of cards of its compute capability, else none."""
    return of_card(hardware, _by_card(path))


def of_card(hardware: Hardware, known: dict[str, list[Sample]]) -> list[Sample]:
    """What is known of ``hardware``, else of all cards of its compute capability."""
    if hardware.name in known:
        return known[hardware.name]
    alike = [
        name
        for name in hardware_names()
        if name in known and load_hardware(name).compute_capability == hardware.compute_capability
    ]
    return [sample for name in alike for sample in known[name]]


def published_attention(
    card: str, implementation: str = "torch", judged: bool = False, path: Path = ATTENTION
) -> list[Sample]:
    """Those of ``card`` that are to be learned from, or ``judged`` by; of the kernel that torch
    takes there."""
    hardware, found = load_hardware(card), []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["card"] != card or (row["judged"] == "1") != judged:
                continue
            sizes = {n: int(row[n]) for n in SIZES}
            op = Attention(**sizes, causal=row["causal"] == "1")  # type: ignore[arg-type]
            taken = backend_of(op, hardware.compute_capability)
            made: Attention | AttentionBackward = op
            if row["pass"] == BACKWARD:
                made = AttentionBackward(**vars(op))
            if not row["backend"].startswith(taken) or implementation not in ("torch", taken):
                continue
            found.append(
                Sample(
                    op=made,
                    seconds=(float(row["ms"]) / 1e3,),
                    hardware=card,
                    implementation=implementation,
                    cache=HOT,
                    origin="public",
                    group=f"{op.heads}/{op.kv_heads}/{op.head_dim}",
                    device=hardware.device_names[0],
                    method="profiler",
                )
            )
    return found


@cache
def _by_card(path: Path) -> dict[str, list[Sample]]:
    """Our name of a card -> its samples; cards without a file in ``conf/hw`` are left out."""
    timed: dict[tuple[str, str], list[tuple[Matmul, float]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            m, n, k, batch = (int(row[name]) for name in ("m", "n", "k", "batch"))
            op = Matmul(m, n, k, batch, dtype="float32", bias=row["kind"] == "linear")
            timed[row["device"], row["kind"]].append((op, float(row["seconds"])))
    found: dict[str, list[Sample]] = {}
    for (device, _), rows in timed.items():
        card = match_device(device)
        if card is not None:
            found.setdefault(card, []).extend(_samples(rows, load_hardware(card), device))
    return found


def _samples(rows: list[tuple[Matmul, float]], card: Hardware, device: str) -> list[Sample]:
    """Those of one card and kind of call that are long enough, without what the host was late."""
    late = max(0.0, min(seconds - float(floor(op, card)) for op, seconds in rows))
    return [
        Sample(
            op=op,
            seconds=(seconds - late,),
            hardware=card.name,
            implementation=NEUSIGHT,
            cache=HOT,
            origin="public",
            group=f"{op.n}/{op.k}",
            device=device,
            method="events",
        )
        for op, seconds in rows
        if seconds > 2 * late
    ]
