"""The plan of a scoring job: which version answers which rows, and where each partition is written.

A job writes its plan first, in one step. A later job with the same destination goes on with that plan or is
refused. docs/decisions/021 says why.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.contract import request_model
from catalog.loader import get_model
from catalog.spec import ModelSpec, Task
from checks.data.row_rules import RowRules
from checks.data.uploads import contract_of
from checks.errors import DataError
from flows.scoring.storage import ChangedError, ObjectStore, S3Store, StoredObject, open_store
from registry.digests import digest
from registry.storage.datasets import dataset_key, is_dataset_id
from registry.storage.settings import StorageSettings

PLAN, SUCCESS = "_plan.json", "_SUCCESS"
_SUFFIX = ".parquet"
# Threads that read the footers of Parquet files.
READERS = 16
# Rows of a partition, or of one row group that has more: some seconds of work for one process.
PARTITION_ROWS = 250_000


class PlanModel(BaseModel):
    """A record that is written to the destination as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(PlanModel):
    """One input file as it was when the job began."""

    name: str
    size: int
    etag: str
    rows: int

    @property
    def stored(self) -> StoredObject:
        """The file's object in the store."""
        return StoredObject(self.name, self.size, self.etag)


class Piece(PlanModel):
    """Some row groups of one input file: from `first` up to but not including `last`."""

    file: int
    first: int
    last: int


class Part(PlanModel):
    """One partition: the row groups that it reads, and the number of their rows."""

    pieces: tuple[Piece, ...]
    rows: int


class Plan(PlanModel):
    """All of a job's work. Every partition that it writes holds the plan's digest."""

    format: int = 1
    model: str
    version: int
    digest: str
    task: Task
    classes: tuple[str, ...]
    source: str
    base: str
    keep: tuple[str, ...]
    files: tuple[Source, ...]
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Number of rows to score."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class PinnedVersion:
    """The version that a job scores with."""

    version: int
    digest: str
    task: Task
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """A job's input files, and the store that they are in."""

    store: ObjectStore
    files: tuple[StoredObject, ...]


def find_inputs(source: str, spec: ModelSpec) -> Inputs:
    """Find the Parquet files of a source; check an uploaded dataset against its id.

    Raises `DataError` when there are none, or the dataset holds rows of another contract.
    """
    if is_dataset_id(source):
        return _find_dataset(source, spec)
    store = open_store(source)
    files = tuple(stored for stored in store.list() if _is_input(stored.name))
    if not files and source.endswith(_SUFFIX):
        folder, _, name = store.uri.rpartition("/")
        store = open_store(folder)
        if stored := store.find(name):
            files = (stored,)
    if not files:
        raise DataError(
            f"There is no Parquet file at {source}: neither a file of that name nor one ending in "
            f"{_SUFFIX} below it. Names that begin with _ or . are not looked at."
        )
    return Inputs(store, files)


def _find_dataset(dataset_id: str, spec: ModelSpec) -> Inputs:
    folder, _, name = dataset_key(dataset_id).rpartition("/")
    store = S3Store(StorageSettings().s3_bucket, folder)
    # The tag first, so that the content that is checked is not older than the one that is read.
    stored = store.find(name)
    contract = contract_of(dataset_id)
    if contract != spec.dataset.name:
        raise DataError(
            f"The dataset {dataset_id} holds rows of {contract!r}, and {spec.name} reads those of "
            f"{spec.dataset.name!r}."
        )
    return Inputs(store, (stored,) if stored else ())


def _is_input(name: str) -> bool:
    return name.endswith(_SUFFIX) and not any(part.startswith(("_", ".")) for part in name.split("/"))


def require_apart(source: str, destination: str) -> None:
    """Raise `DataError` if the destination is inside of the source, or the reverse."""
    if is_dataset_id(source):
        return
    inputs, results = (f"{open_store(uri).uri}/" for uri in (source, destination))
    if inputs.startswith(results) or results.startswith(inputs):
        raise DataError(
            f"{destination} and {source} lie inside one another; results would be taken for inputs. "
            "Choose another destination."
        )


def make_plan(
    spec: ModelSpec, pinned: PinnedVersion, source: str, *, keep: Sequence[str], rows: int = PARTITION_ROWS
) -> Plan:
    """Read every input file's footer and share its row groups out to partitions of about `rows` rows.

    Raises `DataError` for a missing column, a wrong type, or a file that is not Parquet; writes nothing.
    """
    inputs = find_inputs(source, spec)
    with ThreadPoolExecutor(READERS) as pool:
        footers = list(pool.map(lambda file: read_footer(inputs.store, file), inputs.files))
    kept = tuple(keep) or _id_column(spec, [schema for _, schema in footers])
    for file, (_, schema) in zip(inputs.files, footers, strict=True):
        _require_columns(f"{inputs.store.uri}/{file.name}", spec, schema, kept)
        if other := [name for name in kept if schema.field(name).type != footers[0][1].field(name).type]:
            raise DataError(
                f"{inputs.store.uri}/{file.name}: {', '.join(other)} is of another type than in "
                f"{inputs.files[0].name}. Write the files with one schema, or name other columns to keep."
            )
    plan = Plan(
        model=spec.name,
        version=pinned.version,
        digest=pinned.digest,
        task=pinned.task,
        classes=pinned.classes,
        source=source,
        base=inputs.store.uri,
        keep=kept,
        files=tuple(
            Source(name=file.name, size=file.size, etag=file.etag, rows=footer.num_rows)
            for file, (footer, _) in zip(inputs.files, footers, strict=True)
        ),
        parts=tuple(_partitions([footer for footer, _ in footers], rows)),
    )
    if not plan.rows:
        raise DataError(f"{source} has no rows.")
    return plan


