"""What a page is made with, kept in the user's cache: Vega-Lite, which draws the figures, as one
script to be put into a page, and the templates, compiled.

``vl_convert`` makes the script of what its wheel holds, which takes two seconds of a processor: it
is made once and kept by version.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import BytecodeCache

PACKAGE = "vl-convert-python"


def vega_script() -> str:
    """What sets ``window.vegaEmbed``, safe within a ``script`` element."""
    kept = cache_folder() / f"vega-{version(PACKAGE)}.js"
    with suppress(OSError):
        return kept.read_text("utf-8")
    import vl_convert

    made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    made = made.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")
    with suppress(OSError):  # a cache that cannot be written costs time and nothing else
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}")
        half.write_text(made, "utf-8")
        half.replace(kept)
    return made


def compiled_templates() -> BytecodeCache | None:
    """Templates compiled by an earlier run, which takes as long as filling them in; None where
    nothing can be kept."""
    from jinja2 import FileSystemBytecodeCache

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return FileSystemBytecodeCache(str(folder)) if os.access(folder, os.W_OK) else None


def cache_folder() -> Path:
    """The user's cache, as the XDG base directory specification names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "calib"
