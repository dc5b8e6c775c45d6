"""Rows that were held against their contract before."""

import io
import json
import logging
import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.spec import Dataset
from flows.data import sources, validation
from flows.data.fingerprints import code_digest, contract_content, source_digest
from flows.settings import FlowSettings
from registry.settings import home

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


_log = logging.getLogger("greenroom.flows")
_PROBLEMS = b"greenroom.problems"
_ROWS = 65_536
_SECONDS = 30 * 24 * 3600


def validated(table: sources.Table | pd.DataFrame, dataset: Dataset) -> tuple[pd.DataFrame, list[str], bool]:
    """Return what `validation.validate` does, and whether it was known already; raises like it.

    Known is what these very rows came to by this contract, code and set of libraries. It is kept as Parquet
    in `GREENROOM_HOME/cache`, for 30 days and up to GREENROOM_CACHE_BYTES. What is damaged there or cannot
    be read or written costs the time of validating, and nothing else.
    """
    most = FlowSettings().cache_bytes
    file = _folder() / f"{key}.parquet" if most and (key := _key(table, dataset)) else None
    if file and (known := _read(file)):
        return *known, True
    rows, problems = validation.validate(table, dataset)
    if file:
        _keep(file, rows, problems, most)
    return rows, problems, False


def _folder() -> Path:
    return home() / "cache"


def _key(table: sources.Table | pd.DataFrame, dataset: Dataset) -> str | None:
    """Return the digest of rows and rules; None for rows that Arrow cannot hold."""
    found = sha256(
        code_digest().encode() + contract_content(dataset.row) + repr(dataset.max_rejected).encode()
    )
    if isinstance(table, sources.Table):
        found.update(source_digest(dataset).encode())
        return found.hexdigest()
    try:
        whole = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    except (pa.ArrowException, TypeError, ValueError):
        return None
    with pa.ipc.new_stream(_Sink(found), whole.schema) as stream:
        stream.write_table(whole, max_chunksize=_ROWS)
    return found.hexdigest()


class _Sink(io.RawIOBase):
    """A file that is digested instead of kept."""

    def __init__(self, found: "Hash") -> None:
        self._found = found

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self._found.update(view)
        return view.nbytes


def _read(file: Path) -> tuple[pd.DataFrame, list[str]] | None:
    try:
        # Checksums, so that a changed bit is not believed.
        kept = pq.read_table(file, page_checksum_verification=True)
        problems = json.loads(kept.schema.metadata[_PROBLEMS])
        rows: pd.DataFrame = kept.to_pandas()
        os.utime(file)  # the ones that are used stay longest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow.ArrowInvalid is a ValueError
        _log.warning("%s is damaged and is made anew: %s", file, type(error).__name__)
        return None
    return rows, problems


def _keep(file: Path, rows: pd.DataFrame, problems: list[str], most: int) -> None:
    kept = pa.Table.from_pandas(rows)
    kept = kept.replace_schema_metadata({**(kept.schema.metadata or {}), _PROBLEMS: json.dumps(problems)})
    # Of this process alone: several trainings may write the same at once.
    part = file.with_suffix(f".{os.getpid()}")
    try:
        _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        pq.write_table(kept, part, write_page_checksum=True)
        part.replace(file)
        _tidy(most)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        _log.warning("%s cannot be kept: %s", file, error.strerror)


def _tidy(most: int) -> None:
    """Remove what nobody asked for in 30 days, and the longest unused beyond `most` bytes."""
    known = sorted(((f.stat(), f) for f in _folder().iterdir()), key=lambda one: -one[0].st_mtime)
    total = 0
    for status, file in known:
        total += status.st_size
        if total > most or time.time() - status.st_mtime > _SECONDS:
            file.unlink(missing_ok=True)
