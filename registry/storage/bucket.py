"""The S3 bucket, for what is neither an MLflow artifact nor a row of a database: datasets, prediction logs.

Any S3 server will do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.errors import StorageMissingError, StorageUnavailableError
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings

_CHUNK = 1 << 20
# The codes of S3 for an object, or a bucket, that is not there.
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404"})


class Bucket:
    """Objects by key. Every method raises `StorageUnavailableError` when the server does not take it."""

    def __init__(self, settings: StorageSettings, *, attempts: int = 3) -> None:
        """Open the bucket; nothing is asked of the server yet. `attempts` counts the first one."""
        self._client = s3_client(settings, attempts=attempts, connect_timeout=3, read_timeout=30)
        self._name, self._url = settings.s3_bucket, settings.s3_url

    def put(self, key: str, source: Path) -> None:
        """Store a file, at most 5 GB, in place of what was there."""
        with self._errors(key), source.open("rb") as file:
            self._client.put_object(Bucket=self._name, Key=key, Body=file)

    def get(self, key: str, target: Path) -> None:
        """Fetch an object into a file; raises `StorageMissingError` when there is none."""
        with self._errors(key):
            body = self._client.get_object(Bucket=self._name, Key=key)["Body"]
            with body, target.open("wb") as file:
                for chunk in body.iter_chunks(_CHUNK):
                    file.write(chunk)

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        try:
            with self._errors(key):
                self._client.head_object(Bucket=self._name, Key=key)
        except StorageMissingError:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Return the keys below a prefix that ends where a folder does, in alphabetical order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._name, Prefix=f"{prefix.rstrip('/')}/"
        )
        listed: list[dict[str, Any]] = []
        try:
            with self._errors(prefix):
                listed = [entry for page in pages for entry in page.get("Contents", [])]
        except StorageMissingError:
            return
        yield from sorted(str(entry["Key"]) for entry in listed if not entry["Key"].endswith("/"))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into ours; their text names bucket, key and complaint, and no secret."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - see s3.py

        try:
            yield
        except (BotoCoreError, ClientError, OSError) as error:
            code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None
            if code in _MISSING:
                raise StorageMissingError(f"There is no object {key} in the bucket {self._name}.") from error
            raise StorageUnavailableError(
                f"The S3 server at {self._url} did not take a request for the bucket {self._name}: {error}"
            ) from error
