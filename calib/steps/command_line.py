"""The command line, where Hydra could not make a configuration of it: what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import did_you_mean, one_of


def option_names() -> dict[str, list[str]]:
    """The options of each group of the configuration: hw, model, sweep, workload."""
    files = sorted(CONF.glob("*/*.yaml"))
    names = dict.fromkeys(path.parent.name for path in files)
    return {n: [path.stem for path in files if path.parent.name == n] for n in names}


def explain(error: Exception, words: Sequence[str]) -> str:
    """What is wrong with the overrides ``words``, of which Hydra says ``error``; or that it cannot
    write what was asked into the folder of the run."""
    unwritable = error if isinstance(error, OSError) else error.__cause__  # opening the log
    if isinstance(unwritable, OSError) and unwritable.filename:
        key = "sweep" if any(word.startswith("hydra.sweep") for word in words) else "run"
        where, why = unwritable.filename, unwritable.strerror
        return f"cannot write {where}: {why}; give another hydra.{key}.dir"
    if isinstance(error, OverrideParseException):
        detail = str(error).split("\nSee ")[0].replace("\n", ": ")
        return f"{error.override!r}: expected key=value, such as workload.batch=2 ({detail})"
    return next(_faults(words), None) or _said(error, words)


_ADVICE = ("\nTo append to your", "\nEither remove", "\nConfig search path", "\nSee ")


def _said(error: Exception, words: Sequence[str]) -> str:
    """What Hydra says, on one line and without its advice: that of the cause too, since it often
    names the value. Words alone where it says nothing."""
    found = []
    for one in (error, error.__cause__):
        text = str(one or "")
        for advice in _ADVICE:
            text = text.partition(advice)[0]
        lines = [line.strip() for line in text.splitlines() if "full_key:" not in line]
        found += [line for line in lines if line and line not in found]
    named = f"Hydra cannot read {' '.join(words)} ({type(error).__name__})"
    return "; ".join(found[:4]) or named


def _faults(words: Sequence[str]) -> Iterator[str]:
    groups, keys = option_names(), None
    for word in words:
        name, _, value = word.partition("=")
        key = name.lstrip("+~")
        if key in groups:
            yield from _group_faults(name, key, value, groups[key])
        elif name == key and "/" not in key:  # not of hydra/launcher=joblib
            keys = keys if keys is not None else _all_keys(words, groups)
            if keys and key not in keys:
                yield f"{key} = {value}: there is no such key; {_near_key(key, keys)}"


def _group_faults(name: str, key: str, value: str, options: Sequence[str]) -> Iterator[str]:
    for chosen in value.split(","):
        if chosen not in options:
            yield f"{key} = {chosen!r}: expected {one_of(chosen, options)}"
    if key == "hw" and not name.startswith("+"):
        yield f"hw = {value!r}: no card is chosen by default, so give it as +hw={value}"


def _near_key(key: str, keys: Sequence[str]) -> str:
    """What stands beside a key that does not exist."""
    parent, _, name = key.rpartition(".")
    above = f"{parent}." if parent else ""
    beside = [k.removeprefix(above) for k in keys if k.startswith(above)]
    own = [k for k in beside if "." not in k and k != "hydra"]
    if not own:
        return f"expected a key of conf/config.yaml{did_you_mean(key, keys)}"
    return f"{parent or 'the configuration'} has {', '.join(own)}{did_you_mean(name, own)}"


def _all_keys(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Every key of the configuration with the chosen options, dotted; Hydra's own too."""
    from hydra import compose, initialize_config_dir

    given = (word.lstrip("+").partition("=") for word in words)
    chosen = {name: value.split(",")[0] for name, _, value in given}
    plus = {"hw": "+"}  # no member of the defaults list
    options = [f"{plus.get(k, '')}{k}={v}" for k, v in chosen.items() if v in groups.get(k, ())]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", options, return_hydra_config=True)
    except Exception:  # what else is wrong with the words is said otherwise
        return []
    plain = OmegaConf.to_container(composed, resolve=False, throw_on_missing=False)
    return list(_dotted(cast("dict[str, Any]", plain)))


def _dotted(node: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{above}{key}.")
