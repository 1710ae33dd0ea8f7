"""What each kernel takes of a card that need not be there: registers, spills, shared memory.

    python -m kernels.resources                          all cards, a table on the terminal
    python -m kernels.resources --cards sm_90 sm_120     some of them
    python -m kernels.resources --write docs/kernels.md  the document

Each launch of ``kernels.shipped`` is compiled the way a call on that card would compile it: a
driver that only names its target takes the place of the real one. The figures are read from the
machine code by ``cuobjdump``, which comes with triton.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget

from kernels.launch import ARCHITECTURES, Architecture, Launch
from kernels.shipped import Specimen, specimens

MATRIX_INSTRUCTION = re.compile(r"\b(HMMA|HGMMA|UTC[A-Z]*MMA)\b")
GLOBAL_LOAD = re.compile(r"\b(LDG|LDGSTS)\.(\S+)")
BULK_LOAD = re.compile(r"\bUTMALDG\b")
SPILL = re.compile(r"\b(LDL|STL)\b")
PTX = {
    "wgmma": r"wgmma\.mma_async",
    "tcgen05": r"tcgen05\.mma",
    "mma": r"mma\.sync",
    "bulk load": r"cp\.async\.bulk\.tensor\S*shared::\w+\.global",
    "bulk store": r"cp\.async\.bulk\.tensor\S*global\.shared::cta",
    "copy": r"cp\.async\.c[ag]\.",
    "atomic": r"\b(?:atom|red)\.\S*(?:global|gpu)",
}
"""What is counted in PTX: matrix instructions of four warps, of a block and of one warp; tiles by
descriptor in and out; 16-byte copies in the background; sums in memory."""
WAIT = re.compile(r"\bWARPGROUP\.DEPBAR\.LE gsb0, 0x0\b")
"""For all matrix instructions of four warps that are in flight: one a step or fewer, or, where
ptxas cannot keep them in flight, one after each."""


@dataclass(frozen=True)
class Resources:
    """One compiled configuration of one kernel on one card."""

    kernel: str
    variant: str
    card: str
    warps: int
    registers: int
    """A thread."""
    spills: int
    """Loads and stores of local memory in the machine code."""
    stack_bytes: int
    shared_bytes: int
    occupancy: float
    """Warps that fit an SM, over the most it can hold."""
    matrix_instruction: str
    """HMMA (of a warp), HGMMA (of four), UTCHMMA (of a block), or none."""
    dot_inputs: bool
    """Whether the source multiplies matrices (``tl.dot``)."""
    loads: dict[str, int]
    """Global load instructions by width: bits of a thread's access, or ``bulk`` by descriptor."""
    vector_bits: int
    """Bits of the widest global load of a thread; 0 where all come by descriptor or none does."""
    instructions: dict[str, int]
    """Counted in PTX, by the names of ``PTX``, and ``waits`` for all ``wgmma``."""


class _NamedTarget:
    """What triton asks a driver before it compiles; the device's number is its capability."""

    def __init__(self, architecture: Architecture) -> None:
        self.target = GPUTarget("cuda", architecture.capability, 32)

    def get_current_device(self) -> int:
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compile_for(launch: Launch, architecture: Architecture) -> triton.compiler.CompiledKernel:
    """The kernel as a call on ``architecture`` would compile it; nothing is launched.

    From then on this process only compiles: its driver is the one that names a target. Raises
    ``RuntimeError`` under the interpreter, which compiles nothing.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: expected it unset, since nothing compiles so")
    triton.runtime.driver.set_active(_NamedTarget(architecture))
    return launch.kernel.warmup(grid=launch.grid, **launch.arguments, **launch.options)


def cuobjdump(cubin: bytes) -> str:
    """Resource usage and machine code, as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def load_widths(sass: str) -> dict[str, int]:
    """Global loads by width. An access without a width in its name is of 32 bits."""
    widths: Counter[str] = Counter()
    for _, modifiers in GLOBAL_LOAD.findall(sass):
        bits = re.search(r"(?:^|\.)[US]?(8|16|64|128|256)(?:\.|$)", modifiers)
        widths[bits[1] if bits else "32"] += 1
    widths["bulk"] = len(BULK_LOAD.findall(sass))
    return {width: count for width, count in widths.items() if count}


