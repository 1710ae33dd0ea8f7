"""The last table of a grid: a column for every swept key, whether a run fits, what a user asks.

It is at most as wide as the terminal. Where it would be wider it says in short how times are known,
then loses the whole time and its interval; then heads are abbreviated; then how times are known
goes into a line of its own (:func:`print_runs`); then the longest words are cut.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.report.record import known
from calib.report.runs.table import NUMBERS, varied
from calib.report.terminal import KNOWN_BY, WIDTH, Cells, known_in_words, print_cells
from calib.report.terminal import SHORT as SHORTER
from calib.report.terminal import columns as columns_of
from calib.report.units import BYTES, FLOPS, UNKNOWN, grouped, interval, scaled, seconds

if TYPE_CHECKING:
    import pandas as pd

SAME = {
    "hw": "hardware",
    "workload.batch": "batch",
    "workload.decode_steps": "decode_steps",
    "workload.prompt_tokens": "prompt_tokens",
    "workload.side": "side",
    "workload.tiles": "tiles",
    "workload.logits": "logits",
    "model.name": "model",
}
"""Keys that a report answers to under another name."""
SHORT = {
    "hardware": "hw",
    "decode_steps": "steps",
    "prompt_tokens": "prompt",
    "execution": "exec",
    "implementation": "impl",
    "workload": "work",
    "state_dtype": "state",
    "master_dtype": "master",
}
EXPENDABLE = ("time", "interval")
LEAST_WORD = 8
"""Letters that a cut word keeps at least."""


@dataclass(frozen=True)
class Column:
    head: str
    cells: list[str]
    is_key: bool = False

    @property
    def width(self) -> int:
        """As it is printed, with what stands around it: a head breaks at its first space."""
        return max(map(len, [*self.head.split(" ", 1), *self.cells])) + 2


def run_cells(table: pd.DataFrame, width: int = WIDTH) -> Cells:
    """The runs side by side; a run that does not fit has no times."""
    keys = key_columns(table)
    columns = [Column("run", [str(run) for run in table["run"]], True), *keys]
    columns += [*answer_columns(table), *time_columns(table)]
    columns = narrowed(columns, width)
    words = sum(1 for c in columns if c.is_key and c.head not in numeric(table))
    rows = list(zip(*(c.cells for c in columns), strict=True))
    return Cells(tuple(c.head for c in columns), rows, left=words)


def print_runs(table: pd.DataFrame) -> None:
    """``run_cells`` as wide as the terminal, to the standard output."""
    cells = run_cells(table, columns_of(sys.stdout))
    print_cells(cells)
    if KNOWN_BY not in cells.headers and table["wall_s"].map(known).any():
        rows = zip(table["run"].astype(str), table["provenance"].astype(str), strict=True)
        print(textwrap.fill(known_in_words(rows), columns_of(sys.stdout)))


def numeric(table: pd.DataFrame) -> set[str]:
    found = {"batch", "side", "tokens", "steps", "prompt", "decode steps", "prompt tokens"}
    return found | {head_of(str(c)) for c in table if table[c].dtype.kind in "if"}


def swept_keys(asked: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that differ between runs, in the order given. ``asked``: overrides of each run."""
    keys = dict.fromkeys(key for words in asked for key in words)
    return [key for key in keys if len({words.get(key) for words in asked}) > 1]


