"""A function of the user's own file that makes a module: ``module.path=my_file.py:make_model``.

Such a file is code, so it is run only where the command line itself names it: a configuration that
came from elsewhere cannot have it run.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, did_you_mean

if TYPE_CHECKING:
    from calib.trace.own import OwnModel
    from model.workload import Workload

KEY, WORKLOAD = "module.path", "workload"
POSITIONAL = inspect.Parameter.POSITIONAL_ONLY
EXPECTED = "expected the path of a Python file and a function in it, my_file.py:make_model"
NAMED = "CALIB_NAMED_FILES"
"""In the environment, for the processes of a launcher: what the command line named, a line each."""
_named = set(os.environ.get(NAMED, "").splitlines())
"""As it was when this file was imported: a configuration can set variables too, but later."""


def note_named(words: Iterable[str]) -> None:
    """Let this process and those that it starts know which files ``words``, overrides of the
    command line, name."""
    found = list(named_in(words))
    _named.update(found)
    if found:
        os.environ[NAMED] = "\n".join(found)


def named_in(words: Iterable[str]) -> Iterator[str]:
    """Every value that ``words`` give the key, those of a sweep one by one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    mine = [word for word in words if word.lstrip("+").startswith(f"{KEY}=")]
    for word in mine:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:  # which Hydra says better itself
            continue
        value = override.value()
        for each in getattr(value, "list", [value]):
            yield str(getattr(each, "text", each))  # quoted, an element of a sweep has a type


def own_of(path: str | None, workload: Workload) -> OwnModel:
    """The module that ``path`` makes, on the inputs that it makes.

    The function takes nothing, or the workload, and returns ``(module, inputs)``; inputs are a
    tensor, a tuple of positional arguments or a mapping of named ones.

    Raises ``CalibError`` that names the key for whatever is wrong with it.
    """
    from calib.trace.own import own_model

    if not path:
        raise CalibError(f"{KEY} is missing: {EXPECTED}")
    if path not in _named:
        raise CalibError(
            f"{KEY} = {path!r}: it is code, so it is run only where the command line names it: "
            f"give {KEY}={path} there"
        )
    made = call(function_of(path), path, workload)
    if not isinstance(made, tuple) or len(made) != 2:
        raise CalibError(
            f"{KEY} = {path!r}: it returned {type(made).__name__}: expected (module, inputs)"
        )
    return own_model(*made)


def call(make: Callable[..., Any], path: str, workload: Workload) -> Any:
    """``make`` on the workload, where it takes an argument, or one of that name."""
    takes = list(inspect.signature(make).parameters.values())
    named = {p.name: workload for p in takes if p.name == WORKLOAD and p.kind is not POSITIONAL}
    wanted = [p for p in takes if p.default is p.empty and p.name not in named]
    try:
        return make(*([workload] if wanted else []), **named)
    except CalibError:
        raise
    except Exception as error:
        raise CalibError(f"{KEY} = {path!r}: {told(error, path)}") from error


def function_of(path: str) -> Callable[..., Any]:
    file, _, name = path.rpartition(":")
    if not file or not name:
        raise CalibError(f"{KEY} = {path!r}: {EXPECTED}")
    found = Path(file).expanduser()
    if not found.is_file():
        raise CalibError(f"{KEY} = {path!r}: there is no file {found}: {EXPECTED}")
    loaded = load(found, path)
    make = getattr(loaded, name, None)
    if not callable(make):
        own = [n for n, v in vars(loaded).items() if inspect.isfunction(v)]
        raise CalibError(
            f"{KEY} = {path!r}: {found.name} has no function {name!r}: expected one of "
            f"{', '.join(own) or 'none'}{did_you_mean(name, own)}"
        )
    function: Callable[..., Any] = make
    return function


def load(file: Path, path: str) -> Any:
    """The file as a module; what lies beside it can be imported, after all that is installed."""
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    spec = spec_from_file_location(f"calib_own_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise CalibError(f"{KEY} = {path!r}: {EXPECTED}")
    loaded = module_from_spec(spec)
    sys.modules[spec.name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        raise CalibError(f"{KEY} = {path!r}: {told(error, path)}") from error
    return loaded


def told(error: Exception, path: str) -> str:
    """ "it raised ValueError in line 7: ...", the line that of the user's file."""
    name, trace, line = Path(path.rpartition(":")[0]).name, error.__traceback__, None
    while trace:
        if Path(trace.tb_frame.f_code.co_filename).name == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" in line {line}" if line else ""
    return f"it raised {type(error).__name__}{where}: {error}"
