"""One of many runs: a line, and no more, of what it found."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.types import RunMode

from calib.errors import one_of
from calib.steps.progress import PARENT, in_worker

SWEPT = "CALIB_SWEPT"
"""In the environment: the keys that have several values on the command line."""
SPEAKING = ("BasicLauncher", "JoblibLauncher")
"""Launchers whose runs write to this terminal in time; the lines of others come whenever."""


def note_parent(words: Iterable[str]) -> None:
    """For the runs of ``words``, those of the command line, wherever they are."""
    os.environ[PARENT] = str(os.getpid())
    os.environ[SWEPT] = " ".join(swept_in(words))


def swept_in(words: Iterable[str]) -> Iterator[str]:
    """The keys that have several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        if "=" not in word or word.startswith("-"):
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:  # which Hydra says better itself
            continue
        if override.is_sweep_override():
            yield override.key_or_group


LEFT_OUT: dict[str, str] = {}
"""Options of this command line that do not exist -> why their runs were left out."""


def leave_unknown(words: Sequence[str]) -> list[str]:
    """``words`` of many runs less the options that do not exist, which are noted in ``LEFT_OUT``:
    Hydra would make none of the others. A word of which nothing is left stays as it is."""
    LEFT_OUT.clear()
    if not {"-m", "--multirun"} & set(words):
        return list(words)
    from calib.steps.command_line import option_names

    groups, kept = option_names(), []
    for word in words:
        name, _, value = word.partition("=")
        options, chosen = groups.get(name.lstrip("+"), []), value.split(",")
        good = [one for one in chosen if one in options]
        if options and good and len(good) < len(chosen) and re.fullmatch(r"[\w,.-]+", value):
            key = name.lstrip("+")
            for one in chosen:
                if one not in good:
                    LEFT_OUT[f"{key}={one}"] = f"expected {one_of(one, options)}"
            kept.append(f"{name}={','.join(good)}")
        else:
            kept.append(word)
    return kept


def member_name(job: Any) -> str | None:
    """What one of many runs is called, "3: workload.batch=8"; "" where it should say nothing; None
    for a run alone. ``job``: Hydra's configuration of it.

    A worker leaves Ctrl-C to the process that started it.
    """
    if job.mode != RunMode.MULTIRUN:
        return None
    if in_worker() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    launcher = str(job.launcher.get("_target_", ""))
    if not launcher.endswith(SPEAKING):
        return ""
    swept = os.environ.get(SWEPT, "").split()
    words = [w for w in job.overrides.task if not swept or w.lstrip("+").split("=")[0] in swept]
    return f"{job.job.num}: {' '.join(words)}"
