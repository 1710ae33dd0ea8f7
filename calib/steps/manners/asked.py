"""What a run was asked, as files beside what it found: written with it, or not at all.

Hydra would write them before the run begins, over those of an earlier run in the same folder,
which a refusal would leave with another's configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUTPUTS = "outputs"
"""Where ``hydra.run.dir`` of ``conf/config.yaml`` lies."""
SUBDIR = "hydra.output_subdir"
HELD_BACK = f"{SUBDIR}=null"
EMPTY = ("run.log", ".lock")
"""What a run that found nothing has made; a log that says something stays."""


def hold_back(words: Sequence[str]) -> list[str]:
    """``words`` of one run, with Hydra told to write no configuration; of many runs as they are,
    since what fails of them leaves its reason beside what it was asked."""
    many = {"-m", "--multirun"} & set(words)
    told = many or any(word.lstrip("+").startswith(SUBDIR) for word in words)
    return list(words) if told or not words_of_run(words) else [*words, HELD_BACK]


def words_of_run(words: Sequence[str]) -> bool:
    """Whether Hydra is to run the application, and not to tell of itself."""
    return not any(word.startswith(("--cfg", "-c", "--info", "--version")) for word in words)


def configuration(config: Any, job: Any) -> dict[str, str]:
    """The files of one run by name, with their text; none where Hydra writes them itself.

    ``config``: as it was composed; ``job``: Hydra's own part.
    """
    from omegaconf import OmegaConf

    if job.output_subdir is not None:
        return {}
    whole = {"hydra": OmegaConf.to_container(job)}
    return {
        "config/config.yaml": OmegaConf.to_yaml(config),
        "config/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create(whole)),
        "config/overrides.yaml": OmegaConf.to_yaml(job.overrides.task),
    }


def leave_nothing(folder: Path) -> None:
    """Remove the ``folder`` that Hydra made for a run that was refused, and the day's, where they
    hold nothing; a folder that the user named stays."""
    here = Path.cwd() / OUTPUTS
    if here not in folder.parents:
        return
    found = list(folder.iterdir()) if folder.is_dir() else []
    if any(path.name not in EMPTY or path.stat().st_size for path in found):
        return
    for path in found:
        path.unlink(missing_ok=True)
    for place in (folder, *folder.parents):
        if place == here.parent or any(place.iterdir()):
            return
        place.rmdir()
