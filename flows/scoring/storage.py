"""Where batch scoring reads and writes: S3, or a folder. A new object appears whole, once, or not at all."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit
from uuid import uuid4

from flows.errors import DataError
from registry.errors import StorageUnavailableError
from registry.storage.settings import StorageSettings

# What S3 answers where an object is another one than the condition names, or where there is one already.
_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_MISSING = {"NoSuchKey", "NotFound", "404"}


class ChangedError(DataError):
    """An input is no longer the one that the job began with."""


@dataclass(frozen=True)
class Found:
    """One object: its name below the place, its length in bytes, and a tag that changes with its content."""

    name: str
    size: int
    etag: str


class Place(Protocol):
    """A folder of objects. Errors of the outside are `StorageUnavailableError`."""

    uri: str

    def list(self) -> Iterator[Found]:
        """Yield the objects below the place, in the order of their names."""

    def find(self, name: str) -> Found | None:
        """Return one object, or None."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object, or None."""

    def open(self, found: Found) -> IO[bytes]:
        """Open an object to read any part of it; `ChangedError` as soon as it is another one."""

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        """Store an object in one step; False, and nothing is changed, if there is one of that name."""


def place(uri: str) -> Place:
    """Return the place of `s3://BUCKET/PREFIX` or of a path; raises `DataError` for anything else."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment:
            raise DataError(f"{uri} is no place in S3; one is s3://BUCKET/PREFIX.")
        return S3Place(parts.netloc, parts.path.strip("/"))
    if len(parts.scheme) > 1:
        raise DataError(f"{uri}: only s3://BUCKET/PREFIX and paths can be read and written.")
    return FolderPlace(Path(uri).expanduser().resolve())


class FolderPlace:
    """A folder of a file system."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.uri = folder, str(folder)

    def list(self) -> Iterator[Found]:
        """See `Place`."""
        files = (path for path in self._folder.rglob("*") if path.is_file())
        for path in sorted(files):
            yield self._found(path)

    def find(self, name: str) -> Found | None:
        """See `Place`."""
        path = self._folder / name
        return self._found(path) if path.is_file() else None

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, found: Found) -> IO[bytes]:
        """See `Place`; a file that is replaced later is still read as it was."""
        try:
            file = (self._folder / found.name).open("rb")
        except FileNotFoundError as error:
            raise _changed(f"{self.uri}/{found.name}") from error
        if _tag(os.fstat(file.fileno())) != found.etag:
            file.close()
            raise _changed(f"{self.uri}/{found.name}")
        return file

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        """See `Place`."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with beside.open("xb") as file:
                while chunk := content.read(1 << 20):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a renaming, a link refuses to replace.
            path.hardlink_to(beside)
        except FileExistsError:
            return False
        finally:
            beside.unlink(missing_ok=True)
        return True

    def _found(self, path: Path) -> Found:
        about = path.stat()
        return Found(path.relative_to(self._folder).as_posix(), about.st_size, _tag(about))


def _tag(about: os.stat_result) -> str:
    return f"{about.st_mtime_ns}-{about.st_size}-{about.st_ino}"


class S3Place:
    """A prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        settings = StorageSettings()
        if not settings.has_storage:
            raise DataError(
                f"s3://{bucket} needs keys. Set GREENROOM_S3_ACCESS_KEY and _SECRET_KEY, and "
                "GREENROOM_S3_ENDPOINT_URL where it is not the local stack's."
            )
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = _client(
            settings.s3_url,
            settings.s3_region,
            settings.s3_access_key.get_secret_value(),
            settings.s3_secret_key.get_secret_value(),
        )

    def list(self) -> Iterator[Found]:
        """See `Place`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        with _errors(self.uri) as said:
            for page in pages:
                for one in page.get("Contents", []):
                    name = one["Key"].removeprefix(self._prefix)
                    yield Found(name, int(one["Size"]), one["ETag"])
            return
        said.require(set())

    def find(self, name: str) -> Found | None:
        """See `Place`."""
        with _errors(self.uri) as said:
            one = self._client.head_object(**self._key(name))
            return Found(name, int(one["ContentLength"]), one["ETag"])
        said.require(_MISSING)
        return None

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        with _errors(self.uri) as said:
            return bytes(self._client.get_object(**self._key(name))["Body"].read())
        said.require(_MISSING)
        return None

    def open(self, found: Found) -> IO[bytes]:
        """See `Place`; every request names the tag, so that no two versions are ever mixed."""
        return cast(IO[bytes], _Ranges(self, found))

    def part(self, found: Found, first: int, length: int) -> bytes:
        """Return some bytes of an object; `ChangedError` if it is another one by now."""
        span = f"bytes={first}-{first + length - 1}"
        with _errors(self.uri) as said:
            answer = self._client.get_object(**self._key(found.name), Range=span, IfMatch=found.etag)
            content = bytes(answer["Body"].read())
            if answer["ETag"] != found.etag:  # a server that does not know the condition
                raise _changed(f"{self.uri}/{found.name}")
            return content
        said.require(_CONDITION | _MISSING)
        raise _changed(f"{self.uri}/{found.name}")

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        """See `Place`. A server without conditional writes is asked first; docs/decisions/021."""
        start = content.tell()
        with _errors(self.uri) as said:
            self._client.put_object(**self._key(name), Body=content, IfNoneMatch="*")
            return True
        if said.code in _CONDITION:
            return False
        said.require({"NotImplemented", "501"})
        if self.find(name):
            return False
        content.seek(start)
        with _errors(self.uri) as said:
            self._client.put_object(**self._key(name), Body=content)
            return True
        said.require(set())
        return False

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}


class _Ranges(io.RawIOBase):
    """An object of S3 as a file, read by ranges."""

    def __init__(self, owner: S3Place, found: Found) -> None:
        super().__init__()
        self._owner, self._found, self._at = owner, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._found.size - self._at)
        if length <= 0:
            return 0
        content = self._owner.part(self._found, self._at, length)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class _errors:  # noqa: N801 - read as a statement: `with _errors(…) as said:`
    """Keeps the code of an answer of S3; what may pass by itself becomes `StorageUnavailableError`."""

    def __init__(self, uri: str) -> None:
        self._uri, self.code, self._text = uri, "", ""

    def __enter__(self) -> "_errors":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # noqa: PLC0415

        if isinstance(error, ClientError):
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
            self.code = str(error.response.get("Error", {}).get("Code", "")) or str(status)
            self._text = str(error)
            if status >= 500 and status != 501:
                raise StorageUnavailableError(f"{self._uri}: {error}") from error
            return True
        if isinstance(error, BotoCoreError | HTTPClientError):
            raise StorageUnavailableError(f"{self._uri}: {type(error).__name__}: {error}") from error
        return False

    def require(self, expected: set[str]) -> None:
        """Raise `DataError` unless S3 said one of these."""
        if self.code not in expected:
            raise DataError(
                f"{self._uri}: S3 refused ({self.code}): {self._text}. Look at the bucket's name, and at "
                "GREENROOM_S3_ENDPOINT_URL, _ACCESS_KEY and _SECRET_KEY and what they may do."
            )


@lru_cache(8)
def _client(url: str, region: str, key: str, secret: str) -> Any:
    import boto3  # noqa: PLC0415 - half a second
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"max_attempts": 4, "mode": "standard"},
        s3={"addressing_style": "path"},
        # Checksums in trailers are not every S3 server's; the signature covers the content.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=32,
    )
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name=region,
        config=config,
    )


def _changed(uri: str) -> ChangedError:
    return ChangedError(
        f"{uri} is not what it was when the job began. Its partitions stay as they are; score what is there "
        "now to another destination."
    )
