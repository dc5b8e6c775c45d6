"""Sets up glibc's malloc for a process that loads models and lets them go again."""

import ctypes
import sys
from contextlib import suppress

# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX.
_TRIM_FROM, _MMAP_FROM, _ARENAS = -1, -3, -8
# linux/prctl.h: PR_SET_THP_DISABLE. A page of 2 MB for a few kilobytes is no gain here.
_NO_HUGE_PAGES = 41


def tune_malloc() -> None:
    """Let glibc, if it is there, give memory back: two arenas, and each large block by itself.

    By default each thread gets an arena, and what a model's file took stays in it.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((_ARENAS, 2), (_MMAP_FROM, 128 * 1024), (_TRIM_FROM, 128 * 1024)):
            libc.mallopt(parameter, value)
        if sys.platform == "linux":
            libc.prctl(_NO_HUGE_PAGES, 1, 0, 0, 0)


def release_memory() -> None:
    """Give memory that is free back to the system; reading a model leaves about its size. glibc alone can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
