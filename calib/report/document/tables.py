"""Tables of GitHub's Markdown: of texts, and of the page's grids."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from calib.report.layers.tree import Branch
from calib.report.page.cells import Grid
from calib.report.page.work import module_grid
from calib.report.record import RunRecord, as_code, escaped
from calib.report.terminal import Cells

MODULES = 12
"""Modules that are listed, the dearest; ``modules.parquet`` has them all."""
KNOWN = "known"
INDENT = "&nbsp;" * 3


def table(cells: Cells, bold_last: bool = False) -> str:
    """Pipes inside cells are escaped."""
    rows = [list(row) for row in cells.rows]
    if bold_last and rows:
        rows[-1] = [f"**{cell}**" for cell in rows[-1]]
    return lines([i < cells.left for i in range(len(cells.headers))], [cells.headers, *rows])


def lines(left: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """The head is the first of ``rows``; ``left``: of each column, whether it holds words."""
    marks = ["---" if words else "---:" for words in left]
    plain = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    whole = [plain[0], marks, *plain[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in whole)


def grid_table(grid: Grid, without: Collection[str] = ()) -> str:
    """The page's table less the columns that hold bars only, those that are named, and one that
    says of every row that it is known alike: the answer above has said so."""
    keep = [
        i
        for i, column in enumerate(grid.columns)
        if column.head not in without
        and (texts := {row.cells[i].text for row in grid.rows}) != {""}
        and not (column.head == KNOWN and len(texts) == 1)
    ]
    heads = [grid.columns[i].head for i in keep]
    rows = []
    for row in grid.rows:
        cells = [escaped(row.cells[i].text) for i in keep]
        rows.append([f"**{c}**" for c in cells] if row.mark == "total" else cells)
    return lines([grid.columns[i].words for i in keep], [heads, *rows])


def module_table(record: RunRecord, tree: Sequence[Branch], times: bool) -> str:
    """The dearest modules in the order of the tree; above each stands what it is a part of."""
    cost = "wall_s" if times else "bytes"
    dearest = sorted(range(len(tree)), key=lambda i: -(tree[i].costs[cost] or 0.0))[:MODULES]
    shown = [tree[i] for i in sorted(dearest)]
    grid = module_grid(record, shown, times)
    spare = ("floor", "weights", "FLOPs", "bytes") if times else ()
    keep = [i for i, column in enumerate(grid.columns) if column.head not in spare]
    rows = []
    for row, branch in zip(grid.rows, shown, strict=True):
        name, *others = (row.cells[i].text for i in keep)
        label = INDENT * branch.depth + as_code(branch.name)
        rows.append([label + name[len(branch.name) :], *others])
    return lines(
        [grid.columns[i].words for i in keep], [[grid.columns[i].head for i in keep], *rows]
    )
