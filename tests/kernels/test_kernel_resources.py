"""Every shipped configuration compiled for sm_90 and sm_120, on a machine that has neither.

The compiler runs in a process of its own, by the command that writes docs/kernels.md, because this
one may be under the interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

import kernels
from kernels.launch import ARCHITECTURES
from kernels.resources import Resources, instructions, load_widths, markdown, occupancy, summary

ROOT = Path(__file__).parents[2]
CARDS = ("sm_90", "sm_120")
STREAMS = ("copy_kernel", "scale_kernel", "add_kernel", "triad_kernel")
PRODUCTS = {
    *("linear_kernel", "swiglu_kernel", "grouped_kernel", "conv2d_kernel", "attention_kernel"),
    *("dkdv_kernel", "dq_kernel", "split_kernel", "persistent_kernel", "joined_kernel"),
    *("described_kernel", "columns_kernel", "rows_kernel", "windows_kernel"),
}


def compile_on(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.resources", *options]
    return subprocess.run(
        command, cwd=ROOT, env=variables | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def compiled() -> list[Resources]:
    done = compile_on("--cards", *CARDS, "--jobs", str(len(CARDS)), "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return [Resources(**record) for record in json.loads(done.stdout)]


def named(rows: list[Resources]) -> list[str]:
    return [f"{r.card} {r.kernel} {r.variant}" for r in rows]


def test_every_kernel_is_compiled_for_both_cards(compiled: list[Resources]) -> None:
    """All functions called *_kernel in the package, found by their names."""
    pages = [import_module(m.name) for m in walk_packages(kernels.__path__, "kernels.")]
    written = {n for page in pages for n in vars(page) if n.endswith("_kernel")}
    assert len(written) > 15
    by_descriptor = {"described_kernel", "columns_kernel", "rows_kernel", "group_sum_kernel"}
    by_descriptor |= {"windows_kernel"}
    assert {r.kernel for r in compiled if r.card == "sm_90"} == written
    assert {r.kernel for r in compiled if r.card == "sm_120"} == written - by_descriptor


def test_no_spills(compiled: list[Resources]) -> None:
    assert not named([r for r in compiled if r.spills])


def test_shared_memory_is_below_the_limit(compiled: list[Resources]) -> None:
    over = [r for r in compiled if r.shared_bytes > ARCHITECTURES[r.card].shared_per_block]
    assert not named(over)


def test_every_product_is_on_matrix_instructions(compiled: list[Resources]) -> None:
    assert {r.kernel for r in compiled if r.dot_inputs} == PRODUCTS
    assert not named([r for r in compiled if r.dot_inputs and not r.matrix_instruction])
    large = [r for r in compiled if r.kernel == "linear_kernel" and r.variant.startswith("128x128")]
    assert {(r.card, r.matrix_instruction) for r in large} == {
        ("sm_90", "HGMMA"),
        ("sm_120", "HMMA"),
    }


def test_ways_of_a_linear_layer_use_what_hopper_has(compiled: list[Resources]) -> None:
    """Tiles by descriptor, groups of four warps that multiply; results leave by descriptor."""
    mine = [r for r in compiled if r.kernel == "persistent_kernel"]
    hopper = [r for r in mine if r.card == "sm_90"]
    assert len(hopper) > 8 and len(mine) > len(hopper)
    assert all({"wgmma", "bulk load"} <= r.instructions.keys() for r in hopper)
    assert all("bulk store" in r.instructions for r in hopper)


def test_no_product_of_a_step_waits_for_the_one_before(compiled: list[Resources]) -> None:
    """What ptxas cannot keep in flight it lets wait one by one: a tile of 128 x 256 did, as long as
    its loop might have had no step."""
    products = ("linear_kernel", "joined_kernel", "persistent_kernel", "swiglu_kernel")
    products += ("grouped_kernel", "conv2d_kernel")
    many = [r for r in compiled if r.kernel in products and r.instructions.get("wgmma", 0) >= 4]
    assert len(many) > 30 and all("waits" in r.instructions for r in many)
    assert not named([r for r in many if r.instructions["waits"] >= r.instructions["wgmma"]])


def test_instructions_are_counted_in_ptx() -> None:
    ptx = """
        cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd1];
        cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1];
        cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {%r2, %r3}], [%r1];
        wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {%f1}, %rd2, %rd3;
        cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r4;
        atom.global.acq_rel.gpu.add.u32 %r1, [%rd1], 1;
    """
    counts = {
        "bulk load": 2,
        "bulk store": 1,
        "wgmma": 1,
        "copy": 1,
        "atomic": 1,
        "waits": 1,
    }
    assert instructions(ptx, "WARPGROUP.DEPBAR.LE gsb0, 0x0 ;") == counts


def test_streams_load_16_bytes_and_nothing_less(compiled: list[Resources]) -> None:
    streams = [r for r in compiled if r.kernel in STREAMS]
    assert len(streams) == len(STREAMS) * len(CARDS)
    assert {tuple(r.loads) for r in streams} == {("128",)}


def test_operands_come_by_16_bytes_or_by_descriptor(compiled: list[Resources]) -> None:
    """Where rows are aligned: parameters and counts, a few loads, may be narrower."""
    wide = ("attention_kernel", "split_kernel", "conv2d_kernel", "rms_norm_kernel", "swiglu_kernel")
    mine = [r for r in compiled if r.kernel in wide]
    assert mine
    assert not named([r for r in mine if r.vector_bits != 128 and "bulk" not in r.loads])
    linear = [r for r in compiled if r.kernel == "linear_kernel" and "aligned" in r.variant]
    assert all("bulk" in r.loads for r in linear if r.card == "sm_90")
    assert all(r.vector_bits == 128 for r in linear if r.card == "sm_120")


def test_the_interpreter_is_refused() -> None:
    done = compile_on("--cards", "sm_90", "--kernels", "empty_kernel", TRITON_INTERPRET="1")
    assert done.returncode != 0
    assert "TRITON_INTERPRET is set: expected it unset" in done.stderr


def test_load_widths_of_machine_code() -> None:
    sass = """
        LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        LDG.E R4, desc[UR4][R2.64] ;
        LDG.E.U16 R4, desc[UR4][R2.64] ;
        LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64] ;
        LDGDEPBAR ;
        UTMALDG.2D [UR8], [UR4] ;
    """
    assert load_widths(sass) == {"128": 2, "32": 1, "16": 1, "bulk": 1}


@pytest.mark.parametrize(
    "card, registers, shared, warps, expected",
    [
        ("sm_90", 32, 0, 4, 1.0),  # threads run out: 16 blocks of 4 warps, 64 warps
        ("sm_90", 128, 0, 4, 0.25),  # registers: 65536 / (4 * 32 * 128) = 4 blocks
        ("sm_90", 64, 98_304, 8, 0.25),  # shared memory: 233472 / (98304 + 1024) = 2 blocks
        ("sm_90", 4, 0, 1, 0.5),  # blocks: 32 of one warp
        ("sm_120", 255, 65_536, 8, 8 / 48),
    ],
)
def test_occupancy(card: str, registers: int, shared: int, warps: int, expected: float) -> None:
    assert occupancy(registers, shared, warps, ARCHITECTURES[card]) == expected


def test_tables() -> None:
    common: dict[str, Any] = {"card": "sm_90", "warps": 4, "stack_bytes": 0, "dot_inputs": True}
    row = Resources(
        kernel="linear_kernel",
        variant="64x64x64",
        registers=80,
        spills=3,
        shared_bytes=4096,
        occupancy=0.25,
        matrix_instruction="HGMMA",
        loads={"128": 2, "bulk": 1},
        vector_bits=128,
        instructions={"wgmma": 4, "bulk load": 1},
        **common,
    )
    line = "| linear | 64x64x64 | 80 | 3 | 4096 | 25% | HGMMA | 128: 2, bulk: 1 | "
    assert f"{line}bulk load: 1, wgmma: 4 |" in markdown([row])
    assert "| sm_90 | 1 | 1 | 80 | 4096 | 232448 | HGMMA: 1 |" in summary([row])
