"""The one kind of error that a user can mend: it names the key, the value and what is accepted."""

from collections.abc import Iterable
from difflib import get_close_matches


class CalibError(Exception):
    """Bad input, a file that cannot be read or written, or a machine that lacks what was asked."""


class DeviceLost(CalibError):
    """The device no longer answers this process, though it may answer a new one."""


LOST_STATUS = 75
"""Exit status of a process that lost its device: run again, and it goes on."""
FAILED = "error.txt"
"""In the folder of one of many runs: why it failed."""


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """ "; did you mean rtx5090?" where something accepted reads like ``name``, or begins with it,
    else nothing."""
    plain = {_plain(one): one for one in accepted}
    meant = _plain(name)
    close = [meant] if meant in plain else get_close_matches(meant, plain, n=3)
    close = sorted(close, key=lambda one: sorted(one) != sorted(meant))[:2]  # letters swapped first
    close = close or [one for one in plain if len(name) > 2 and one.startswith(meant)][:2]
    return f"; did you mean {' or '.join(plain[one] for one in close)}?" if close else ""


def _plain(name: str) -> str:
    """As one may write it by hand: H100, a100-pcie-40gb."""
    return name.lower().replace("-", "_").replace(" ", "_")


def one_of(name: str, accepted: Iterable[str]) -> str:
    """ "one of h100, h200; did you mean h200?"."""
    accepted = list(accepted)
    return f"one of {', '.join(accepted)}{did_you_mean(name, accepted)}"


_SHOWN = 80
"""Characters of a wrong value that are repeated: enough to find it."""


def shown(value: object) -> str:
    """``value`` on one line, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a nest without end
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def wrong(key: str, value: object, accepted: str) -> str:
    """The sentence of a wrong setting."""
    named = key if key.isprintable() and len(key) <= _SHOWN else shown(key)
    return f"{named} = {shown(value)}: expected {accepted}"
