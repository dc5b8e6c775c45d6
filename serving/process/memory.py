"""Keeps out of a worker's memory what it has no use for."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX.
_TRIM_FROM, _MMAP_FROM, _ARENAS = -1, -3, -8
# linux/prctl.h: PR_SET_THP_DISABLE. A page of 2 MB for a few kilobytes is no gain here.
_NO_HUGE_PAGES = 41


class _NoPandas:
    """Says that pandas is not installed: PyArrow imports it wherever it is, which takes 50 MB."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - as importlib calls it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Refuse pandas, and leave every other module to the next finder."""
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError("a predictor has no pandas", name=name)
        return None


def without_pandas() -> None:
    """Import no pandas in this process from now on."""
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())


def lean_heap() -> None:
    """Let glibc, if it is there, give memory back: few arenas, and large blocks always by themselves.

    By default each thread gets an arena, and what a model's file took stays in it.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((_ARENAS, 2), (_MMAP_FROM, 128 * 1024), (_TRIM_FROM, 128 * 1024)):
            libc.mallopt(parameter, value)
        if sys.platform == "linux":
            libc.prctl(_NO_HUGE_PAGES, 1, 0, 0, 0)


def trim() -> None:
    """Give memory that is free back to the system; reading a model leaves about its size. glibc alone can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
