"""`python -m serving.uploads.worker JOB`: checks one upload and stores its rows, in a process of its own.

JOB is JSON (`Job`); the answer is lines of JSON on standard output, the last of which counts. The process
ends itself when its standard input closes, so that it never outlives the predictor.
"""

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from catalog.loader import load_catalog
from catalog.spec import Dataset
from registry.errors import StorageUnavailableError
from registry.storage.bucket import Bucket
from registry.storage.datasets import CONTRACT_NOTE, ContentDigest, dataset_key
from serving.uploads.csv_checker import Checker
from serving.uploads.csv_lines import Lines
from serving.uploads.errors import TooLargeError, UploadError, no_room
from serving.uploads.settings import UploadSettings

_TYPES = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}
# A row group: large enough to compress well, small enough to hold.
_GROUP_ROWS, _GROUP_BYTES = 50_000, 16 << 20


class Job(BaseModel):
    """What to do: the files are descriptors that this process was given."""

    dataset: str
    body: int
    output: int
    boundary: str | None
    gzipped: bool


class _Writer:
    """Writes blocks of rows as Parquet, and digests them on the way."""

    def __init__(self, file: BinaryIO, checker: Checker, dataset: Dataset) -> None:
        fields = [pa.field(column.name, _TYPES[column.kind]) for column in checker.columns]
        self._schema = pa.schema(fields, {CONTRACT_NOTE: dataset.name.encode()})
        self.digest = ContentDigest(dataset.name, self._schema)
        self._parquet = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list[Any] = []

    def write(self, values: list[list[Any]]) -> None:
        arrays = [pa.array(column, field.type) for column, field in zip(values, self._schema, strict=True)]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        rows, size = (sum(getattr(one, what) for one in self._waiting) for what in ("num_rows", "nbytes"))
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._waiting:
            group = pa.concat_tables(self._waiting).combine_chunks()
            self.digest.update(group)
            self._parquet.write_table(group)
            self._waiting = []


def run(job: Job, settings: UploadSettings, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check and store one upload and return what was stored; raises `UploadError` when nothing was."""
    dataset = next(s.dataset for s in load_catalog().values() if s.dataset.name == job.dataset)
    with os.fdopen(job.body, "rb") as body, os.fdopen(job.output, "w+b") as output:
        body.seek(0)
        lines = Lines(body, settings, boundary=job.boundary, gzipped=job.gzipped)
        checker = Checker(lines, dataset, settings)
        writer = _Writer(output, checker, dataset)
        for values in checker.blocks():
            writer.write(values)
        writer.close()
        output.flush()
        output.seek(0)
        say({"storing": True})
        dataset_id = writer.digest.dataset_id
        created = _store(settings, dataset_key(dataset_id), job.output)
    columns = [column.name for column in checker.columns]
    return {"id": dataset_id, "rows": checker.count, "columns": columns, "created": created}


def _store(settings: UploadSettings, key: str, file: int) -> bool:
    """Put the file into the bucket; return whether it was not there before."""
    try:
        bucket = Bucket(settings, attempts=2)
        there = bucket.exists(key)
        # Also where it is there: that mends a damaged one.
        bucket.put(key, Path(f"/dev/fd/{file}"))
    except StorageUnavailableError as error:
        # Addresses are for whoever runs the predictor, not for whoever uploads.
        sys.stderr.write(f"upload: {error}\n")
        raise UploadError(
            503,
            "storage_unavailable",
            "The S3 storage does not take the dataset now, so nothing was stored. Send it again later; the "
            "predictor's log says more.",
            headers={"Retry-After": "10"},
        ) from None
    return not there


def _answer(job: Job, settings: UploadSettings, say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        return {"stored": run(job, settings, say)}
    except MemoryError:
        error: UploadError = TooLargeError(
            "Checking the file takes more memory than it may; send fewer rows."
        )
    except UploadError as refused:
        error = refused
    except OSError as failed:  # of the files it was given; storage has an error of its own
        sys.stderr.write(f"upload: {failed}\n")
        error = no_room(failed)
    details = [[detail.field, detail.problem] for detail in error.details]
    refusal = [error.status, error.code, error.message, details, error.headers]
    return {"refused": refusal}


def _be_modest(memory: int) -> None:
    # Predictions go first.
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, most))
    # Told to stop, the predictor kills this process; an exception while storing might store a part.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Do the job on the command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = UploadSettings()
    _be_modest(settings.serving_upload_memory)

    def say(message: dict[str, Any]) -> None:
        sys.stdout.write(f"{json.dumps(message)}\n")
        sys.stdout.flush()

    say(_answer(Job.model_validate_json(sys.argv[1]), settings, say))
    sys.stdout.flush()
    # At once: the thread that waits for the parent holds standard input, and no destructor has work to do.
    os._exit(0)


if __name__ == "__main__":
    main()
