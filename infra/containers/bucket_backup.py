"""All objects of the bucket as one tar stream, and back: a backup's second half, beside PostgreSQL's."""

import hashlib
import io
import json
import sys
import tarfile
from typing import IO, Any

import click

from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings

# The last member, with the others' digests: a stream that was cut off has none.
_MANIFEST = "greenroom-manifest.json"
_FOLDER = "objects/"


def dump(target: IO[bytes]) -> int:
    """Write every object to a tar stream, then a manifest of their SHA-256; return how many there were."""
    storage = StorageSettings()
    client = s3_client(storage)
    manifest: dict[str, str] = {}
    with tarfile.open(fileobj=target, mode="w|") as tar:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=storage.s3_bucket):
            for key in (entry["Key"] for entry in page.get("Contents", [])):
                content = client.get_object(Bucket=storage.s3_bucket, Key=key)
                member = tarfile.TarInfo(_FOLDER + key)
                member.size = content["ContentLength"]
                reader = _HashingReader(content["Body"])
                tar.addfile(member, reader)
                manifest[key] = reader.digest.hexdigest()
        text = json.dumps(manifest, indent=0, sort_keys=True).encode()
        last = tarfile.TarInfo(_MANIFEST)
        last.size = len(text)
        tar.addfile(last, io.BytesIO(text))
    return len(manifest)


def load(source: IO[bytes]) -> int:
    """Put every object of a tar stream into the bucket, beside its other objects; return how many.

    Raises `click.ClickException` when the stream is cut off or an object differs from its manifest.
    """
    storage = StorageSettings()
    client = s3_client(storage)
    read: dict[str, str] = {}
    manifest: dict[str, str] | None = None
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file is None:
                    continue
                if entry.name == _MANIFEST:
                    manifest = json.load(file)
                    continue
                key = entry.name.removeprefix(_FOLDER)
                reader = _HashingReader(file)
                client.upload_fileobj(reader, storage.s3_bucket, key)
                read[key] = reader.digest.hexdigest()
    except (tarfile.TarError, EOFError) as error:
        raise click.ClickException(f"The backup of the bucket is cut off or damaged: {error}.") from error
    if manifest is None:
        raise click.ClickException("The backup of the bucket is cut off: its manifest is missing.")
    wrong = sorted(key for key in manifest.keys() | read.keys() if manifest.get(key) != read.get(key))
    if wrong:
        raise click.ClickException(
            f"{len(wrong)} objects are not what the backup's manifest says, such as {wrong[0]}."
        )
    return len(read)


class _HashingReader(io.RawIOBase):
    """Reads a stream and hashes what is read."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk: bytes = self._source.read(None if size < 0 else size)
        self.digest.update(chunk)
        return chunk


def main(direction: str) -> None:
    """Dump to standard output or load from standard input."""
    if direction == "dump":
        count = dump(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        count = load(sys.stdin.buffer)
    click.echo(f"{count} objects", err=True)
