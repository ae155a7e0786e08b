"""Keep freed memory for the next step, where the machine's allocator gives it back at once."""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**30
"""Bytes: smaller blocks stay with the process when they are freed."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep large blocks, which a training step frees and takes again; whether it did.

    It would return each block to the system, and every step would pay for the pages anew: a third
    of the time of fitting filters. Other systems' allocators are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    return all(mallopt(option, LARGEST) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
