"""The one kind of error that a user can mend: it names the key, the value and what is accepted."""


class CalibError(Exception):
    """Bad input, a file that cannot be read or written, or a machine that lacks what was asked."""


class DeviceLost(CalibError):
    """The device no longer answers this process, though it may answer a new one."""


LOST_STATUS = 75
"""Exit status of a process that lost its device: run again, and it goes on."""
