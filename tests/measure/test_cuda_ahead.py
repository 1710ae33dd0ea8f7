"""Kernels compiled ahead: in another process, for a card that is not here, into triton's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest

from calib.measure.cases.arena import Unsupported
from calib.measure.cuda.ahead import Ahead, compile_op, launches_of, variant
from kernels.launch import ARCHITECTURES
from model import ops

ROOT = Path(__file__).parents[2]
CARD = ARCHITECTURES["sm_90"]
PRODUCT = ops.Matmul(512, 256, 128)

TWICE = """
import json, sys
import triton
from calib.measure.cuda.ahead import Ahead, compile_op, processes
from kernels.launch import ARCHITECTURES
from model import ops

def main():
    card = ARCHITECTURES["sm_90"]
    some = [ops.Matmul(512, 256, 128), ops.Attention(1, 64, 64, 2, 2, 64), ops.Norm(64, 256)]
    ahead = Ahead(card, processes())
    for op in some:
        ahead.begin(op, "triton")
    ahead.begin(ops.Gather(5, 8), "triton")
    assert ahead.ready(ops.Gather(5, 8), "triton") and not ahead.ready(some[0], "triton")
    ahead.executor.shutdown(wait=True)
    hits = []
    triton.knobs.compilation.listener = lambda **told: hits.append(told["cache_hit"])
    print(json.dumps([[compile_op(op, card) for op in some], hits]))

if __name__ == "__main__":
    main()
"""


def test_what_workers_compiled_is_found_in_the_cache(tmp_path: Path) -> None:
    """A process that never compiled asks for the same launches and compiles none of them."""
    script = tmp_path / "twice.py"
    script.write_text(TWICE, "utf-8")
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    variables |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[[1, 1, 1], [true, true, true]]"


def test_a_variant_is_what_is_compiled_whatever_the_sizes() -> None:
    same = [variant(ops.Matmul(m, 256, 128), CARD) for m in (8192, 8320)]
    assert same[0] == same[1]
    others = [
        ops.Matmul(8192, 256, 128, bias=True),
        ops.Matmul(8192, 256, 128, dtype="float16"),
        ops.Matmul(1, 256, 128),
        ops.Matmul(8192, 256, 131),  # rows that no descriptor takes
        ops.Norm(64, 256),
    ]
    assert len({same[0], *(variant(op, CARD) for op in others)}) == 6


@pytest.mark.parametrize(
    "op",
    [
        ops.GroupedMatmul(64, 8, 2, 96, 64),
        ops.Attention(1, 70, 70, 4, 2, 64, causal=True),
        ops.Attention(2, 1, 70, 4, 2, 64),
        ops.Conv2d(1, 16, 24, 9, 11, 3, 2, 1, bias=True),
        ops.Softmax(9, 33),
        ops.Elementwise(1003, 2),
        ops.Copy(1003),
        ops.Matmul(8, 8, 64, dtype="tf32"),
    ],
)
def test_every_kind_tells_its_launches_without_memory(op: ops.Operator) -> None:
    assert all(x.name.endswith("_kernel") for x in launches_of(op, CARD))


def test_what_we_have_no_kernel_for_is_refused() -> None:
    with pytest.raises(Unsupported, match="no kernel of ours for gather"):
        launches_of(ops.Gather(5, 8), CARD)


class Counting:
    """An executor that executes nothing: who asks twice is found out."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.futures: list[Future[int]] = []

    def submit(self, function: object, op: object, card: object) -> Future[int]:
        assert function is compile_op and card is CARD
        self.asked.append(op)
        self.futures.append(Future())
        return self.futures[-1]

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        self.asked.append("shut down")


def test_each_operator_is_compiled_once_and_torch_never() -> None:
    executor = Counting()
    ahead = Ahead(CARD, executor)  # type: ignore[arg-type]
    for implementation in ("torch", "triton", "triton"):
        ahead.begin(PRODUCT, implementation)
    assert executor.asked == [PRODUCT]
    assert ahead.ready(PRODUCT, "torch") and not ahead.ready(PRODUCT, "triton")
    executor.futures[0].set_result(1)
    assert ahead.ready(PRODUCT, "triton")
    ahead.close()
    assert executor.asked[-1] == "shut down"
