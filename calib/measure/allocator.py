"""Keep freed memory in the process, so that a large tensor is not paid for page by page each time.

glibc hands large blocks back to the system when they are freed; the next tensor of that size then
faults in every page anew, at a cost that depends on what was freed before and swamps a copy's own
time. The sweep and the reference model both run with this off, as servers do by preloading another
allocator; the report's environment says so.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of mallopt(3)."""
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 2**25
"""mallopt accepts at most half of a heap's largest size, 32 MiB on 64-bit systems."""


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed; whether it agreed. Elsewhere nothing changes: False."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    accepted = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(accepted and mallopt(_TRIM_THRESHOLD, _NEVER))
