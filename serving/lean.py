"""Keeps out of a worker's memory what it has no use for."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType


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


def trim() -> None:
    """Give memory that is free back to the system; reading a model leaves about its size. glibc alone can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
