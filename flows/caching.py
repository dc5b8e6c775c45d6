"""What a training depends on, as digests; and rows that were held against their contract before."""

import inspect
import io
import json
import logging
import os
import time
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from catalog.spec import Dataset, ModelSpec
from flows import data
from flows.errors import DataError
from flows.settings import FlowSettings
from registry.settings import home
from registry.storage.datasets import is_dataset_id

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_log = logging.getLogger("greenroom.flows")
_ROOMS = ("catalog", "registry", "checks", "flows")
_PROBLEMS = b"greenroom.problems"
_ROWS = 65_536
_SECONDS = 30 * 24 * 3600


def source_digest(dataset: Dataset) -> str:
    """Return the SHA-256 of a dataset's bytes as hex; an uploaded one's id says it already.

    Raises `DataError` when there is no such file; an `OSError` of a network file system passes through.
    """
    if is_dataset_id(dataset.source):
        return dataset.source.removeprefix("sha256:")
    path, found = data.locate(dataset.source), sha256()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        for file in files:
            if file.is_file() or file == path:
                with file.open("rb") as content:
                    while block := content.read(1 << 20):
                        found.update(block)
    except FileNotFoundError as error:
        raise DataError(
            f"{dataset.name}: there is no file {path}. Correct `source` in its declaration."
        ) from error
    return found.hexdigest()


def declaration_digest(spec: ModelSpec) -> str:
    """Return the SHA-256 of all that a declaration says, as hex: its values, and the code of its contract.

    Where the data lies is not part of it, what they are is `source_digest`'s to say.
    """
    values = spec.model_dump(mode="json", exclude={"dataset": {"row", "features", "source"}})
    found = sha256(json.dumps(values, sort_keys=True).encode())
    for contract in (spec.dataset.row, spec.dataset.features):
        found.update(_contract(contract))
    return found.hexdigest()


def _contract(contract: type[BaseModel]) -> bytes:
    # Validators are no part of the schema; they are in the file.
    schema = json.dumps(contract.model_json_schema(), sort_keys=True)
    return schema.encode() + Path(inspect.getfile(contract)).read_bytes()


@cache
def code_digest() -> str:
    """Return the SHA-256 of the code that trains, and of the version of every installed library, as hex."""
    found, root = sha256(), Path(__file__).resolve().parents[1]
    for room in _ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            found.update(file.read_bytes())
    installed = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    found.update("\n".join(sorted(installed)).encode())
    return found.hexdigest()


def validated(table: data.Table | pd.DataFrame, dataset: Dataset) -> tuple[pd.DataFrame, list[str], bool]:
    """Return what `data.validate` does, and whether it was known already; raises like it.

    Known is what these very rows came to by this contract, code and set of libraries. It is kept as Parquet
    in `GREENROOM_HOME/cache`, for 30 days and up to GREENROOM_CACHE_BYTES. What is damaged there or cannot
    be read or written costs the time of validating, and nothing else.
    """
    most = FlowSettings().cache_bytes
    file = _folder() / f"{key}.parquet" if most and (key := _key(table, dataset)) else None
    if file and (known := _read(file)):
        return *known, True
    rows, problems = data.validate(table, dataset)
    if file:
        _keep(file, rows, problems, most)
    return rows, problems, False


def _folder() -> Path:
    return home() / "cache"


def _key(table: data.Table | pd.DataFrame, dataset: Dataset) -> str | None:
    """Return the digest of rows and rules; None for rows that Arrow cannot hold."""
    found = sha256(code_digest().encode() + _contract(dataset.row) + repr(dataset.max_rejected).encode())
    if isinstance(table, data.Table):
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
