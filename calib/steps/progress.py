"""What a run is at, on the standard error of a terminal: a line that moves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARENT = "CALIB_PARENT"
"""In the environment: the process that the command line started."""
Tell = Callable[[str, float], None]
"""Says what of a stage is at hand, and how many seconds of its total are gone, if it has one."""


def in_worker() -> bool:
    """Whether the command line, and what the user sees of it, is another process's."""
    return os.environ.get(PARENT, str(os.getpid())) != str(os.getpid())


@contextmanager
def stage(title: str, total_s: float | None = None) -> Iterator[Tell]:
    """While a stage lasts its title, the seconds gone, and of ``total_s`` a bar with those left.

    Under ``CI`` the title is printed once; without a terminal, and of the runs of a launcher,
    nothing: a log is for results.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal or in_worker():
        yield lambda detail, elapsed_s: None
        return
    if os.environ.get("CI"):
        limit = f", up to {total_s:g} s" if total_s else ""
        print(f"{title}{limit} ...", file=sys.stderr, flush=True)
        yield lambda detail, elapsed_s: None
        return
    timed: tuple[ProgressColumn, ...] = (SpinnerColumn(), TimeElapsedColumn())
    if total_s:
        timed = (BarColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), *timed, TextColumn("{task.fields[at]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total_s, at="")
        yield lambda detail, elapsed_s: bar.update(task, completed=elapsed_s, at=detail)