def with_keys(table: pd.DataFrame, asked: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """``table`` with a column for every swept key, under its own name; what stood in quotes is no
    number."""
    import pandas as pd

    for key in swept_keys(asked):
        if key not in table:
            given = pd.Series([words.get(key) for words in asked], index=table.index, dtype=object)
            numbers = pd.to_numeric(given, errors="coerce")
            texts = given.map(lambda text: text and text.strip("'\""))
            table = table.assign(**{key: texts if numbers.isna().any() else numbers})
    table.attrs["swept"] = swept_keys(asked)
    return table


def key_columns(table: pd.DataFrame) -> list[Column]:
    """Of the swept keys; where nobody noted them, of what tells the runs apart. Words first."""
    named = ((SAME.get(key, key), key) for key in table.attrs.get("swept", ()))
    names = list(dict.fromkeys(same if same in table else key for same, key in named))
    names = names or varied(table)
    columns = [Column(head_of(n), words_of(table[n]), True) for n in names]
    numbers = numeric(table) | set(NUMBERS)
    return sorted(columns, key=lambda c: c.head in numbers)


def head_of(name: str) -> str:
    """ "decode steps" of ``workload.decode_steps``."""
    return name.rpartition(".")[2].replace("_", " ")


def words_of(values: pd.Series) -> list[str]:
    """Cells of a key; of paths what they have in common is left out."""
    texts = [
        UNKNOWN if not known(v) else f"{v:g}" if isinstance(v, float) else str(v) for v in values
    ]
    if all("/" in text for text in texts) and len(set(texts)) > 1:
        parts = [Path(text).parts for text in texts]
        while len({p[0] for p in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [p[1:] for p in parts]
        texts = ["/".join(p) for p in parts]
    return texts


def answer_columns(table: pd.DataFrame) -> list[Column]:
    """Whether it fits, and what a user asks, as far as any run knows it."""
    fits = [{True: "yes", False: "no"}.get(v, UNKNOWN) for v in table["fits"].tolist()]
    columns = [Column("fits", fits)]
    several = "cards" in table and table["cards"].max() > 1
    if several:
        columns.insert(0, Column("cards", words_of(table["cards"])))
    for name, head, cell in FIGURES:
        if name.endswith("per_card") and not several:
            continue
        if name in table and table[name].map(known).any():
            columns.append(Column(head, [cell(v) for v in fitting(table, name)]))
    rates = [c for c in columns if c.head.endswith("/s")]
    drawn = [c for c in columns if c.head.startswith("J a ")]
    drawn.sort(key=lambda column: column.cells.count(UNKNOWN))
    return [c for c in columns if c not in (*rates[1:], *drawn[1:])]


def rate(value: Any) -> str:
    return grouped(value) if known(value) else UNKNOWN


def milliseconds(value: Any) -> str:
    return grouped(value * 1e3) if known(value) else UNKNOWN


FIGURES = (
    ("time_to_first_token", "TTFT", seconds),
    ("time_per_output_token", "ms a token", milliseconds),
    ("time_of_a_pass", "a pass", seconds),
    ("time_of_a_step", "a step", seconds),
    ("tokens_per_second", "tokens/s", rate),
    ("tokens_per_second_per_card", "a card", rate),
    ("images_per_second", "images/s", rate),
    ("pages_per_second", "pages/s", rate),
    ("samples_per_second", "samples/s", rate),
    ("requests_per_second", "requests/s", rate),
    ("MFU", "MFU %", rate),
    ("joules_a_token", "J a token", rate),
    ("joules_a_request", "J a request", rate),
)
"""Column of the table of runs, its head, its cell; of the rates the first that is known, of
joules the one that most runs know."""


def fitting(table: pd.DataFrame, name: str) -> list[Any]:
    """A column with nothing where the run does not fit."""
    values = table[name].astype(float)
    return [
        None if fits is False else v for v, fits in zip(values, table["fits"].tolist(), strict=True)
    ]


def time_columns(table: pd.DataFrame) -> list[Column]:
    """The whole, with its interval; without times what it costs."""
    if not table["wall_s"].map(known).any():
        costs = (("flops", "FLOPs", FLOPS), ("io_bytes", "bytes", BYTES))
        return [Column(head, [scaled(v, scale) for v in table[n]]) for n, head, scale in costs]
    ends = zip(fitting(table, "wall_low_s"), fitting(table, "wall_high_s"), strict=True)
    return [
        Column("time", [seconds(v) for v in fitting(table, "wall_s")]),
        Column("interval", [interval(low, high) for low, high in ends]),
        Column(KNOWN_BY, [str(v) for v in table["provenance"]]),
    ]


# What a table of a hundred columns loses


def narrowed(columns: list[Column], width: int) -> list[Column]:
    if too_wide(columns, width):
        columns = [
            Column(c.head, [SHORTER.get(v, v) for v in c.cells]) if c.head == KNOWN_BY else c
            for c in columns
        ]
    for head in EXPENDABLE:
        if too_wide(columns, width):
            columns = [c for c in columns if c.head != head]
    if too_wide(columns, width):
        columns = [Column(short(c.head), c.cells, True) if c.is_key else c for c in columns]
    if too_wide(columns, width):
        columns = [c for c in columns if c.head != KNOWN_BY]
    while too_wide(columns, width):
        longest = max((c for c in columns if c.is_key), key=lambda c: max(map(len, c.cells)))
        most = max(map(len, longest.cells)) - 1
        if most < LEAST_WORD:
            break
        cut = Column(longest.head, [clipped(text, most) for text in longest.cells], True)
        columns = [cut if c is longest else c for c in columns]
    return columns


def too_wide(columns: list[Column], width: int) -> bool:
    return sum(c.width for c in columns) > width


def short(head: str) -> str:
    name = head.replace(" ", "_")
    return SHORT.get(name, head)


def clipped(text: str, most: int) -> str:
    """Its two ends, which tell names apart."""
    if len(text) <= most:
        return text
    front = (most - 1) // 2
    return f"{text[:front]}…{text[front + 1 - most :]}"
