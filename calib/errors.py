"""The one kind of error that a user can mend: it names the key, the value and what is accepted."""


class CalibError(Exception):
    """Bad input, a file that cannot be read or written, or a machine that lacks what was asked."""