def instructions(ptx: str, sass: str) -> dict[str, int]:
    """What a kernel is made of, those it has none of left out."""
    counts = {name: len(re.findall(pattern, ptx)) for name, pattern in PTX.items()}
    counts["waits"] = len(WAIT.findall(sass))
    return {name: count for name, count in counts.items() if count}


def occupancy(registers: int, shared: int, warps: int, architecture: Architecture) -> float:
    """Share of an SM's warps that can reside at once, by what runs out first.

    Registers are handed out by 256 to a warp; a block takes 1 KiB of shared memory for itself.
    """
    registers_per_block = warps * (-(-registers * 32 // 256) * 256)
    most_warps = architecture.threads_per_sm // 32
    blocks = min(
        architecture.registers_per_sm // registers_per_block,
        architecture.shared_per_sm // (shared + 1024),
        most_warps // warps,
        architecture.blocks_per_sm,
    )
    return blocks * warps / most_warps


def measure(specimen: Specimen, architecture: Architecture) -> Resources:
    """Compile one launch and read its machine code."""
    launch = specimen.launch
    compiled = compile_for(launch, architecture)
    text = cuobjdump(compiled.asm["cubin"])
    usage = dict(re.findall(r"\b(REG|STACK):(\d+)", text))
    matrix, loads = MATRIX_INSTRUCTION.findall(text), load_widths(text)
    registers, shared = int(usage["REG"]), int(compiled.metadata.shared)
    threads = re.search(r"\.reqntid (\d+)", compiled.asm["ptx"])
    warps = int(threads[1]) // 32 if threads else launch.warps
    return Resources(
        kernel=launch.name,
        variant=specimen.variant,
        card=architecture.name,
        warps=warps,
        registers=registers,
        spills=len(SPILL.findall(text)),
        stack_bytes=int(usage["STACK"]),
        shared_bytes=shared,
        occupancy=occupancy(registers, shared, warps, architecture),
        matrix_instruction=matrix[0] if matrix else "",
        dot_inputs="tt.dot" in compiled.asm["ttir"],
        loads=loads,
        vector_bits=max((int(w) for w in loads if w != "bulk"), default=0),
        instructions=instructions(compiled.asm["ptx"], text),
    )


def measure_card(name: str, kernels: Iterable[str] | None = None) -> list[Resources]:
    """All configurations of one card, or those of some kernels."""
    architecture = ARCHITECTURES[name]
    chosen = (s for s in specimens(architecture) if not kernels or s.launch.name in kernels)
    return [measure(s, architecture) for s in chosen]


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "-"


def markdown(rows: list[Resources]) -> str:
    """A table a card."""
    head = (
        "| kernel | configuration | registers | spills | shared B | occupancy | matrix | loads "
        "| in PTX |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    tables = []
    for card in dict.fromkeys(r.card for r in rows):
        lines = (
            f"| {r.kernel.removesuffix('_kernel')} | {r.variant} | {r.registers} | {r.spills} "
            f"| {r.shared_bytes} | {r.occupancy:.0%} | {r.matrix_instruction or '-'} "
            f"| {listed(r.loads)} | {listed(r.instructions)} |\n"
            for r in rows
            if r.card == card
        )
        limit = ARCHITECTURES[card].shared_per_block
        tables.append(f"## {card} (shared memory of a block: {limit} B)\n\n{head}{''.join(lines)}")
    return "\n".join(tables)


DOCUMENT = """# Kernels: what the compiler made of them

Written by `python -m kernels.resources --write docs/kernels.md` with triton {version}; no card is
needed for it. The tiles and ways of `kernels/configs` that fit each card, compiled in bfloat16 at
shapes of DeepSeek-OCR: heads of 128 and 64 (the backward with the tile that these get), other head
sizes and dtypes are not in the table. *Registers* are those of a thread; *spills* are instructions
that touch local memory; *occupancy* is the share of an SM's warps that fit at once; *matrix* is the
instruction that multiplies (HMMA of a warp, HGMMA of four warps, UTCHMMA of a block); *loads* are
the global load instructions in the code by bits a thread, `bulk` where a descriptor fetches a tile;
*in PTX* counts matrix instructions (`mma` of a warp, `wgmma` of four, `tcgen05` of a block), tiles
that a descriptor brings or takes (`bulk load`, `bulk store`), 16-byte copies in the background
(`copy`), sums in memory (`atomic`), and in the machine code how often a warp waits for all `wgmma`
in flight (`waits`): as many as there are `wgmma` mean that none was in flight beside another.

**Some of these are timed.** On 2026-11-27 an H200 (torch 2.11, triton 3.6) timed every tile and way
that there then was, each checked first; its choices ship (`kernels/configs/tiles/sm_90.json`, with
the seconds of every contender), and the ways that gained nothing are gone. What has been added
since is predicted to gain and not timed: [kernels/README.md](../kernels/README.md) says which. A
*way* (its name ends the configuration) is taken where that table, or the user's own, says so; on
sm_90 the model takes two of them by itself. Other cards keep the model's plain tiles.
What the tables here cannot say: whether kernels are right as compiled, not only under the
interpreter (`pytest -m gpu`), and how fast they are. On a card

```
python -m benchmarks.kernels --tune --budget 300 --rounds 20 --out outputs/kernels
cp outputs/kernels/sm_90.json kernels/configs/tiles/      # what ships from then on
```

times what has no choice yet, once a class of shapes, each contender compiled ahead and checked
against its reference; it goes on where an earlier call ended, on the card of a table that ships
where that ends, and `--again linear decode` times those classes once more. Then it compares the
choices with the vendor's kernels, and says of each mark of Hopper (geometric means of the vendor's
time over ours: linear 0.92, of fewer than 256 rows 1.0, attention of a prompt 0.92, its backward
0.8, of a token 1.05, convolutions, depthwise and SwiGLU 1.0, experts 1.2; norms and softmax 0.92 of
the measured bandwidth, at 64 MB and more) whether it is reached.

{summary}

{tables}"""


def summary(rows: list[Resources]) -> str:
    """One line a card."""
    head = (
        "| card | configurations | with spills | most registers | most shared B | limit B "
        "| matrix instructions |\n|---|---|---|---|---|---|---|\n"
    )
    lines = []
    for card in dict.fromkeys(r.card for r in rows):
        mine = [r for r in rows if r.card == card]
        instructions = Counter(r.matrix_instruction for r in mine if r.matrix_instruction)
        lines.append(
            f"| {card} | {len(mine)} | {sum(r.spills > 0 for r in mine)} "
            f"| {max(r.registers for r in mine)} | {max(r.shared_bytes for r in mine)} "
            f"| {ARCHITECTURES[card].shared_per_block} "
            f"| {', '.join(f'{i}: {n}' for i, n in sorted(instructions.items()))} |"
        )
    return head + "\n".join(lines)


def write(path: Path, text: str) -> None:
    """To a temporary name beside ``path``, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(path.name + ".part")
    partial_path.write_text(text, encoding="utf-8")
    os.replace(partial_path, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.resources", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    cards = [name for name in ARCHITECTURES if name != "sm_86"]  # sm_89 has the same limits
    parser.add_argument("--cards", nargs="+", choices=list(ARCHITECTURES), default=cards)
    parser.add_argument("--kernels", nargs="+", help="only these, as in linear_kernel")
    parser.add_argument("--jobs", type=int, default=1, help="cards compiled at once")
    parser.add_argument("--json", action="store_true", help="records instead of a table")
    parser.add_argument("--write", type=Path, help="a document with the table")
    options = parser.parse_args(arguments)
    each = partial(measure_card, kernels=options.kernels)
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            rows = [r for card in pool.map(each, options.cards) for r in card]
    else:
        rows = [r for card in options.cards for r in each(card)]
    if options.write:
        text = DOCUMENT.format(
            version=triton.__version__, summary=summary(rows), tables=markdown(rows)
        )
        write(options.write, text)
    sys.stdout.write(json.dumps([asdict(r) for r in rows]) if options.json else summary(rows))
    sys.stdout.write("\n" if options.json or options.write else "\n\n" + markdown(rows))


if __name__ == "__main__":
    main()
