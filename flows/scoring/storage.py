"""The stores that batch scoring reads from and writes to: S3, or a folder.

A new object appears whole and once, or not at all.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast
from urllib.parse import urlsplit
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from checks.errors import DataError
from registry.errors import StorageUnavailableError
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings

# Error codes of S3: a condition of the request does not hold; there is no such object; not supported.
_CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
_UNSUPPORTED = frozenset({"NotImplemented", "501"})


class ChangedError(DataError):
    """An input is not the one any more that the job began with."""


@dataclass(frozen=True)
class StoredObject:
    """One object: its name below the store, its length in bytes, and a tag that changes with its content."""

    name: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """A folder of objects. Methods raise `StorageUnavailableError` where trying again may help."""

    uri: str

    def list(self) -> Iterator[StoredObject]:
        """Yield the objects in the order of their names."""

    def find(self, name: str) -> StoredObject | None:
        """Return one object, or None."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small object, or None."""

    def open(self, stored: StoredObject) -> IO[bytes]:
        """Open an object for random access; raises `ChangedError` as soon as its content is another."""

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        """Store an object in one step; return False and change nothing if the name is taken."""


def open_store(uri: str) -> ObjectStore:
    """Return the store of `s3://BUCKET/PREFIX` or of a path; raises `DataError` for anything else."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment:
            raise DataError(f"{uri} is no address in S3; write s3://BUCKET/PREFIX.")
        return S3Store(parts.netloc, parts.path.strip("/"))
    if len(parts.scheme) > 1:
        raise DataError(f"{uri}: only s3://BUCKET/PREFIX and paths can be read and written.")
    return LocalStore(Path(uri).expanduser().resolve())


class LocalStore:
    """A folder of a file system. `ObjectStore` says what the methods do."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.uri = folder, str(folder)

    def list(self) -> Iterator[StoredObject]:
        for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
            yield self._stored(path)

    def find(self, name: str) -> StoredObject | None:
        path = self._folder / name
        return self._stored(path) if path.is_file() else None

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, stored: StoredObject) -> IO[bytes]:
        """Open a file; one that is replaced later is still read as it was."""
        try:
            file = (self._folder / stored.name).open("rb")
        except FileNotFoundError as error:
            raise _changed(self.uri, stored) from error
        if _etag(os.fstat(file.fileno())) != stored.etag:
            file.close()
            raise _changed(self.uri, stored)
        return file

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                while chunk := content.read(1 << 20):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, never replaces a file.
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _stored(self, path: Path) -> StoredObject:
        status = path.stat()
        return StoredObject(path.relative_to(self._folder).as_posix(), status.st_size, _etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


class S3Store:
    """A prefix of a bucket. `ObjectStore` says what the methods do."""

    def __init__(self, bucket: str, prefix: str) -> None:
        settings = StorageSettings()
        if not settings.has_storage:
            raise DataError(
                f"s3://{bucket} needs keys. Set GREENROOM_S3_ACCESS_KEY and _SECRET_KEY, and "
                "GREENROOM_S3_ENDPOINT_URL where it is not the local stack's."
            )
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = s3_client(settings, attempts=5)

    def list(self) -> Iterator[StoredObject]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self._prefix))
        while page := self._send(lambda: next(pages, None))[0]:
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(self._prefix)
                yield StoredObject(name, int(entry["Size"]), entry["ETag"])

    def find(self, name: str) -> StoredObject | None:
        head, _ = self._send(lambda: self._client.head_object(**self._key(name)), _MISSING)
        return StoredObject(name, int(head["ContentLength"]), head["ETag"]) if head else None

    def read(self, name: str) -> bytes | None:
        answer, _ = self._send(lambda: self._get(name), _MISSING)
        return answer[1] if answer else None

    def open(self, stored: StoredObject) -> IO[bytes]:
        """Open an object; every request names its tag, so that two contents are never mixed."""
        return cast(IO[bytes], _S3File(self, stored))

    def read_range(self, stored: StoredObject, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from `start` on; raises `ChangedError` like `open`."""
        condition = {"Range": f"bytes={start}-{start + length - 1}", "IfMatch": stored.etag}
        answer, _ = self._send(lambda: self._get(stored.name, **condition), _CONDITION_FAILED | _MISSING)
        # A server that ignores the condition answers another tag.
        if answer is None or answer[0] != stored.etag:
            raise _changed(self.uri, stored)
        content: bytes = answer[1]
        return content

    def put_new(self, name: str, content: IO[bytes]) -> bool:
        """Store an object; on a server without conditional writes look first (docs/decisions/021)."""
        start = content.tell()

        def put(**condition: str) -> Any:
            content.seek(start)
            return self._client.put_object(**self._key(name), Body=content, **condition)

        _, code = self._send(lambda: put(IfNoneMatch="*"), _CONDITION_FAILED | _UNSUPPORTED)
        if code in _UNSUPPORTED:
            if self.find(name):
                return False
            _, code = self._send(put)
        return not code

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}

    def _get(self, name: str, **condition: str) -> tuple[str, bytes]:
        """Return tag and bytes of an object."""
        answer = self._client.get_object(**self._key(name), **condition)
        return answer["ETag"], answer["Body"].read()

    def _send(self, request: Callable[[], Any], expected: frozenset[str] = frozenset()) -> tuple[Any, str]:
        """Return the answer and "", or None and S3's error code, which must be one of `expected`.

        Raises `StorageUnavailableError` for what may pass by itself, `DataError` for any other error.
        """
        try:
            return request(), ""
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
            code = str(error.response.get("Error", {}).get("Code", "")) or str(status)
            if status >= 500 and status != 501:
                raise StorageUnavailableError(f"{self.uri}: {error}") from error
            if code in expected:
                return None, code
            raise DataError(
                f"{self.uri}: S3 refused ({code}): {error}. Look at the bucket's name, and at "
                "GREENROOM_S3_ENDPOINT_URL, _ACCESS_KEY and _SECRET_KEY and what they may do."
            ) from error
        except (BotoCoreError, HTTPClientError) as error:
            raise StorageUnavailableError(f"{self.uri}: {type(error).__name__}: {error}") from error


class _S3File(io.RawIOBase):
    """An object of S3 as a file: each read is a request for a range of bytes."""

    def __init__(self, store: S3Store, stored: StoredObject) -> None:
        super().__init__()
        self._store, self._stored, self._position = store, stored, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stored.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._stored.size - self._position)
        if length <= 0:
            return 0
        content = self._store.read_range(self._stored, self._position, length)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _changed(uri: str, stored: StoredObject) -> ChangedError:
    return ChangedError(
        f"{uri}/{stored.name} is not what it was when the job began. Its partitions stay as they are; score "
        "what is there now to another destination."
    )
