"""The answer card: what it takes, whether it fits, what bounds it, how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib.report.energy import energy_answer, energy_basis
from calib.report.layers.build import build_model, tokens_prefilled
from calib.report.lines import BOUND_BY, WORTH_SAYING, longest, memory_parts, parts_verdict
from calib.report.page.cells import BY, DASH, HOW, plain, readable, sentence, span
from calib.report.page.certainty import certainty_of, worst_known
from calib.report.page.what_if import token_seconds, what_fits
from calib.report.record import AVOIDED, GROWS, RunRecord, known
from calib.report.units import figure, nbytes, percent, seconds

if TYPE_CHECKING:
    import pandas as pd

DECODE = "decode"
NAMES = {
    "time to first token": "to first token",
    "time per output token": "per output token",
    "time per token of a new length": "per token of a new length",
    "time of a pass": "a pass",
    "time of all steps": "all steps",
}


@dataclass(frozen=True)
class Tile:
    """A figure of the card."""

    name: str
    value: str
    unit: str
    between: str


@dataclass(frozen=True)
class Fact:
    """A question of a reader and its answer; ``mood``: good, bad or nothing."""

    question: str
    answer: str
    more: str = ""
    mood: str = ""


def title(record: RunRecord) -> str:
    return f"{record.model} on {record.place}"


def settings(record: RunRecord) -> list[str]:
    """What was asked, in words: batch, prompt, side, tokens decoded, execution, dtype."""
    asked = record.workload
    tokens = tokens_prefilled(build_model(record), asked)
    words = [f"batch {asked['batch']:,}"]
    words += [f"prompt of {tokens:,} tokens"] if tokens else []
    words += [f"{asked['side']} {BY} {asked['side']} pixels"] if asked.get("side") else []
    if asked.get("tiles"):
        rows, columns = asked["tiles"]
        words.append(f"{rows} {BY} {columns} tiles of {asked['tile_side']}")
    if record.timeline is not None and DECODE in set(record.timeline["phase"]):
        words.append(f"{asked['decode_steps']:,} tokens decoded")
    return [*words, record.execution, dtype_of(record), record.implementation]


def dtype_of(record: RunRecord) -> str:
    """That of the model; the one that moves most bytes where its configuration says none."""
    given = record.model_config
    if given.get("dtype"):
        stored = given.get("weight_dtype")
        return f"{given['dtype']}, weights {stored}" if stored else str(given["dtype"])
    return str(record.operators.groupby("dtype")["bytes"].sum().idxmax())


def fits(record: RunRecord) -> bool:
    """False only where it is known not to."""
    return record.has_room


def timed(record: RunRecord) -> bool:
    """Whether times are shown: what does not fit takes none."""
    return record.timed and fits(record)


def tiles(record: RunRecord) -> list[Tile]:
    """The figures that a user asks for; none where there is no time."""
    if not timed(record):
        return []
    found = []
    for row in record.figures.to_dict("records"):
        if "token" in row["name"] and not known(row["estimate"]):
            continue
        found.append(_tile(NAMES.get(row["name"], row["name"]), row))
        if row["name"] == "time per output token":
            found.append(_tokens(row, record.workload["batch"]))
    return found


def _tile(name: str, row: dict[Any, Any]) -> Tile:
    between = span(row["low"], row["high"], row["unit"])
    rate = row["unit"] == "1/s"
    value, unit = figure(row["estimate"], row["unit"]).rsplit(" ", 1)
    return Tile(name, value, "" if rate else unit, between.removesuffix(f" {row['unit']}" * rate))


def _tokens(row: dict[Any, Any], batch: int) -> Tile:
    """Output tokens a second of all sequences together: batch / time per token."""
    ends = [plain(batch / row[end]) for end in ("high", "low") if known(row[end])]
    between = DASH.join(dict.fromkeys(ends))
    value = plain(batch / row["estimate"])
    return Tile("tokens per second", value, "", between if DASH in between else "")


def facts(record: RunRecord, operators: pd.DataFrame) -> list[Fact]:
    """The questions that a reader comes with, answered in a line each."""
    found = [fit_fact(record)]
    if timed(record):
        found += [*bound_facts(record), beside_fact(record), sure_fact(record)]
        found.append(Fact("What does it draw?", energy_answer(record), energy_basis(record)))
        worst = worst_known(operators)
        found += [_worst(worst)] if worst else []
    elif not fits(record):
        found.append(Fact("What would fit?", sentence(what_fits(record))))
    return [fact for fact in found if fact.answer]


def fit_fact(record: RunRecord) -> Fact:
    memory = record.memory
    if memory is None:
        return Fact("Does it fit?", "")
    needs, has = nbytes(memory["needed_bytes"]), nbytes(memory["memory_bytes"])
    if not memory["fits"]:
        weights = nbytes(memory["weight_bytes"])
        return Fact("Does it fit?", f"No: it needs {needs}, the device has {has}.",
                    f"Weights {weights}, KV cache {nbytes(memory['kv_cache_bytes'])}, "
                    f"activations {nbytes(memory['activation_bytes'])}.", "bad")  # fmt: skip
    most = f"{sentence(memory_parts(memory))}. "
    most += f"The largest batch that fits is {memory['largest_batch']:,}"
    if memory["largest_context"] is not None:
        most += f", the longest sequence {longest(record)}"
    return Fact("Does it fit?", f"Yes: {needs} of {has}.", most + ".", "good")


def bound_facts(record: RunRecord) -> list[Fact]:
    """What bounds the phase that takes longest, then the others; what a graph would save."""
    if record.timeline is None:
        return []
    rows = record.timeline.to_dict("records")
    first, *others = sorted(rows, key=lambda row: -row["passes"] * row["wall_s"])
    by = f"{sentence(readable(first['phase']))} is bound by {limit(first, record.execution)}"
    each = "a step" if first["passes"] > 1 else "in all"
    more = [f"{readable(row['phase'])} by {limit(row, record.execution)}" for row in others]
    bound = Fact(
        "What bounds it?",
        f"{by}: {seconds(first['kernel_s'])} of {seconds(first['wall_s'])} {each} are kernels.",
        (sentence(", ".join(more)) + ".") if more else "",
    )
    eager_s = token_seconds(record, "eager")
    return [bound, graph_fact(first, record.execution, eager_s)]


def beside_fact(record: RunRecord) -> Fact:
    """What each token costs beside the times of a report, which are of lengths seen before."""
    note = next((str(note) for note in record.notes if GROWS in str(note)), "")
    said, _, avoided = note[note.find(GROWS) :].partition(AVOIDED)
    return Fact("What comes on top?", said.strip() if note else "", f"{AVOIDED}{avoided}", "bad")


def limit(row: dict[Any, Any], execution: str) -> str:
    if row["limited_by"] != "host":
        return BOUND_BY.get(row["limited_by"], "what is not known")
    return "the gaps between a graph's nodes" if execution == "graph" else "the host"


def graph_fact(row: dict[Any, Any], execution: str, eager_s: float | None) -> Fact:
    """Of the phase ``row``, seconds of a pass; ``eager_s``: the same, eager, where it is known."""
    question = "What would a CUDA graph save?"
    if not known(row["graph_s"]):
        return Fact(question, "")
    if execution == "graph":
        return Fact(question, "It runs as one already.", _than_eager(row, eager_s))
    saved = 1 - row["graph_s"] / row["wall_s"]
    each = f"{seconds(row['graph_s'])} in place of {seconds(row['wall_s'])}"
    each += " a step" if row["passes"] > 1 else ""
    if saved < WORTH_SAYING:
        return Fact(question, f"Little: {percent(saved)} of {readable(row['phase'])}.", f"{each}.")
    return Fact(question, f"{percent(saved)} of {readable(row['phase'])}: {each}.")


def _than_eager(row: dict[Any, Any], eager_s: float | None) -> str:
    if eager_s is None or row["phase"] != DECODE:
        return ""
    saved = percent(1 - row["wall_s"] / eager_s)
    return f"Eager, a step would take {seconds(eager_s)}; the graph saves {saved} of that."


def sure_fact(record: RunRecord) -> Fact:
    """The error where it was measured; else the interval, whose it is, and how it is known."""
    question, total = "How sure is it?", record.total
    meaning = how_known(record)
    between = span(total["low_s"], total["high_s"])
    if known(total["measured_s"]):
        off = percent(total["error"], signed=True)
        unseen = percent(total.get("error_unseen"), signed=True)
        beside = f"; {unseen} by a fit that never saw this model" if unseen != "-" else ""
        measured = seconds(total["measured_s"])
        return Fact(question, f"Measured: {measured}. The estimate is {off} off{beside}.", meaning)
    parts = certainty_of(record)
    meaning = f"{parts_verdict(record)} {meaning}" if record.measurement else meaning
    if parts is None:
        return Fact(question, "No interval is known.", meaning, "bad")
    below, above = (
        total["low_s"] / total["estimate_s"] - 1,
        total["high_s"] / total["estimate_s"] - 1,
    )
    answer = f"90% interval {between} in all ({percent(below, True)} to {percent(above, True)})."
    whose = f"{percent(parts.host_share)} of its width is the host's. " if parts.host_s else ""
    wide = above > 1 or below < -0.5
    return Fact(question, answer, whose + meaning, "bad" if wide else "")


def how_known(record: RunRecord) -> str:
    """By part of the kernels' time; the whole goes by its weakest."""
    by = record.operators.groupby("provenance")["estimate_s"].sum().sort_values(ascending=False)
    parts = {str(how): share for how, share in (by / (by.sum() or 1)).items() if share >= 0.005}
    if len(parts) < 2:
        how = readable(record.total["provenance"])
        return f"Known as {how}: {HOW.get(how, '')}."
    first, *others = (f"{percent(share)} {{}}{how}" for how, share in parts.items())
    listed = ", ".join([first.format("is known as "), *(other.format("as ") for other in others)])
    return f"Of the kernels' time {listed}; the whole goes by the weakest that takes 5%."


def _worst(row: dict[Any, Any]) -> Fact:
    name = f"{readable(row['kind'])} {row['shape']}".strip()
    return Fact(
        "Which operator is worst known?",
        f"{name}, in {row['phase']}.",
        f"{seconds(row['estimate_s'])} in all, between "
        f"{span(row['low_s'], row['high_s']).replace(DASH, ' and ')}; {row['provenance']}.",
    )
