"""The library that draws the figures, Vega-Lite, as one script to be put into a page.

``vl_convert`` makes it of what its wheel holds, which takes two seconds of a processor: it is made
once and kept in the user's cache, by version.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

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


def cache_folder() -> Path:
    """The user's cache, as the XDG base directory specification names it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "calib"
