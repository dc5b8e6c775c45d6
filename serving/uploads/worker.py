"""`python -m serving.uploads.worker JOB`: checks one upload and stores its rows.

JOB is JSON (`Job`). The process writes lines of JSON to standard output, and the last line is its result. It
ends when its standard input closes, so that it never outlives the predictor.
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

from catalog.loader import load_catalog
from catalog.spec import Dataset
from registry.errors import StorageUnavailableError
from registry.storage.bucket import Bucket
from registry.storage.datasets import CONTRACT_NOTE, ContentDigest, dataset_key
from registry.storage.settings import StorageSettings
from serving.uploads.csv_checker import CsvChecker
from serving.uploads.csv_lines import CsvLines
from serving.uploads.errors import TooLargeError, UploadError, no_room
from serving.uploads.runner import Job

# Bytes of memory that the process may use; Linux keeps to the limit. It needs about 200 MiB, and a pod of
# 2 GiB has room for it beside the predictor.
MAX_MEMORY = 768 << 20

_TYPES = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "text": pa.string()}


def run(job: Job, settings: StorageSettings, send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check and store one upload and return what was stored.

    `send` passes a message to the predictor. Raises `UploadError` when nothing was stored.
    """
    dataset = next(spec.dataset for spec in load_catalog().values() if spec.dataset.name == job.dataset)
    with os.fdopen(job.body, "r+b") as body, os.fdopen(job.output, "w+b") as output:
        body.seek(0)
        lines = CsvLines(body, boundary=job.boundary, gzipped=job.gzipped)
        checker = CsvChecker(lines, dataset, job.max_rows)
        dataset_id = write_parquet(checker, dataset, output)
        output.flush()
        output.seek(0)
        send({"storing": True})
        created = _store(settings, dataset_key(dataset_id), job.output)
    columns = [column.name for column in checker.columns]
    return {"id": dataset_id, "rows": checker.count, "columns": columns, "created": created}


def write_parquet(checker: CsvChecker, dataset: Dataset, output: BinaryIO) -> str:
    """Write the rows of a CSV as Parquet, a row group for each block; return the dataset's id."""
    fields = [pa.field(column.name, _TYPES[column.kind]) for column in checker.columns]
    schema = pa.schema(fields, {CONTRACT_NOTE: dataset.name.encode()})
    digest = ContentDigest(dataset.name, schema)
    with pq.ParquetWriter(output, schema, compression="zstd") as parquet:
        for values in checker.blocks():
            table = pa.table([pa.array(*column) for column in zip(values, schema.types, strict=True)], schema)
            digest.update(table)
            parquet.write_table(table)
    return digest.dataset_id


def _store(settings: StorageSettings, key: str, file: int) -> bool:
    """Put the file into the bucket; return whether it is new there."""
    try:
        bucket = Bucket(settings, attempts=2)
        exists = bucket.exists(key)
        # Also put where it exists: that mends a damaged file.
        bucket.put(key, Path(f"/dev/fd/{file}"))
    except StorageUnavailableError as error:
        # The address of the storage is for the predictor's log, not for the sender.
        sys.stderr.write(f"upload: {error}\n")
        raise UploadError(
            503,
            "storage_unavailable",
            "The S3 storage does not take the dataset now, so nothing was stored. Send it again later; the "
            "predictor's log says more.",
            headers={"Retry-After": "10"},
        ) from None
    return not exists


def _result(job: Job, settings: StorageSettings, send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        return {"stored": run(job, settings, send)}
    except MemoryError:
        error: UploadError = TooLargeError(
            "Checking the file takes more memory than it may; send fewer rows."
        )
    except UploadError as refusal:
        error = refusal
    except OSError as failure:  # of the two files; the storage has an error of its own
        sys.stderr.write(f"upload: {failure}\n")
        error = no_room(failure)
    details = [[detail.field, detail.problem] for detail in error.details]
    return {"refused": [error.status, error.code, error.message, details, error.headers]}


def _limit_process(memory: int) -> None:
    # Predictions go first.
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    memory = memory if hard_limit == resource.RLIM_INFINITY else min(memory, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, hard_limit))
    # A predictor that stops kills this process; KeyboardInterrupt while storing might store a part.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Do the job on the command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = StorageSettings()
    _limit_process(MAX_MEMORY)

    def send(message: dict[str, Any]) -> None:
        sys.stdout.write(f"{json.dumps(message)}\n")
        sys.stdout.flush()

    send(_result(Job.model_validate_json(sys.argv[1]), settings, send))
    # A normal exit would wait for the thread that reads standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
