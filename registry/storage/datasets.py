"""Uploaded datasets: how their rows are named, and where they lie in the bucket.

One Parquet file holds all there is about a dataset, its contract's name included, so that one request stores
it whole or not at all. It is named by the digest of what it says, not of its bytes (docs/decisions/008).
"""

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from registry.errors import DatasetDamagedError, DatasetMissingError, StorageMissingError
from registry.storage.bucket import Bucket

_ID = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# The Parquet file's own note of the contract that its rows met.
CONTRACT_NOTE = b"greenroom.dataset"
# Types by what they are called in a digest, which must not depend on how wide Arrow makes its offsets.
_KINDS = {
    "bool": "boolean",
    "int64": "integer",
    "double": "number",
    "string": "text",
    "large_string": "text",
}
_BATCH = 50_000


def is_dataset_id(text: str) -> bool:
    """Whether a text has the form of a dataset's id: `sha256:` and 64 lower-case hexadecimal digits."""
    return _ID.fullmatch(text) is not None


def dataset_key(dataset_id: str) -> str:
    """Return the key of a dataset in the bucket; raises `ValueError` for what is no id."""
    if not is_dataset_id(dataset_id):
        raise ValueError(f"{dataset_id[:100]!r} is no dataset id; one is sha256: and 64 hexadecimal digits")
    return f"datasets/sha256/{dataset_id.removeprefix('sha256:')}.parquet"


class ContentDigest:
    """The digest of a table's content: its contract's name, columns, types, and values in row order.

    It does not depend on batches, compression or the version of Arrow.
    """

    def __init__(self, contract: str, schema: Any) -> None:
        """Begin with no rows of a `pyarrow.Schema`; raises `ValueError` for a type that no contract has."""
        self.contract, self._rows = contract, 0
        self._kinds: dict[str, str] = {}
        for field in schema:
            if (kind := _KINDS.get(str(field.type))) is None:
                raise ValueError(f"the column {field.name} is of type {field.type}")
            self._kinds[field.name] = kind
        # What is there, how long it is and what it says: apart, so that no two contents run into each other.
        self._parts = {name: (sha256(), sha256(), sha256()) for name in self._kinds}

    def update(self, table: Any) -> None:
        """Add the rows of a `pyarrow.Table` or `RecordBatch` of the schema."""
        self._rows += table.num_rows
        for name, kind in self._kinds.items():
            present, lengths, values = self._parts[name]
            column = table.column(name)
            present.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
            if kind == "text":
                texts = [value.encode() for value in column.fill_null("").to_pylist()]
                lengths.update(b"".join(len(text).to_bytes(8, "little") for text in texts))
                values.update(b"".join(texts))
            else:
                numbers = column.fill_null(False if kind == "boolean" else 0).to_numpy(zero_copy_only=False)
                values.update(
                    numbers.astype({"number": "<f8", "integer": "<i8", "boolean": "u1"}[kind]).tobytes()
                )

    @property
    def dataset_id(self) -> str:
        """The digest so far, as `sha256:HEX`."""
        columns = [
            [name, kind, *(part.hexdigest() for part in self._parts[name])]
            for name, kind in self._kinds.items()
        ]
        content = {"format": 1, "contract": self.contract, "rows": self._rows, "columns": columns}
        return f"sha256:{sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def fetch_dataset(bucket: Bucket, dataset_id: str, target: Path) -> str:
    """Fetch a dataset's Parquet file, hold it against its id, and return the name of its contract.

    Raises `DatasetMissingError`, `DatasetDamagedError` when it does not say what its id says,
    `StorageUnavailableError`, or `ValueError` for what is no id.
    """
    try:
        bucket.get(dataset_key(dataset_id), target)
    except StorageMissingError as error:
        raise DatasetMissingError(
            f"There is no dataset {dataset_id}. POST /api/upload-dataset stores one and answers its id."
        ) from error
    if (stored := _read_digest(target)) is None or stored.dataset_id != dataset_id:
        raise DatasetDamagedError(
            f"The stored file of the dataset {dataset_id} does not hold the rows that its id names: it was "
            "changed or damaged. Upload the rows again; that puts the right ones in its place."
        )
    return stored.contract


def _read_digest(path: Path) -> "ContentDigest | None":
    import pyarrow as pa  # noqa: PLC0415 - takes a tenth of a second; see registry/storage/bucket.py
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            contract = (schema.metadata or {}).get(CONTRACT_NOTE, b"").decode(errors="replace")
            content = ContentDigest(contract, schema)
            for batch in file.iter_batches(_BATCH):
                content.update(batch)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return content
