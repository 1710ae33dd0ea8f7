"""What stands between a file of ``transformers`` and its classes.

Keys by which a file could have weights, kernels or code fetched are left out, sizes that no model
has are refused before anything is made of them, and whatever is raised while a model is read, built
or run becomes one line, for the file is what is wrong.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calib.errors import CalibError, wrong

KEY = "hf.config"
LEFT_OUT = frozenset(
    f"{dash}{name}"
    for dash in ("", "_")
    for name in (
        "attn_implementation",
        "attn_implementation_internal",
        "attn_implementation_autoset",
        "experts_implementation",
        "experts_implementation_internal",
        "use_kernels",
        "kernel_config",
        "auto_map",
        "trust_remote_code",
        "name_or_path",
        "commit_hash",
        "use_pretrained_backbone",
        "load_pretrained_backbone",
        "quantization_config",
        "compression_config",
    )
)
"""Keys that reach loaders of the hub, or name what is not built here; at any depth of a file."""
MOST = (
    (r"theta|base|seed|token|_id$|_ids$|eps|scal|freq|window", 2**40),  # no size of anything
    (r"max_.*(position|length|len|tokens)|context|positions$", 2**27),
    (r"vocab", 2**24),
    (r"label|class", 2**20),
    (r"channel|(^|_)dims?($|_)|width|_size$", 2**20),
    (r"expert|head|group|codebook|quer", 2**14),
    (r"layer|block|depth|stage|level|branch|iteration|num_conv|cycle", 512),
    (r"(hidden|embed|intermediate|ffn|projection).*|d_model", 2**20),
)
"""The largest whole number of a key by what its name says; a thousand layers are minutes."""
MOST_ELSE = 2**24
LONGEST = 2**16
"""Entries of a list or a mapping."""
DEEPEST = 32
MOST_BYTES = 2**24
"""Of a file."""
BUILD_S = 50.0
"""Seconds of the processor that building and tracing one model may take."""


def read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise CalibError(
                f"{KEY} = {file}: expected a config.json of at most {MOST_BYTES:,} bytes"
            )
        given = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise CalibError(
            f"{KEY} = {file}: {error.strerror or error}: expected the path of a config.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CalibError(
            f"{KEY} = {file}: not JSON ({error}): expected a config.json of transformers"
        ) from None
    if not isinstance(given, dict):
        raise CalibError(f"{KEY} = {file}: expected a JSON object")
    return given


def without_loaders(given: Any, depth: int = 0) -> Any:
    """``given`` without the keys that are left out.

    Raises ``CalibError`` for what is nested deeper than any configuration.
    """
    if depth > DEEPEST:
        raise CalibError(f"{KEY}: nested deeper than {DEEPEST}: expected a transformers config")
    if isinstance(given, dict):
        kept = {k: v for k, v in given.items() if k not in LEFT_OUT}
        return {k: without_loaders(v, depth + 1) for k, v in kept.items()}
    return [without_loaders(v, depth + 1) for v in given] if isinstance(given, list) else given


def check_sizes(given: Any, path: str = "") -> None:
    """Raises ``CalibError`` naming the first number that is too large, or a list too long."""
    if isinstance(given, dict | list):
        if len(given) > LONGEST:
            at = f"{KEY}: {path or 'the file'}"
            raise CalibError(f"{at} has {len(given):,} entries: expected at most {LONGEST:,}")
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        for key, value in pairs:
            check_sizes(value, f"{path}.{key}".lstrip("."))
    elif isinstance(given, int | float) and not isinstance(given, bool):
        named = _most(path)
        if isinstance(given, float) and (named is None or given % 1 > 0):  # no size
            return
        most = named or MOST_ELSE
        if not -(2**40) <= given <= most:  # and no NaN
            raise CalibError(wrong(f"{KEY}: {path}", given, f"at most {most:,}"))


def _most(path: str) -> int | None:
    name = next((n for n in reversed(path.lower().split(".")) if not n.isdecimal()), path)
    return next((most for pattern, most in MOST if re.search(pattern, name)), None)


def offline() -> None:
    """Nothing is fetched: whatever asks the hub is told that there is no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # which reads the variable once
        constants.HF_HUB_OFFLINE = True


@contextmanager
def one_line(what: str, seconds: float = BUILD_S) -> Iterator[None]:
    """Whatever is raised, and a time that runs out, is a ``CalibError`` that names ``what``."""
    try:
        with _deadline(what, seconds), _quiet():
            yield
    except CalibError:
        raise
    except Exception as error:
        raise CalibError(f"{KEY} = {what}: {type(error).__name__}: {_last(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs where it could not run an operator, which is about to be said in one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _last(error: Exception) -> str:
    """The line of a message that says most: the last that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


@contextmanager
def _deadline(what: str, seconds: float) -> Iterator[None]:
    """By this process's own time, whatever else the machine does. Only the main thread of a system
    with such timers can be interrupted; elsewhere there is no deadline."""
    alarmed = hasattr(signal, "setitimer")
    if not alarmed or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise CalibError(
            f"{KEY} = {what}: not built within {seconds:g} s: expected a smaller configuration"
        )

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
