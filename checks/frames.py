"""The rows that the gate looks at: their form, their files and their digests."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.spec import ModelSpec
from catalog.tasks import task_spec
from checks.errors import GateInputError
from registry.digests import digest


def checked_frame(spec: ModelSpec, frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """Return a copy with the columns of `spec` in order: features as float64, then the others.

    A regression's target becomes float64 as well, all others text, as a model's classes are. `side` names the
    rows in errors: `GateInputError` when a column is missing or not numeric, or there are no rows.
    """
    columns = list(spec.columns)
    if absent := [name for name in columns if name not in frame.columns]:
        raise GateInputError(
            f"The {side} rows lack {', '.join(absent)}, which the declaration of {spec.name!r} names. "
            "Train the model again if its declaration has changed."
        )
    if frame.empty:
        raise GateInputError(f"There are no {side} rows to check {spec.name!r} on.")
    numeric = [*spec.features, *([spec.target] if task_spec(spec.task).numeric_target else [])]
    try:
        checked = frame[columns].astype(dict.fromkeys(numeric, "float64")).reset_index(drop=True)
    except (ValueError, TypeError) as error:
        raise GateInputError(f"The {side} rows of {spec.name!r} are not all numbers: {error}") from error
    for name in columns:
        if name not in numeric:
            checked[name] = checked[name].astype(str)
    return checked


def frame_digest(frame: pd.DataFrame) -> str:
    """Return the digest of a frame's content: column names, and values in row order.

    It is not the digest of a file, because the same rows give other bytes with another pyarrow. Columns of
    numbers of any type count as little-endian float64, all others as a JSON list of text.
    """
    parts = [json.dumps([len(frame), *frame.columns.astype(str)]).encode()]
    for name in frame.columns:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            parts.append(column.to_numpy(dtype="<f8").tobytes())
        else:
            parts.append(json.dumps([str(value) for value in column]).encode())
    return digest(b"\n".join(parts))


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Return the frame as a Parquet file that any pandas reads: without the hints of ours about types."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(content: bytes) -> pd.DataFrame:
    """Return the frame in a Parquet file; `GateInputError` if it is none."""
    try:
        frame: pd.DataFrame = pq.read_table(pa.BufferReader(content)).to_pandas()
    except pa.ArrowInvalid as error:
        raise GateInputError(f"The stored rows are not a Parquet file: {error}") from error
    return frame
