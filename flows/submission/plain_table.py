"""Turns a plain table into a declaration, and stores its rows under their digest."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.errors import PydanticUserError

from catalog.loader import load_catalog
from catalog.spec import ModelSpec
from catalog.table_declaration import MIN_ROWS, Kind, PlainColumn, PlainDeclaration, PlainTask
from checks.data.uploads import fetch_rows, storage
from checks.errors import DataError
from flows.errors import SubmissionError
from registry.storage.bucket import Bucket
from registry.storage.datasets import CONTRACT_NOTE, ContentDigest, dataset_key, is_dataset_id

# A class needs rows on both sides of the split and in each fold; more values than this are a number.
_MAX_CLASSES = 100
_ARROW = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}


def read(table: object) -> pd.DataFrame:
    """Return the table of a DataFrame, of the path of a Parquet file, or of a stored dataset's id."""
    if isinstance(table, pd.DataFrame):
        return table.reset_index(drop=True)
    if isinstance(table, str) and is_dataset_id(table):
        return fetch_rows(table)[1]
    path = Path(str(table)).expanduser()
    if not path.is_file():
        raise DataError(f"There is no file {path}; --table is a Parquet file, or the id of a stored dataset.")
    try:
        return pd.read_parquet(path)
    except ValueError as error:  # pyarrow.ArrowInvalid is one
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def declare(
    name: str,
    table: pd.DataFrame,
    *,
    target: str,
    task: PlainTask,
    group: str | None = None,
    estimator: str = "unknown",
) -> tuple[PlainDeclaration, pa.Table]:
    """Return the declaration of a table, and the rows to store.

    All columns but `target` and `group` are features: numbers or booleans, none missing. Raises
    `SubmissionError` for a name that the catalogue declares, and `DataError` for an unusable table.
    """
    if name in load_catalog():
        raise SubmissionError(
            f"The catalogue declares {name!r}, with a table of its own. Leave out the table, or choose "
            "another name."
        )
    table.columns = table.columns.astype(str)
    if absent := [column for column in (target, group) if column and column not in table.columns]:
        raise DataError(
            f"The table has no column {', '.join(absent)}. It has: {', '.join(table.columns[:50])}."
        )
    if len(table) < MIN_ROWS:
        raise DataError(
            f"The table has {len(table)} rows. The gate asks for 200 held-out rows, so it needs {MIN_ROWS}."
        )
    arrays: dict[str, Any] = {}
    features = []
    for column in table.columns:
        if column in (target, group):
            arrays[column] = _text(table[column], column) if column == group else _target(table[column], task)
        else:
            feature, values = _feature(table[column])
            features.append(feature)
            arrays[column] = pa.array(values, _ARROW[feature.kind])
    schema = pa.schema(
        [pa.field(column, values.type) for column, values in arrays.items()], {CONTRACT_NOTE: name.encode()}
    )
    rows = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    digest = ContentDigest(name, schema)
    digest.update(rows)
    try:
        declaration = PlainDeclaration(
            name=name,
            task=task,
            target=target,
            group=group,
            features=tuple(features),
            source=digest.dataset_id,
            rows=len(table),
            estimator=estimator,
        )
        declaration.spec()
    except (
        ValueError,
        NameError,
        PydanticUserError,
    ) as error:  # the last two: a column has a name of Pydantic's own
        raise DataError(f"The table cannot be declared as {name!r}: {error}") from error
    return declaration, rows


def store(declaration: PlainDeclaration, rows: pa.Table) -> None:
    """Store the rows in the bucket under their id; raises `DataError` without keys for it."""
    settings = storage(declaration.source)
    with TemporaryDirectory(prefix="greenroom-table-") as scratch:
        path = Path(scratch) / "rows.parquet"
        pq.write_table(rows, path, compression="zstd")
        # Also if it exists: that repairs a damaged object.
        Bucket(settings).put(dataset_key(declaration.source), path)


def frame(spec: ModelSpec, rows: pa.Table) -> pd.DataFrame:
    """Return the stored rows as a training reads them."""
    table: pd.DataFrame = rows.to_pandas()
    return table[[name for name in spec.dataset.row.model_fields if name in table.columns]]


def _feature(values: "pd.Series[Any]") -> tuple[PlainColumn, Any]:
    name, kind = str(values.name), _kind(values)
    if kind is None:
        raise DataError(
            f"The column {name} holds {values.dtype}, and features are numbers: a model is asked with one "
            "matrix of them. Encode it as numbers, leave it out, or name it as the group."
        )
    _require_whole(values, name)
    numbers = values.to_numpy(dtype=np.float64)
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise DataError(f"The column {name} holds infinity, or numbers that float32 cannot hold.")
    feature = PlainColumn(name=name, kind=kind, low=float(numbers.min()), high=float(numbers.max()))
    return feature, values.to_numpy(dtype={"number": "f8", "integer": "i8", "boolean": "?"}[kind])


def _kind(values: "pd.Series[Any]") -> Kind | None:
    if pd.api.types.is_bool_dtype(values):
        return "boolean"
    if pd.api.types.is_integer_dtype(values):
        return "integer"
    return "number" if pd.api.types.is_float_dtype(values) else None


def _target(values: "pd.Series[Any]", task: PlainTask) -> Any:
    name = str(values.name)
    if task == "classification":
        if values.nunique() > _MAX_CLASSES:
            raise DataError(
                f"{name} has {values.nunique()} different values, and a classification has at most "
                f"{_MAX_CLASSES} classes. Is it a regression?"
            )
        if values.nunique() < 2:
            raise DataError(f"{name} has one value only, so there is nothing to tell apart.")
        return _text(values, name)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise DataError(
            f"{name} holds {values.dtype}; a regression predicts a number. Is it a classification?"
        )
    _require_whole(values, name)
    numbers = values.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(f"{name} holds infinity.")
    return pa.array(numbers, pa.float64())


def _text(values: "pd.Series[Any]", name: str) -> Any:
    _require_whole(values, name)
    return pa.array(values.astype(str).tolist(), pa.string())


def _require_whole(values: "pd.Series[Any]", name: str) -> None:
    if missing := int(values.isna().sum()):
        raise DataError(
            f"The column {name} lacks {missing} of {len(values)} values. Fill them or leave out those rows: "
            "the predictor does not take what is missing either."
        )
