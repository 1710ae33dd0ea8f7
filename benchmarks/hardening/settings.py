"""Random settings: every key of ``conf`` with values of wrong types and ranges, unknown keys,
Hydra's own syntax.

In this process: composed by Hydra, read as a request, the model built, its passes listed; now and
then the whole run of a card that is not here. What Hydra refuses is said as the command line says
it. A few go through the command line itself.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from hydra import compose, initialize_config_dir

from benchmarks.hardening.outcome import Outcome
from benchmarks.hardening.tally import LONGEST_LINE, Tally, tried
from calib.checkout import CONF, ROOT, read_yaml
from calib.errors import CalibError, shown
from calib.hardware.figures import PROBED
from calib.run import resolved
from calib.run import run as run_calib
from calib.steps.command_line import explain, option_names
from calib.steps.request import read_request
from calib.steps.subject import build_model, phases_of

LIMIT_S = 60.0
WHOLE = 0.01
"""Part of the accepted settings that is run to its report."""
NUMBERS = "0 1 2 3 5 7 16 64 100 640 1024 -1 -5 255 65536 65537 1e3 1e22 1e300 -0.0 .5 nan inf -inf"
HUGE = "1048577 16777217 2147483648 9223372036854775807 9223372036854775808 1" + "0" * 40
TEXTS = "null true false x '' 'a b' \"ü\" '<b>' 'a|b' ??? /dev/null /nonesuch/x . ~ bfloat16 int8"
SHAPES = "[] [8] [1,2] [1,2,3] [0,2] [x,y] [[1]] [null] {} {a:1} {1:2} {a:{b:[1]}} [1e9,1e9]"
SYNTAX = (
    "${model.layers} ${nonesuch} ${oc.env:NONESUCH} ${now:%Y} ${ ${a}} 1,2 choice(1,2) range(3) "
    "int(x) {a [1 ' \" \\ = ,, a=b @ (1) str(5) glob(*) sort(3,2) tag(a,1)"
)
VALUES = [v for some in (NUMBERS, HUGE, TEXTS, SHAPES, SYNTAX) for v in some.split(" ")]
MAY_BE_LISTS = (("serve", "isl"), ("serve", "osl"))
"""Keys that hold a number and may hold several."""
PREFIXES = ("", "", "", "", "", "", "+", "++", "~")
CARDS = ("", "+hw=h200", "+hw=rtx5090", "+hw=l4", "+hw=cpu")
RESULTS = ("report.pictures=false", "report.layers=false")


def run(seconds: float, seed: int) -> list[Outcome]:
    """Most as plain data, which is fast; some through Hydra, a few as a process of their own."""
    return [
        in_process("settings, as data", 0.6 * seconds, seed, data_trial),
        in_process("settings, by Hydra", 0.25 * seconds, seed + 1, hydra_trial),
        by_command_line(0.15 * seconds, seed + 2),
    ]


# What is asked


@cache
def keys() -> tuple[str, ...]:
    """Every key of the configuration, dotted, of every option of every group."""
    groups = option_names()
    parts = [{g: chosen(g, option)} for g, options in groups.items() for option in options]
    return tuple(dict.fromkeys(key for part in [whole(), *parts] for key in dotted(part)))


@cache
def chosen(group: str, option: str) -> Any:
    """One option of a group as its file has it, on top of the one it begins with."""
    given = read_yaml(CONF / group / f"{option}.yaml")
    for base in given.pop("defaults", ()):
        if isinstance(base, str):  # the rest are options of other groups
            given = chosen(group, base) | given
    return given


@cache
def whole() -> Any:
    """The configuration of a run that chooses nothing."""
    given = read_yaml(CONF / "config.yaml")
    del given["hydra"]
    named: dict[str, str] = {
        k: v for one in given.pop("defaults") if one != "_self_" for k, v in one.items()
    }
    report = given["report"] | {"pictures": False, "layers": False}
    return given | {g: chosen(g, option) for g, option in named.items()} | {"report": report}


def dotted(node: Any, above: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{above}{key}.")


def words(random: Random) -> list[str]:
    """Overrides of one run: one option a group, then one to three keys with any value."""
    options = option_names()
    found = [random.choice(CARDS)]
    for group in ("model", "workload", "sweep"):
        if random.random() < 0.4:
            found.append(f"{group}={random.choice(options[group])}")
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found.append(override(random))
    return [word for word in found if word]


def override(random: Random) -> str:
    key = random.choice(keys())
    if random.random() < 0.1:
        key = f"{key}.{random.choice(('foo', 'a.b', '0', 'name'))}"
    if random.random() < 0.05:
        key = mistyped(random, key)
    prefix = random.choice(PREFIXES)
    if prefix == "~" and random.random() < 0.7:
        return f"~{key}"
    return f"{prefix}{key}={value(random)}"


def mistyped(random: Random, key: str) -> str:
    place = random.randrange(len(key))
    return key[:place] + random.choice("xX.@/_ ") + key[place + 1 :]


def value(random: Random) -> str:
    if random.random() < 0.2:
        return str(random.randrange(1, 2 ** random.randrange(1, 40)))
    return random.choice(VALUES)


# Plain data

PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, 5, 7, 64, 224, 640, 1024, -1, -7, 2**20 + 1, 2**24, 2**63),
    *(10**400, 0.5, 1e3, 1e22, 1e300, -0.0, math.nan, math.inf, -math.inf, "", " ", "x", "a\nb"),
    *("null", "5", "bfloat16", "int8", "<b>|`", "\0", "\ud800", "x" * 10_000, "~nobody_here/x"),
    *("/dev/null", "/etc/passwd/x", ".", "???", "${a}", b"x", [], [8], [1, 2], [0, 2], [1, 2, 3]),
    *(["x", "y"], [[1]], [None], [1e9, 1e9], {}, {"a": 1}, {1: 2}, {"a": {"b": [1]}}, {None: 1}),
    *((1, 2), {1, 2}, object, 1j),
)
STRANGE = ("foo", "", "_target_", "a.b", 0, None, "__class__", "model", "\n", "x" * 1000)


def mutated(random: Random) -> tuple[Any, str, bool]:
    """A configuration with one to three entries changed, what was, and whether it is known to be
    wrong."""
    config: Any = deepcopy(whole())
    picked = []
    for group, options in option_names().items():
        if group == "hw" or random.random() < 0.5:
            picked.append(random.choice(options))
            config[group] = deepcopy(chosen(group, picked[-1]))
    known: dict[tuple[Any, ...], bool] = {}
    for _ in range(random.choice((1, 1, 2, 3))):
        path = place(random, config)
        if not any(path[: len(p)] == p or p[: len(path)] == path for p in known):
            told, path, wrong = change(random, config, path)
            picked.append(told)
            known[path] = wrong
    return config, "; ".join(picked), any(known.values())


def place(random: Random, config: Any) -> tuple[Any, ...]:
    """The path of a key."""
    node, path = config, list[Any]()
    while True:
        path.append(random.choice(list(node)))
        node = node[path[-1]]
        if not isinstance(node, dict) or not node or random.random() < 0.1:
            return tuple(path)


def change(random: Random, config: Any, path: tuple[Any, ...]) -> tuple[str, tuple[Any, ...], bool]:
    """What was done, where, and whether it is known to be wrong."""
    node, (*above, key) = config, path
    for name in above:
        node = node[name]
    how = random.random()
    if how < 0.08:
        del node[key]
        return f"~{path}", path, False
    new = random.choice(PLAIN) if random.random() < 0.7 else 1 << random.randrange(64)
    if how < 0.16:
        key = random.choice(STRANGE)
        free = key in node or above in (["hw", "sources"], ["hw", "measured"])
        node[key] = deepcopy(new)
        return f"{[*above, key]} = {shown(new)}", (*above, key), not free
    many = path in MAY_BE_LISTS and isinstance(new, list)
    wrong = is_wrong(node[key], new) and not many
    node[key] = deepcopy(new)
    return f"{path} = {shown(new)}", path, wrong


def is_wrong(old: Any, new: Any) -> bool:
    """Whether ``new`` can be no value of a key that holds ``old``: known without our checks."""
    if old == PROBED:  # a figure in place of a probe
        return False
    if isinstance(old, bool):
        return not isinstance(new, bool | None)
    if isinstance(old, int | float):
        number = isinstance(new, int | float) and not isinstance(new, bool)
        return new is not None and not (number and 0 <= new < math.inf)
    return isinstance(old, str) and not isinstance(new, str | None)


def data_trial(random: Random, folder: Path) -> tuple[str, str]:
    config, told, wrong = mutated(random)
    whole = random.random() < WHOLE
    how, why = tried(lambda: answered(config, whole, folder), LIMIT_S, wrong)
    return how, f"{told}: {why}"


# How it ends


def in_process(
    kind: str, seconds: float, seed: int, trial: Callable[[Random, Path], tuple[str, str]]
) -> Outcome:
    tally, random = Tally(kind), Random(seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            tally.add(*trial(random, Path(folder)))
    return tally.outcome()


def hydra_trial(random: Random, folder: Path) -> tuple[str, str]:
    asked, whole = words(random), random.random() < WHOLE
    how, why = tried(lambda: answered(composed(asked), whole, folder), LIMIT_S)
    return how, f"{' '.join(map(repr, asked))}: {why}"


def composed(asked: list[str]) -> Any:
    """Raises ``CalibError`` with the sentence that the command line says."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [*asked, *RESULTS])
    except Exception as error:
        raise CalibError(explain(error, asked)) from None
    return resolved(config)


