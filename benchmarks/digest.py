"""Whether a change left every figure as it was: digests to compare between two commits.

    python -m benchmarks.digest

A line for each of five cards and three models (SHA-256 of ``estimates.parquet``), and one for a fit
to 200 samples made up by a fixed rule. Equal lines at two commits, on one machine and with the same
libraries, mean equal figures to the last bit.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from calib.fit.fitting import fit
from calib.hardware.datasheet import Hardware, floor, load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, Elementwise, Matmul, Operator

CARDS = ("h100", "h200", "l40s", "rtx4090", "rtx5090")
MODELS = {
    "deepseek_ocr": "workload=ocr_tiny",
    "llama_3_1_8b": "workload=text_512",
    "qwen3_30b_a3b": "workload=text_512",
}
SAMPLES = 200


def main() -> None:
    for card in CARDS:
        for model, workload in MODELS.items():
            print(f"{digest_of_run(card, model, workload)}  {card} {model}", flush=True)
    print(f"{digest_of_fit(load_hardware('h200'))}  fit to {SAMPLES} samples")


def digest_of_run(card: str, model: str, workload: str) -> str:
    """SHA-256 of the operators' table of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = [f"+hw={card}", f"model={model}", workload, f"samples.dir={folder / 'none'}"]
        quiet = ["report.pictures=false", "report.layers=false", f"hydra.run.dir={folder / 'run'}"]
        command = [sys.executable, "-m", "calib.run", *asked, *quiet]
        subprocess.run(command, check=True, capture_output=True)
        return hashlib.sha256((folder / "run" / "estimates.parquet").read_bytes()).hexdigest()


def digest_of_fit(hardware: Hardware) -> str:
    """SHA-256 of what a fit to samples says of them and of shapes between them."""
    ops, others = operators(SAMPLES, seed=0), operators(SAMPLES, seed=1)
    samples = [Sample(op, [seconds(op, hardware)], hardware.name, "torch") for op in ops]
    table = fit(samples, hardware).estimate([*ops, *others])
    figures = table.drop(columns="provenance").to_numpy(dtype=float)
    return hashlib.sha256(figures.tobytes() + "".join(table["provenance"]).encode()).hexdigest()


def operators(count: int, seed: int) -> list[Operator]:
    """Products, attention and pointwise work of drawn sizes."""
    sizes = np.random.default_rng(seed).integers(16, 4096, (count, 3)).tolist()
    made = [
        (Matmul(a, b, c), Attention(1, 1, a, 32, 8, 128, causal=False), Elementwise(a * b))[i % 3]
        for i, (a, b, c) in enumerate(sizes)
    ]
    return list(made)


def seconds(op: Operator, hardware: Hardware) -> float:
    """A rule of the shape alone: neither smooth nor constant in efficiency."""
    return float(floor(op, hardware)) * (1.5 + 0.5 * np.sin(float(op.bytes) ** 0.3)) + 2e-6


if __name__ == "__main__":
    main()
