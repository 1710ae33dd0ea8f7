"""The scores as Markdown, Parquet and one picture; every figure in per cent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.scoring.cases import CASES, MARKS, TITLES, Case, Mark
from benchmarks.scoring.score import CHOSEN, OURS, RANDOM
from benchmarks.scoring.splits import FINAL_SEEDS, FINAL_SHARE, HELD_OUT_SHARE

MISSES = Path(__file__).with_name("misses.md")
"""Written by hand after the final scoring."""
TREES = "boosted trees"
PROVENANCES = ("interpolated", "extrapolated", "transferred")
DETAILS = ("mean", "median", "p90", "bias", "coverage", "width")
COMMAND = "python -m benchmarks.accuracy --final"


HEAD = """# Accuracy on shapes and cards that were held out

Made by `make public && {command}` ({groups}). Error is
|estimate / measured - 1|, in per cent; bfloat16; vLLM's kernels as `aiconfigurator-core` 0.12.0
measured them. All methods learn from the same rows and are asked for the same held-out rows, in the
same run.

Models tried on the development groups before this run: {variants}.
"""
MARKS_TEXT = """## What was aimed at

`calib`: on random samples, like the trees; for "GEMM, 300 samples" on those that the sweep's rule
chose. `seeds`: standard deviation over seeds (their number), each with its own held-out groups.
`chosen`: calib on samples that the sweep's rule chose. `trees`: the better of the two boosted-tree
baselines in this run. `published`: the figure of such a baseline that was to be beaten, on a split
of its own. Rows without a mark are reported only: where other cards' tables help, the samples of
the card are no longer all that was learned from.

"""
METHODS_TEXT = """## All methods

Mean error. A column without `chosen` learned from rows drawn at random, or from all.

"""
DETAIL_TEXT = """## calib in detail

`bias`: the mean of estimate / measured - 1. `covered`: share of held-out rows inside the 90%
interval; `half-width`: median of (high - low) / (2 estimate). For each provenance: coverage
(half-width; share of the rows).

"""
NOISE_TEXT = """## The floor: two engines on the same card

The same shape as two engines measured it: |other / vLLM - 1|. Engines measure a card anew, and may
pick another kernel (in attention they do), so a card that was never seen cannot be known much
better than this.

"""
SCORING_TEXT = """## How it was scored

- A group is held out whole: an (n, k) pair of a GEMM, the (heads, kv_heads, batch) of an attention,
  the (hidden, intermediate, experts, top_k) of a MoE.
- A hash of its name makes {final} of the groups final. Development held out and learned from the
  others only. Each final seed holds out {held_out} of all groups, drawn from the final ones.
- For an unseen card, other cards' rows of the held-out groups may be learned: the card is new, the
  shape is not. The A100 was measured with vLLM 0.14.0, the others with 0.24.0.
- Attention is carried between cards that run the same kernel: FlashAttention 3 on the two Hopper
  cards, FlashAttention 2 on A100, L40S and RTX PRO 6000. B200 has a kernel to itself.
- Rows are hot: weights replayed, L2 not flushed.
- Chosen samples: the rule of `calib.measure.sweep.choice` among 4000 random rows; half are drawn
  evenly, then two rounds in proportion to the fit's spread.
- {parts} scores; `accuracy.parquet` has each seed.
"""


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a case, method and selection: the mean over seeds in per cent, and their spread.

    ``spread``: standard deviation of the mean error over seeds. ``fit_s`` stays in seconds.
    """
    keys = ["case", "method", "selection"]
    numbers = [c for c in scores.select_dtypes("number") if c not in ("seed", "part_s")]
    table = scores.groupby(keys, sort=False)[numbers].mean()
    parts = [c for c in numbers if c not in ("learned", "held_out", "fit_s")]
    table[parts] *= 100
    table["spread"] = 100 * scores.groupby(keys, sort=False)["mean"].std()
    table["seeds"] = scores.groupby(keys, sort=False)["seed"].nunique()
    return table.reset_index()


def mark_figures(table: pd.DataFrame, mark: Mark) -> dict[str, Any] | None:
    """The figures of one mark; None where none of its cases was scored."""
    rows = table[table["case"].isin(mark.cases)]
    ours = rows[rows["method"] == OURS].set_index("selection")
    errors = ours.groupby("selection")["mean"].mean()
    selection = CHOSEN if mark.chosen and CHOSEN in errors else RANDOM
    if set(ours[ours.index == selection]["case"]) != set(mark.cases):
        return None
    is_tree = rows["method"].str.startswith(TREES) & (rows["selection"] == RANDOM)
    error = float(errors[selection])
    return {
        "title": mark.title,
        "selection": selection,
        "error": error,
        "spread": float(ours[ours.index == selection]["spread"].mean()),
        "seeds": int(ours[ours.index == selection]["seeds"].min()),
        "random": float(errors[RANDOM]),
        "chosen": float(errors.get(CHOSEN, np.nan)),
        "trees": float(rows[is_tree].groupby("method")["mean"].mean().min()),
        "published": mark.peer,
        "mark": mark.mark,
        "stretch": mark.stretch,
        "met": None if mark.mark is None else error <= mark.mark,
        "stretch_met": mark.stretch is not None and error <= mark.stretch,
    }