def answered(config: Any, to_the_end: bool, folder: Path) -> None:
    """As ``calib.run`` does it to the passes of the model, or to the end, which is a report."""
    try:
        request = read_request(config)
        model = build_model(request.model, request.hf)
        phases_of(model, request.workload)
        if to_the_end and not request.measured and request.hw and request.hw.name != "cpu":
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                run_calib(request, folder)
    except (ValueError, OSError) as error:  # which calib.run says like its own
        raise CalibError(str(error)) from None


def by_command_line(seconds: float, seed: int) -> Outcome:
    """A process of its own each; exit status 0 with a report, or 2 and one sentence."""
    tally, random = Tally("settings, command line"), Random(seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            asked = [w for w in words(random) if not w.startswith("+hw")]
            tally.add(*command_line([*asked, "mode=analytic"], Path(folder)))
    return tally.outcome()


def command_line(asked: list[str], folder: Path) -> tuple[str, str]:
    given = ["+hw=rtx5090", *RESULTS, f"hydra.run.dir={folder / 'run'}", *asked]
    command = [sys.executable, "-m", "calib.run", *given, f"samples.dir={folder / 'samples'}"]
    told = " ".join(map(repr, asked))
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return "hang", told
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
    said = lines[-1] if lines else ""
    if "Traceback" in done.stderr or done.returncode not in (0, 2):
        return "traceback", f"{told}: {said}"
    if done.returncode == 0:
        return "right", told
    clear = said.startswith("error: ") and len(said) <= LONGEST_LINE
    return ("clear" if clear else "traceback"), f"{told}: {said}"
