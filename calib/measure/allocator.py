"""Keep freed memory in the process, so that a large tensor is not paid for page by page each time.

glibc hands large blocks back to the system when they are freed; the next tensor of that size then
faults in every page anew, at a cost that depends on what was freed before and swamps a copy's own
time. The sweep and the reference model both run with this off, and with torch's own switch for huge
pages on, as servers do by preloading another allocator.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of mallopt(3)."""
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 2**25
_BLOCK_BYTES = 2**24
"""mallopt accepts at most half of a heap's largest size, 32 MiB on 64-bit systems."""


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, torch to use huge pages; whether glibc agreed.

    To be called before torch is imported: it reads its switch once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    accepted = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(accepted and mallopt(_TRIM_THRESHOLD, _NEVER))


def reserve(nbytes: int = 2**29) -> None:
    """Touch ``nbytes`` of heap and free them, once a model's weights have their places.

    Small blocks that outlive a large tensor, such as a profiler's events, then no longer push the
    next large tensor to pages never touched before.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(_BLOCK_BYTES) for _ in range(nbytes // _BLOCK_BYTES)]
    for block in filter(None, blocks):
        ctypes.memset(block, 0, _BLOCK_BYTES)
    for block in blocks:
        libc.free(block)
