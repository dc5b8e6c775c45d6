"""Arrow columns from buffers. `pa.array` would look whether it was given something of pandas, and imports
pandas for that wherever it is installed: 50 MB of a predictor's memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def numbers(values: npt.NDArray[Any], kind: type[np.number[Any]], missing: Sequence[bool] = ()) -> pa.Array:
    """Return a column of numbers of the type `kind`; those that are `missing` are null."""
    content = pa.py_buffer(np.ascontiguousarray(values, dtype=kind))
    return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(values), [_valid(missing), content])


def texts(values: Sequence[str | None]) -> pa.Array:
    """Return a column of texts; None is null."""
    encoded = [(value or "").encode() for value in values]
    places = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in encoded], out=places[1:])
    parts = [
        _valid([value is None for value in values]),
        pa.py_buffer(places),
        pa.py_buffer(b"".join(encoded)),
    ]
    return pa.Array.from_buffers(pa.string(), len(encoded), parts)


def _valid(missing: Sequence[bool]) -> pa.Buffer | None:
    """Return Arrow's validity bitmap, or None where nothing is missing."""
    if not any(missing):
        return None
    return pa.py_buffer(np.packbits(~np.array(missing, dtype=bool), bitorder="little"))
