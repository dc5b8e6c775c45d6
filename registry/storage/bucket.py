"""The S3 bucket, for what is neither an MLflow artifact nor a row of a database: datasets, prediction logs.

Any S3 server will do. PyArrow speaks S3 and Parquet both, so that no second client is needed; it is imported
when a bucket is opened, because it takes a tenth of a second and some 40 MB.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from registry.errors import StorageMissingError, StorageUnavailableError
from registry.settings import GreenroomSettings

_CHUNK = 1 << 20


class StorageSettings(GreenroomSettings):
    """Where the bucket is and who may use it. Empty keys mean that nothing is stored there."""

    s3_endpoint_url: str = Field(
        default="",
        description="GREENROOM_S3_ENDPOINT_URL: address of the S3 server. Empty means the local stack's, "
        "http://127.0.0.1:GREENROOM_S3_PORT.",
    )
    s3_port: int = Field(
        default=9000, ge=1, le=65535, description="GREENROOM_S3_PORT: the local stack's S3 port."
    )
    s3_bucket: str = Field(
        default="greenroom", min_length=3, description="GREENROOM_S3_BUCKET: the bucket; it must exist."
    )
    s3_region: str = Field(default="us-east-1", description="GREENROOM_S3_REGION: the bucket's region.")
    s3_access_key: SecretStr = Field(
        default=SecretStr(""), description="GREENROOM_S3_ACCESS_KEY: access key ID."
    )
    s3_secret_key: SecretStr = Field(
        default=SecretStr(""), description="GREENROOM_S3_SECRET_KEY: secret access key."
    )

    @field_validator("s3_endpoint_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise ValueError("it must be http://HOST[:PORT] or https://HOST[:PORT]")
        return value

    @property
    def s3_url(self) -> str:
        """The S3 server's address, without a trailing slash."""
        return (self.s3_endpoint_url or f"http://127.0.0.1:{self.s3_port}").rstrip("/")

    @property
    def has_storage(self) -> bool:
        """Whether there are keys to store anything with."""
        return bool(self.s3_access_key.get_secret_value() and self.s3_secret_key.get_secret_value())


class Bucket:
    """Objects by key. Every method raises `StorageUnavailableError` when the server does not take it."""

    def __init__(self, settings: StorageSettings, *, attempts: int = 3) -> None:
        """Open the bucket; nothing is asked of the server yet. `attempts` counts the first one."""
        from pyarrow import fs  # noqa: PLC0415 - see above

        self._files = fs.S3FileSystem(
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
            region=settings.s3_region,
            scheme=urlsplit(settings.s3_url).scheme,
            endpoint_override=urlsplit(settings.s3_url).netloc,
            connect_timeout=3,
            request_timeout=30,
            allow_delayed_open=True,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        )
        self._name, self._url = settings.s3_bucket, settings.s3_url

    def put(self, key: str, source: Path) -> None:
        """Store a file, in place of what was there."""
        try:
            with source.open("rb") as file, self._files.open_output_stream(self._path(key)) as stream:
                while chunk := file.read(_CHUNK):
                    stream.write(chunk)
        except OSError as error:
            raise self._unavailable(error) from error

    def get(self, key: str, target: Path) -> None:
        """Fetch an object into a file; raises `StorageMissingError` when there is none."""
        try:
            with self._files.open_input_stream(self._path(key)) as stream, target.open("wb") as file:
                while chunk := stream.read(_CHUNK):
                    file.write(chunk)
        except FileNotFoundError as error:
            raise StorageMissingError(f"There is no object {key} in the bucket {self._name}.") from error
        except OSError as error:
            raise self._unavailable(error) from error

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        return bool(self._info(self._path(key)).is_file)

    def keys(self, prefix: str) -> Iterator[str]:
        """Return the keys below a prefix that ends where a folder does, in alphabetical order."""
        from pyarrow import fs  # noqa: PLC0415 - see above

        selector = fs.FileSelector(self._path(prefix.rstrip("/")), recursive=True, allow_not_found=True)
        try:
            found = self._files.get_file_info(selector)
        except OSError as error:
            raise self._unavailable(error) from error
        yield from sorted(info.path.removeprefix(f"{self._name}/") for info in found if info.is_file)

    def _info(self, path: str) -> Any:
        try:
            return self._files.get_file_info(path)
        except OSError as error:
            raise self._unavailable(error) from error

    def _path(self, key: str) -> str:
        return f"{self._name}/{key}"

    def _unavailable(self, error: OSError) -> StorageUnavailableError:
        # Arrow's text names bucket, key and the server's complaint, never a secret.
        return StorageUnavailableError(
            f"The S3 server at {self._url} did not take a request for the bucket {self._name}: {error}"
        )
