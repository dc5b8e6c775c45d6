"""Datasets that were uploaded to the predictor: a training takes one in place of the declared table."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from catalog.spec import Dataset, ModelSpec
from checks.errors import DataError
from registry.errors import DatasetDamagedError, DatasetMissingError
from registry.storage.bucket import Bucket
from registry.storage.datasets import dataset_key, fetch_dataset, is_dataset_id
from registry.storage.settings import StorageSettings

if TYPE_CHECKING:
    import pandas as pd


def trained_on(spec: ModelSpec, dataset_id: str) -> ModelSpec:
    """Return the declaration with the uploaded rows for a source; raises `DataError` for no id."""
    if not is_dataset_id(dataset_id):
        raise DataError(
            f"{dataset_id[:100]!r} is no dataset id. One is sha256: and 64 hexadecimal digits, as "
            "POST /api/upload-dataset answers it."
        )
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"source": dataset_id})})


def contract_of(dataset_id: str) -> str:
    """Return the name of the dataset whose contract the uploaded rows met.

    Raises `DataError` when there is no such dataset, or it is not what its id says, and
    `StorageUnavailableError`.
    """
    with TemporaryDirectory(prefix="greenroom-dataset-") as scratch:
        return _fetch(dataset_id, Path(scratch) / "rows.parquet")


def read_uploaded(dataset: Dataset) -> "pd.DataFrame":
    """Return the rows of a dataset whose source is an id.

    Raises like `contract_of`, and `DataError` when the rows met another dataset's contract.
    """
    contract, rows = fetch_rows(dataset.source)
    _require_contract(contract, dataset)
    return rows


def fetch_rows(dataset_id: str) -> "tuple[str, pd.DataFrame]":
    """Return the name of the contract that stored rows met, and the rows; raises like `contract_of`."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - `greenroom --help` should not take long

    with TemporaryDirectory(prefix="greenroom-dataset-") as scratch:
        path = Path(scratch) / "rows.parquet"
        contract = _fetch(dataset_id, path)
        rows: pd.DataFrame = pq.read_table(path).to_pandas()
    return contract, rows


def dataset_uri(dataset_id: str) -> str:
    """Return where uploaded rows are stored, as `s3://BUCKET/KEY`."""
    return f"s3://{StorageSettings().s3_bucket}/{dataset_key(dataset_id)}"


def storage(dataset_id: str) -> StorageSettings:
    """Return the storage of a dataset; raises `DataError` when there are no keys to get at it."""
    settings = StorageSettings()
    if not settings.has_storage:
        raise DataError(
            f"The dataset {dataset_id} lies in S3, and there are no keys for it. Set GREENROOM_S3_ACCESS_KEY "
            "and _SECRET_KEY, and GREENROOM_S3_ENDPOINT_URL where it is not the local stack's."
        )
    return settings


def _fetch(dataset_id: str, path: Path) -> str:
    settings = storage(dataset_id)
    try:
        return fetch_dataset(Bucket(settings), dataset_id, path)
    except (DatasetMissingError, DatasetDamagedError) as error:
        raise DataError(str(error)) from error


def fetch_uploaded(dataset: Dataset, path: Path) -> None:
    """Fetch the rows of a dataset whose source is an id into a file; raises like `read_uploaded`."""
    _require_contract(_fetch(dataset.source, path), dataset)


def _require_contract(contract: str, dataset: Dataset) -> None:
    if contract != dataset.name:
        raise DataError(
            f"The dataset {dataset.source} holds rows of {contract!r}, and this model learns from "
            f"{dataset.name!r}. Train a model of that dataset on it, or upload rows of {dataset.name!r}."
        )
