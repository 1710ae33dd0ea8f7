"""What a run is asked: every key that the user gave is one that exists, with a value it can have.

Dimensions of a model, figures of a card and fields of a workload are checked where they are read;
here are the keys of ``conf/config.yaml``, and what Hydra finds wrong with the command line, said in
one sentence that names the key, its value and the nearest names that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import CalibError, did_you_mean, one_of
from calib.samples.host_costs import EXECUTIONS

IMPLEMENTATIONS = ("torch", "triton")
MODES = ("run", "analytic", "calibrate")
CHOICES: dict[str, tuple[Any, ...]] = {
    "mode": MODES,
    "implementation": IMPLEMENTATIONS,
    "execution": EXECUTIONS,
    "report.pictures": (True, False),
    "report.trace": (True, False),
    "report.layers": (True, False, None),
}
"""Keys with a few accepted values."""
LEAST = {"repeats": 1, "seed": 0, "sweep.least": 1, "sweep.most": 1}
"""Keys that take an integer, and the smallest."""
MOST = {
    "workload.batch": 2**20,
    "workload.side": 2**16,
    "workload.tile_side": 2**16,
    "workload.prompt_tokens": 2**24,
    "workload.decode_steps": 2**24,
}
"""The largest that a workload may ask for: beyond it nothing is a forecast any more."""
POSITIVE = ("sweep.budget_s", "sweep.spread", "sweep.cap_s")
_WORDS = {True: "true", False: "false", None: "null"}


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises ``CalibError`` that names the key, its value and what is accepted."""
    _check_names(config)
    for key, accepted in CHOICES.items():
        value = _value(config, key)
        if not any(value is a or (isinstance(a, str) and value == a) for a in accepted):
            raise CalibError(f"{key} = {value!r}: expected one of {_listed(accepted)}")
    for key, least in LEAST.items():
        value = _value(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CalibError(f"{key} = {value!r}: expected an integer >= {least}")
    for key in POSITIVE:
        value = _value(config, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CalibError(f"{key} = {value!r}: expected a number above 0")
    for key, most in MOST.items():
        value = _value(config, key)
        if isinstance(value, int) and value > most:
            raise CalibError(f"{key} = {value}: expected at most {most:,}")
    if config["measured"] and not Path(config["measured"]).is_file():
        raise CalibError(f"measured = {config['measured']!r}: expected a trace of torch.profiler")


def dimensions_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration says of the model but its name and its architecture."""
    return {k: v for k, v in config["model"].items() if k not in ("architecture", "name")}


def _check_names(config: Mapping[str, Any]) -> None:
    """Hydra adds any key after a plus, ``+hv=rtx5090`` too, of which nobody would take notice."""
    body = _body()
    known = list({**dict.fromkeys(option_names()), **body})
    for name, value in config.items():
        if name not in known:
            raise CalibError(f"{name} = {value!r}: expected {one_of(name, known)}")
        below: Any = body.get(name)
        for key in value if isinstance(below, dict) else ():
            if key not in below:
                raise CalibError(f"{name}.{key} = {value[key]!r}: expected {one_of(key, below)}")


def _body() -> dict[str, Any]:
    """The keys of ``conf/config.yaml`` and what they are by default."""
    loaded = OmegaConf.load(CONF / "config.yaml")
    body = cast("dict[str, Any]", OmegaConf.to_container(loaded, resolve=False))
    return {k: v for k, v in body.items() if k not in ("defaults", "hydra")}


def _value(config: Mapping[str, Any], key: str) -> Any:
    """None where a workload leaves a key out."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name)
    return value


def _listed(accepted: Sequence[Any]) -> str:
    return ", ".join(a if isinstance(a, str) else _WORDS[a] for a in accepted)


def option_names() -> dict[str, list[str]]:
    """The options of each group of the configuration: hw, model, sweep, workload."""
    files = sorted(CONF.glob("*/*.yaml"))
    names = dict.fromkeys(path.parent.name for path in files)
    return {n: [path.stem for path in files if path.parent.name == n] for n in names}


# The command line, where Hydra could not make a configuration of it


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
    found = next(_faults(words), None)
    return found or str(error).split("\nTo append to your")[0].strip()


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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", options, return_hydra_config=True)
    plain = OmegaConf.to_container(composed, resolve=False, throw_on_missing=False)
    return list(_dotted(cast("dict[str, Any]", plain)))


def _dotted(node: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{above}{key}.")
