"""Files of samples that are broken, one way each, and what reading them says.

A mutant is read right (a flip that no figure hangs on, a null where one may be), refused clearly (a
``CalibError`` that names the file and, where there is one, the column and what is accepted), or it
counts against us. What can be skipped is read once more with ``on_error="skip"``: all other rows
must come back as they were.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hardening.outcome import Outcome
from benchmarks.hardening.sample_judge import Base, Mutant, judge
from calib.samples import Sample, write_samples
from calib.samples.parts.schema import SCHEMA_VERSION
from calib.samples.parts.shapes import MAY_LACK
from calib.samples.sample import Kernel
from model import ops

EXAMPLES = 5
NUMBERS = (
    *("probe_flops", "probe_bandwidth", "probe_host", "sm_clock_hz", "memory_clock_hz"),
    *("power_w", "temperature_c"),
)
WORDS = ("kind", "cache", "origin", "status")
TEXTS = ("hardware", "implementation", "started", "versions", "shape")
IMPOSSIBLE = (float("nan"), float("inf"), float("-inf"), 1e308, 1e30, -1e30, -274.0)
WRONG_WORDS = ("", "wram", "OK", "ok ", "ok\n", "\u2603", "matmul\x00", "x" * 10_000)
NO_DIMENSIONS = (0, -1, 2**40, 10**22, 10**5000, 1.5, 1e22, True, "8", None, [8], {"m": 8})


def samples() -> list[Sample]:
    """Some of every kind of operator, with all that a card tells."""
    shapes: list[ops.Operator] = [
        *(ops.Matmul(3 * m, 64, 128, bias=m % 2 == 0) for m in range(1, 9)),
        *(ops.Attention(1, 9 * n, 9 * n, 8, 2, 64, causal=True, window=n) for n in range(1, 9)),
        *(ops.Conv2d(1, 8, 16, 7 * n, 7, 3, padding=1) for n in range(1, 5)),
        *(ops.Elementwise(1000 * n, 2, out_dtype="float32") for n in range(1, 5)),
        *(ops.Norm(n, 64) for n in range(1, 3)),
        *(ops.MoeMlp(64 * n, 8, 2, 64, 128, distribution="power_law_1.2") for n in range(1, 3)),
        *(ops.GroupedMatmul(16, 8, 2, 64, 64, max_load=8.5), ops.Gather(5, 64), ops.Copy(999)),
        *(ops.Softmax(5, 77), ops.Reduction(5, 77), ops.Other("sort", 80.0, 160.0)),
    ]
    return [
        Sample(
            op=op,
            seconds=[1e-5 + i * 1e-7, 1.1e-5, 1.25e-5],
            hardware="h200",
            implementation="torch",
            device="NVIDIA H200",
            probe_flops=7e14 + i,
            probe_bandwidth=4e12 + i,
            probe_host=2e5 + i,
            sm_clock_hz=1.9e9,
            memory_clock_hz=3.2e9,
            power_w=300.0 + i,
            temperature_c=40.0,
            method="graph",
            kernels=(Kernel("k", (i + 1, 2, 1), (128, 1, 1), 0.75), Kernel("copy", (), (), 0.25)),
            started=f"2026-11-27T10:00:{i:02d}.125+00:00",
            versions={"torch": "2.13"},
        )
        for i, op in enumerate(shapes)
    ]


Kind = Callable[[random.Random, Base], Mutant]


def _file(table: Any) -> bytes:
    whole = pa.BufferOutputStream()
    pq.write_table(table, whole)
    return whole.getvalue().to_pybytes()


def flipped(rng: random.Random, base: Base) -> Mutant:
    place, raw = rng.randrange(len(base.raw)), bytearray(base.raw)
    raw[place] ^= 1 << rng.randrange(8)
    return Mutant(bytes(raw))


def cut(rng: random.Random, base: Base) -> Mutant:
    return Mutant(base.raw[: rng.randrange(len(base.raw))])


def zeroed(rng: random.Random, base: Base) -> Mutant:
    """A block that never reached the disk."""
    place = rng.randrange(len(base.raw))
    block = base.raw[place : place + 512]
    return Mutant(base.raw[:place] + bytes(len(block)) + base.raw[place + len(block) :])


def column_dropped(rng: random.Random, base: Base) -> Mutant:
    name = rng.choice(base.table.column_names)
    return Mutant(_file(base.table.drop_columns([name])), name)


def column_renamed(rng: random.Random, base: Base) -> Mutant:
    name = rng.choice(base.table.column_names)
    names = [n.upper() if n == name else n for n in base.table.column_names]
    table = base.table.rename_columns(names).replace_schema_metadata(base.table.schema.metadata)
    return Mutant(_file(table), name)


def column_doubled(rng: random.Random, base: Base) -> Mutant:
    name = rng.choice(base.table.column_names)
    return Mutant(_file(base.table.append_column(name, base.table.column(name))), name)


def column_retyped(rng: random.Random, base: Base) -> Mutant:
    name = rng.choice(base.table.column_names)
    place, found = base.table.column_names.index(name), base.table.schema.field(name).type
    other = rng.choice([pa.int32(), pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.float32())])
    column = pa.nulls(len(base.table), pa.binary() if other == found else other)
    return Mutant(_file(base.table.set_column(place, name, column)), name)


def version_changed(rng: random.Random, base: Base) -> Mutant:
    version = rng.choice(["1", "2", "4", "", "three", "-1"])
    return Mutant(_file(base.table.replace_schema_metadata({"calib_schema": version})))


def _set(base: Base, row: int, column: str, value: Any, null: str = "") -> Mutant:
    values = base.table.column(column).to_pylist()
    values[row] = value
    place, field = base.table.column_names.index(column), base.table.schema.field(column)
    table = base.table.set_column(place, field, pa.array(values, field.type))
    return Mutant(_file(table), column, row, null)


def number(rng: random.Random, base: Base) -> Mutant:
    row, column = rng.randrange(len(base.samples)), rng.choice(NUMBERS)
    if column == "temperature_c":
        return _set(base, row, column, rng.choice(IMPOSSIBLE))
    return _set(base, row, column, rng.choice([*IMPOSSIBLE, 0.0, -1.0]))


def whole_number(rng: random.Random, base: Base) -> Mutant:
    row, column = rng.randrange(len(base.samples)), rng.choice(["threads", "discarded"])
    return _set(base, row, column, rng.choice([-1, -(2**63), 2**63 - 1]))


def second(rng: random.Random, base: Base) -> Mutant:
    row = rng.randrange(len(base.samples))
    bad = rng.choice([*IMPOSSIBLE, 0.0, -0.0, -1e-6, 3600.0, None])
    return _set(base, row, "seconds", rng.choice([[1e-5, bad], [bad], [bad, bad], [], None]))


def nulled(rng: random.Random, base: Base) -> Mutant:
    row, column = rng.randrange(len(base.samples)), rng.choice(base.table.column_names)
    may_be = column in (*NUMBERS, "threads")
    return _set(base, row, column, None, column if may_be else "")


def word(rng: random.Random, base: Base) -> Mutant:
    row, column = rng.randrange(len(base.samples)), rng.choice(WORDS)
    wrong = [w for w in WRONG_WORDS if w not in getattr(base.samples[row], column, "")]
    return _set(base, row, column, rng.choice(wrong))


def text(rng: random.Random, base: Base) -> Mutant:
    column = rng.choice(TEXTS)
    names = column in ("hardware", "implementation")
    wrong = ["  ", "\n"] if names else ["{", "nan", "[1]", "9" * 5000]
    deep = ["[" * 100_000] if column in ("versions", "shape") else []
    return _set(base, rng.randrange(len(base.samples)), column, rng.choice([*wrong, *deep]))


def _shape(rng: random.Random, base: Base, change: Callable[[dict[str, Any]], None]) -> Mutant:
    row = rng.randrange(len(base.samples))
    shape = json.loads(base.table.column("shape")[row].as_py())
    change(shape)
    return _set(base, row, "shape", _json(shape))


def _json(shape: dict[str, Any]) -> str:
    """Whole numbers of any length."""
    marks = {k: v for k, v in shape.items() if type(v) is int and v > 2**63}
    text = json.dumps({k: f"<{k}>" if k in marks else v for k, v in shape.items()})
    for name, value in marks.items():
        text = text.replace(f'"<{name}>"', f"1{'0' * (22 if value < 10**23 else 5000)}")
    return text


def dimension(rng: random.Random, base: Base) -> Mutant:
    def change(shape: dict[str, Any]) -> None:
        sizes = [k for k, v in shape.items() if type(v) is int and v > 0]
        if not sizes:  # an operator without a formula has totals, which need not be whole
            shape[rng.choice(["read", "written", "arithmetic"])] = rng.choice([-1, 1e30, "8", None])
            return
        name = rng.choice(sizes)
        accepted = {"window": (None,), "inputs": (0,), "padding": (0,)}.get(name, ())
        shape[name] = rng.choice([v for v in NO_DIMENSIONS if v not in accepted or v is True])

    return _shape(rng, base, change)


def field_missing(rng: random.Random, base: Base) -> Mutant:
    """Not one that files of this version may lack: what it is then is its default."""

    def change(shape: dict[str, Any]) -> None:
        shape.pop(rng.choice([name for name in shape if name not in MAY_LACK[SCHEMA_VERSION]]))

    return _shape(rng, base, change)


def field_unknown(rng: random.Random, base: Base) -> Mutant:
    name = rng.choice(["M", "__class__", "operator", "", "self"])
    return _shape(rng, base, lambda shape: shape.update({name: 8}))


def dtype(rng: random.Random, base: Base) -> Mutant:
    wrong = rng.choice(["", "float", "bf16", "BFLOAT16", None, 16, ["bfloat16"], "x" * 9999])
    return _shape(rng, base, lambda shape: shape.update(dtype=wrong))


def kernel(rng: random.Random, base: Base) -> Mutant:
    good = {"name": "k", "grid": [1, 1, 1], "block": [1, 1, 1], "share": 1.0}
    name = rng.choice(list(good))
    sizes = [None, [0, 1, 1], [-1], [None], [2**40], [1, 1, 1, 1]]
    wrong = {"name": [None], "grid": sizes, "block": sizes}
    bad = rng.choice(wrong.get(name, [None, -0.5, 1.5, *IMPOSSIBLE]))
    row = rng.randrange(len(base.samples))
    return _set(base, row, "kernels", rng.choice([[good | {name: bad}], [None], None]))


def not_parquet(rng: random.Random, base: Base) -> Mutant:
    size = rng.randrange(1, 3000)
    return Mutant(rng.choice([b"", b"PAR1", b"PAR1PAR1", rng.randbytes(size), base.raw * 2]))


KINDS: dict[str, Kind] = {
    "a bit flipped": flipped,
    "cut short": cut,
    "a block of zeros": zeroed,
    "not Parquet": not_parquet,
    "a column dropped": column_dropped,
    "a column renamed": column_renamed,
    "a column twice": column_doubled,
    "a column of another type": column_retyped,
    "another version": version_changed,
    "a number that cannot be": number,
    "a count that cannot be": whole_number,
    "seconds that cannot be": second,
    "a null": nulled,
    "a wrong word": word,
    "a wrong text": text,
    "a dimension that cannot be": dimension,
    "a field missing": field_missing,
    "a field too many": field_unknown,
    "a wrong dtype": dtype,
    "a kernel that cannot be": kernel,
}


def run(seconds: float, seed: int) -> list[Outcome]:
    """Mutants of every kind in turn, until ``seconds`` are over; at least one of each."""
    end = time.monotonic() + seconds
    seen: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.parquet"
        raw = write_samples(path, samples()).read_bytes()
        base = Base(samples(), raw, pq.read_table(path))
        round_number = 0
        while not round_number or time.monotonic() < end:
            for kind, make in KINDS.items():
                mutant = make(random.Random(f"{seed} {kind} {round_number}"), base)
                path.write_bytes(mutant.raw)
                seen[kind].append(judge(mutant, base, path))
            round_number += 1
    return [_outcome(kind, found) for kind, found in seen.items()]


def _outcome(kind: str, found: list[tuple[str, str]]) -> Outcome:
    counts = {
        what: sum(result == what for result, _ in found)
        for what in ("clear", "right", "traceback", "silently_wrong", "hang")
    }
    bad = [said for result, said in found if result not in ("clear", "right")]
    return Outcome(
        kind=f"samples: {kind}",
        tried=len(found),
        examples=tuple(dict.fromkeys(bad))[:EXAMPLES],
        **counts,
    )
