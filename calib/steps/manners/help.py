"""What ``--help`` says, read off ``conf``: groups, keys with their comments, three examples."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from calib.checkout import CONF
from calib.steps.command_line import option_names

WIDTH, INDENT = 100, 26
ABOUT = (
    "calib predicts how long a model takes on a device, from formulas for the work and a "
    "calibration measured on the device; what is here it measures, and lays the clock beside the "
    "prediction."
)
EXAMPLES = (
    ("calib", "measure this machine, and run DeepSeek-OCR on it beside its estimate"),
    ("calib +hw=rtx5090 model=llama_3_1_8b workload=text_512", "a card that is not here"),
    (
        "calib -m +hw=h200,rtx5090 workload.batch=1,8,32 execution=eager,graph",
        "a run for each combination, and one table",
    ),
)
MORE = (
    ("-m, --multirun", "a run for each combination of values with commas"),
    ("hydra/launcher=joblib", "spread over processes; also submitit_slurm, ray (extras)"),
    ("hydra.run.dir=FOLDER", "where a run writes; of -m hydra.sweep.dir"),
    ("--cfg job", "print the configuration and stop"),
    ('eval "$(calib -sc install=bash)"', "completion of keys and options; also zsh (bash), fish"),
    ("--hydra-help", "what else Hydra's command line can do"),
    ("python -m calib.compare RUN RUN", "what changed between two runs"),
)
_LINE = re.compile(
    r"^(?P<indent> *)(?:- )?(?P<key>\w+):(?: (?P<value>[^#]*?))?(?: *# (?P<said>.*))?$"
)


@dataclass(frozen=True)
class Entry:
    """A key of ``config.yaml``: dotted, its value, and its comment."""

    key: str
    value: str
    said: str


def help_text() -> str:
    groups = {entry.key: entry for entry in entries("defaults:", "hw:")}
    parts = [
        textwrap.fill(ABOUT, WIDTH),
        "usage: calib [-m] [group=option ...] [key=value ...]",
        "Groups, a file of conf/ each; * is taken where none is given",
        "\n".join(group(name, options, groups) for name, options in option_names().items()),
        "Keys of a group's file are keys too: workload.batch=8, model.layers=2",
        "Keys",
        "\n".join(two(f"{e.key}={e.value}", e.said) for e in entries("hw:", "hydra:") if e.value),
        "Beside them",
        "\n".join(two(*pair) for pair in MORE),
        "Examples",
        "\n".join(f"  {words}\n{' ' * 6}{said}" for words, said in EXAMPLES),
    ]
    return "\n\n".join(parts) + "\n"


def group(name: str, options: list[str], about: dict[str, Entry]) -> str:
    """ "model=  deepseek_ocr*, ...": the options of a group, and what the group is."""
    chosen = about.get(name, Entry(name, "", "the device; left out: the device found"))
    listed = ", ".join(f"{o}*" if o == chosen.value else o for o in options)
    said = chosen.said.partition(" (conf/")[0]
    return two(f"{'+' if name == 'hw' else ''}{name}=", f"{said}: {listed}")


def two(left: str, right: str) -> str:
    """Two columns; a long left one has a line of its own."""
    head = f"  {left}"
    first = head.ljust(INDENT) if len(head) < INDENT else ""
    text = textwrap.fill(
        right,
        WIDTH,
        initial_indent=first or " " * INDENT,
        subsequent_indent=" " * INDENT,
        break_on_hyphens=False,
    )
    return text if first else f"{head}\n{text}"


def entries(start: str, end: str) -> Iterator[Entry]:
    """The keys between two lines of ``config.yaml`` that begin so, the first of them included."""
    text = (CONF / "config.yaml").read_text("utf-8")
    above = of = ""
    for line in text[text.index(f"\n{start}") + 1 : text.index(f"\n{end}")].splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        nested = bool(found["indent"]) and not line.lstrip().startswith("- ")
        key, value = found["key"], (found["value"] or "").strip()
        said = (found["said"] or "").strip()
        if not nested:
            above, of = key, said if not value else ""
        else:
            key, said = f"{above}.{key}", f"{of}: {said}" if of else said
        yield Entry(key, value, said)