def read_footer(store: ObjectStore, stored: StoredObject) -> tuple[Any, Any]:
    """Return the Parquet metadata and the Arrow schema of a file; raises `DataError` if it has none."""
    try:
        with store.open(stored) as file, pq.ParquetFile(file) as parquet:
            return parquet.metadata, parquet.schema_arrow
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{store.uri}/{stored.name} cannot be read as Parquet: {error}") from error


def _id_column(spec: ModelSpec, schemas: list[Any]) -> tuple[str, ...]:
    """Return the dataset's column that identifies a row, if every file has it."""
    name = spec.dataset.id
    return (name,) if name and all(name in schema.names for schema in schemas) else ()


def _require_columns(where: str, spec: ModelSpec, schema: Any, keep: Sequence[str]) -> None:
    rules = RowRules(request_model(spec))
    missing = [name for name in (*spec.features, *keep) if name not in schema.names]
    if missing:
        raise DataError(
            f"{where} lacks the columns {', '.join(missing)}; {spec.name} reads {', '.join(spec.features)}."
        )
    if wrong := rules.wrong_types(schema):
        raise DataError(f"{where}: {'; '.join(wrong)}. Write the file with the types of the contract.")


def _partitions(footers: list[Any], rows: int) -> Iterator[Part]:
    """Yield partitions of row groups in order, each of at most `rows` rows or one row group."""
    pieces: list[Piece] = []
    total = 0
    for number, footer in enumerate(footers):
        for group in range(footer.num_row_groups):
            group_rows = footer.row_group(group).num_rows
            if pieces and total + group_rows > rows:
                yield Part(pieces=tuple(pieces), rows=total)
                pieces, total = [], 0
            if pieces and pieces[-1].file == number:
                pieces[-1] = pieces[-1].model_copy(update={"last": group + 1})
            else:
                pieces.append(Piece(file=number, first=group, last=group + 1))
            total += group_rows
    if pieces:
        yield Part(pieces=tuple(pieces), rows=total)


def partition_name(part: int) -> str:
    """Return the name of a partition's file."""
    return f"part-{part:05d}{_SUFFIX}"


def existing_plan(destination: ObjectStore) -> tuple[Plan, str] | None:
    """Return the plan at a destination and its digest, or None at an empty one.

    Raises `DataError` when other objects are there, or the plan cannot be read.
    """
    content = destination.read(PLAN)
    if content is None:
        objects = (stored.name for stored in destination.list() if not stored.name.startswith("."))
        if name := next(objects, None):
            raise DataError(
                f"{destination.uri} is not empty ({name}), and no scoring job began there. Choose "
                "another destination, or empty it."
            )
        return None
    try:
        return Plan.model_validate_json(content), digest(content)
    except ValidationError as error:
        raise DataError(
            f"{destination.uri}/{PLAN} cannot be read: it is of another release, or damaged. Choose another "
            "destination."
        ) from error


def write_plan(destination: ObjectStore, plan: Plan) -> tuple[Plan, str]:
    """Write the plan unless another process was faster; return the plan in force, and its digest."""
    destination.put_new(PLAN, io.BytesIO(plan.model_dump_json().encode()))
    in_force = existing_plan(destination)
    if in_force is None:
        raise DataError(f"{destination.uri} does not give back what is written there.")
    return in_force


def require_same(plan: Plan, *, model: str, source: str, keep: Sequence[str]) -> None:
    """Raise `DataError` if the plan at a destination is for another model, source, or columns to keep."""
    wanted = {"model": model, "source": source, **({"columns to keep": tuple(keep)} if keep else {})}
    planned = {"model": plan.model, "source": plan.source, "columns to keep": plan.keep}
    other = [
        f"{name} {planned[name]}, not {value}" for name, value in wanted.items() if planned[name] != value
    ]
    if other:
        raise DataError(
            f"A scoring job with another plan began there: {'; '.join(other)}. Choose another destination."
        )


def require_unchanged(plan: Plan) -> None:
    """Raise `ChangedError` when a plan's inputs are not what they were when it was made."""
    inputs = find_inputs(plan.source, get_model(plan.model))
    now = {file.name: file for file in inputs.files}
    then = {file.name: file.stored for file in plan.files}
    for change, names in (
        ("is gone", then.keys() - now.keys()),
        ("is new", now.keys() - then.keys()),
        ("was changed", {name for name in then.keys() & now.keys() if then[name] != now[name]}),
    ):
        if names:
            raise ChangedError(
                f"{inputs.store.uri}/{min(names)} {change} since the job began, and {len(names) - 1} others. "
                "One job answers one state of its input: score what is there now to another destination."
            )