def figures(scores: pd.DataFrame, noise: pd.DataFrame, final: bool) -> dict[str, Any]:
    """All figures as one JSON object."""
    table = summary(scores)
    rows = table.round(3).to_dict("records")
    marks = [found for mark in MARKS if (found := mark_figures(table, mark))]
    return {
        "groups": "final" if final else "development",
        "marks": [_rounded(m) for m in marks],
        "cases": [_rounded({k: v for k, v in row.items() if pd.notna(v)}) for row in rows],
        "engines": noise.round(4).to_dict("records"),
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}


def write(
    scores: pd.DataFrame, noise: pd.DataFrame, out: Path, *, final: bool, variants: str
) -> None:
    """``accuracy.parquet``, ``accuracy.md`` and ``accuracy.png`` in ``out``."""
    from benchmarks.scoring.picture import draw

    out.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(out / "accuracy.parquet")
    draw(summary(scores), noise, out / "accuracy.png")
    (out / "accuracy.md").write_text(markdown(scores, noise, final, variants), "utf-8")


def markdown(scores: pd.DataFrame, noise: pd.DataFrame, final: bool, variants: str) -> str:
    table = summary(scores)
    sections = [
        _head(final, variants),
        _marks(table),
        "## Error against the number of samples\n\n![Error against samples](accuracy.png)\n",
        MISSES.read_text("utf-8") if final else "",
        _methods(table),
        _intervals(table),
        _noise(noise),
        _scoring(scores),
    ]
    return "\n".join(sections)


def _head(final: bool, variants: str) -> str:
    command = COMMAND if final else COMMAND.removesuffix(" --final")
    groups = f"final groups, {len(FINAL_SEEDS)} seeds" if final else "development groups"
    return HEAD.format(command=command, groups=groups, variants=variants)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _grid(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(_line(row) for row in [header, rule, *rows]) + "\n"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _marks(table: pd.DataFrame) -> str:
    found = [figure for mark in MARKS if (figure := mark_figures(table, mark))]
    header = [
        "mean error",
        "calib",
        "seeds",
        "chosen",
        "trees",
        "published",
        "mark",
        "stretch",
        "",
    ]
    words = {None: "reported", True: "met", False: "**missed**"}
    rows = [
        [
            f["title"],
            _number(f["error"], 2),
            f"± {_number(f['spread'], 2)} ({f['seeds']})",
            _number(f["chosen"], 2),
            _number(f["trees"], 2),
            _number(f["published"]),
            _number(f["mark"]),
            _number(f["stretch"]),
            "stretch met" if f["stretch_met"] else words[f["met"]],
        ]
        for f in found
    ]
    scored = {f["title"] for f in found}
    for mark in MARKS:
        if mark.title not in scored:
            asked = [_number(figure) for figure in (mark.peer, mark.mark, mark.stretch)]
            rows.append([mark.title, "-", "-", "-", "-", *asked, "not scored yet"])
    return MARKS_TEXT + _grid(header, rows)


def _columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = list(
        table[["method", "selection"]].drop_duplicates().itertuples(index=False, name=None)
    )
    return sorted(pairs, key=lambda pair: (pair[0] != OURS, pair[0].startswith(TREES), pair))


def _methods(table: pd.DataFrame) -> str:
    columns = _columns(table)
    means = table.set_index(["case", "method", "selection"])["mean"]
    names = [f"{m}, chosen" if selection == CHOSEN else m for m, selection in columns]
    rows = [
        [label(case), *(_number(means.get((case.name, *column))) for column in columns)]
        for case in CASES
        if case.name in set(table["case"])
    ]
    return METHODS_TEXT + _grid(["", *names], rows)


def label(case: Case) -> str:
    title = f"{TITLES[case.table]}, {case.card}"
    budget = "all" if case.budget is None else f"{case.budget} samples"
    if not case.donors:
        return f"{title}, {budget}"
    unseen = "both Hopper cards unseen" if case.note else "unseen"
    return f"{title} {unseen}{f', {budget}' if case.budget else ''}"


def _intervals(table: pd.DataFrame) -> str:
    ours = table[table["method"] == OURS].set_index(["case", "selection"])
    header = ["", "mean", "median", "p90", "bias", "covered", "half-width", *PROVENANCES, "fit [s]"]
    rows = []
    for case in CASES:
        for selection in (RANDOM, CHOSEN):
            if (case.name, selection) in ours.index:
                row = ours.loc[(case.name, selection)]
                title = label(case) + (", chosen" if selection == CHOSEN else "")
                parts = [_provenance(row, name) for name in PROVENANCES]
                rows.append([title, *(_number(row[k]) for k in DETAILS), *parts])
                rows[-1].append(_number(row["fit_s"]))
    return DETAIL_TEXT + _grid(header, rows)


def _provenance(row: pd.Series, name: str) -> str:
    share = row.get(f"share {name}")
    if share is None or pd.isna(share):
        return "-"
    return f"{row[f'coverage {name}']:.0f} ({row[f'width {name}']:.0f}; {share:.0f})"


def _noise(noise: pd.DataFrame) -> str:
    rows = [
        [f"{TITLES[r.table]}, {r.card}, vllm and {r.engine}", f"{r.held_out:,}"]
        + [_number(100 * v) for v in (r.mean, r.median, r.p90)]
        for r in noise.itertuples()
    ]
    return NOISE_TEXT + _grid(["", "rows", "mean", "median", "p90"], rows)


def _scoring(scores: pd.DataFrame) -> str:
    parts = scores.groupby(["case", "seed", "method", "selection"]).ngroups
    return SCORING_TEXT.format(
        final=f"{FINAL_SHARE:.0%}", held_out=f"{HELD_OUT_SHARE:.0%}", parts=f"{parts:,}"
    )
