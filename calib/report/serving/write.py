"""Into a run's folder: ``front.parquet``, ``front.md``, ``front.png`` and ``front.html``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calib.report.serving.found import Front
from calib.report.serving.texts import front_markdown
from calib.report.write import forget, renamed_at_the_end, write_config


def write_front(
    front: Front,
    folder: Path,
    pictures: bool = True,
    html: bool = True,
    config: Mapping[str, str] | None = None,
) -> list[Path]:
    """``config``: files of what was asked, by name, with their text.

    Raises ``ReportError`` for a folder that cannot be written.
    """
    drawn = not front.best.empty
    with renamed_at_the_end(folder) as (staging, written):
        write_config(config or {}, staging)
        front.rows.to_parquet(staging / "front.parquet", index=False)
        if pictures and drawn:
            from calib.report.pictures.front import front_picture

            front_picture(front).savefig(staging / "front.png", dpi=120)
        if html and drawn:
            from calib.report.serving.page import front_page

            (staging / "front.html").write_text(front_page(front), encoding="utf-8")
        text = front_markdown(front, pictures and drawn)
        (staging / "front.md").write_text(text, encoding="utf-8")
    forget(folder, written)
    return written
