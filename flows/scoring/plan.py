"""The plan of a scoring job: which version answers which rows, and where each partition is written.

It is the first thing a job writes, in one step, and everything after follows from it: whoever comes to the
same destination goes on with that plan, or is refused. docs/decisions/021 says why.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.contract import request_model
from catalog.loader import get_model
from catalog.spec import ModelSpec, Task
from flows.data.row_rules import RowRules
from flows.data.uploads import contract_of
from flows.errors import DataError
from flows.scoring.storage import ChangedError, Found, Place, S3Place, place
from registry.digests import digest
from registry.storage.datasets import dataset_key, is_dataset_id
from registry.storage.settings import StorageSettings

PLAN, SUCCESS = "_plan.json", "_SUCCESS"
_SUFFIX = ".parquet"
AT_ONCE = 16


class Said(BaseModel):
    """What is written at the destination, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Said):
    """One input file as it was when the job began."""

    name: str
    size: int
    etag: str
    rows: int

    @property
    def found(self) -> Found:
        """The same, as a place knows it."""
        return Found(self.name, self.size, self.etag)


class Piece(Said):
    """Some row groups of one input file: from `first` up to but not including `last`."""

    file: int
    first: int
    last: int


class Part(Said):
    """One partition: what it reads, and how many rows that are."""

    pieces: tuple[Piece, ...]
    rows: int


class Plan(Said):
    """All that a job does. Its digest is in every partition that it writes."""

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
        """How many rows there are to score."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class Pinned:
    """The version that a job is done with."""

    version: int
    digest: str
    task: Task
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """Where a job's rows come from: the files, and the place that they are in."""

    place: Place
    files: tuple[Found, ...]

    @classmethod
    def of(cls, source: str, spec: ModelSpec) -> Self:
        """Find the Parquet files of a source, and hold an uploaded dataset against its id.

        Raises `DataError` when there are none, or the dataset is another one's.
        """
        if is_dataset_id(source):
            bucket = StorageSettings().s3_bucket
            folder, _, name = dataset_key(source).rpartition("/")
            where: Place = S3Place(bucket, folder)
            # The tag first: what is checked cannot be younger than what is read.
            found = where.find(name)
            contract = contract_of(source)
            if contract != spec.dataset.name:
                raise DataError(
                    f"The dataset {source} holds rows of {contract!r}, and {spec.name} reads those of "
                    f"{spec.dataset.name!r}."
                )
            return cls(where, (found,) if found else ())
        where = place(source)
        files = tuple(one for one in where.list() if _is_input(one.name))
        if not files and source.endswith(_SUFFIX):
            folder, _, name = where.uri.rpartition("/")
            where = place(folder)
            if found := where.find(name):
                files = (found,)
        if not files:
            raise DataError(
                f"There is no Parquet file at {source}: neither a file of that name nor one ending in "
                f"{_SUFFIX} below it. Names that begin with _ or . are not looked at."
            )
        return cls(where, files)


def _is_input(name: str) -> bool:
    return name.endswith(_SUFFIX) and not any(part.startswith(("_", ".")) for part in name.split("/"))


def require_apart(source: str, destination: str) -> None:
    """Raise `DataError` if results would lie among the inputs, or the reverse."""
    if is_dataset_id(source):
        return
    one, other = (f"{place(uri).uri}/" for uri in (source, destination))
    if one.startswith(other) or other.startswith(one):
        raise DataError(
            f"{destination} and {source} lie inside one another; results would be taken for inputs. "
            "Choose another destination."
        )


def make_plan(
    spec: ModelSpec, pinned: Pinned, source: str, *, keep: Sequence[str], rows: int
) -> tuple[Plan, Inputs]:
    """Look at every input file's footer and share its row groups out to partitions of about `rows` rows.

    Raises `DataError` for a missing column, a wrong type, or a file that is not Parquet; nothing is written.
    """
    inputs = Inputs.of(source, spec)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        footers = list(pool.map(lambda one: footer(inputs.place, one), inputs.files))
    kept = tuple(keep) or _named(spec, [schema for _, schema in footers])
    for one, (_, schema) in zip(inputs.files, footers, strict=True):
        _require_columns(f"{inputs.place.uri}/{one.name}", spec, schema, kept)
        if other := [name for name in kept if schema.field(name).type != footers[0][1].field(name).type]:
            raise DataError(
                f"{inputs.place.uri}/{one.name}: {', '.join(other)} is of another type than in "
                f"{inputs.files[0].name}. Write the files with one schema, or name other columns to keep."
            )
    plan = Plan(
        model=spec.name,
        version=pinned.version,
        digest=pinned.digest,
        task=pinned.task,
        classes=pinned.classes,
        source=source,
        base=inputs.place.uri,
        keep=kept,
        files=tuple(
            Source(name=one.name, size=one.size, etag=one.etag, rows=meta.num_rows)
            for one, (meta, _) in zip(inputs.files, footers, strict=True)
        ),
        parts=tuple(_shared([meta for meta, _ in footers], rows)),
    )
    if not plan.rows:
        raise DataError(f"{source} has no rows.")
    return plan, inputs


def footer(where: Place, one: Found) -> tuple[Any, Any]:
    """Return the Parquet metadata and the Arrow schema of a file; raises `DataError` if it has none."""
    try:
        with where.open(one) as file, pq.ParquetFile(file) as parquet:
            return parquet.metadata, parquet.schema_arrow
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{where.uri}/{one.name} cannot be read as Parquet: {error}") from error


def _named(spec: ModelSpec, schemas: list[Any]) -> tuple[str, ...]:
    """The column that names a row, where the dataset has one and so has every file."""
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


def _shared(metas: list[Any], rows: int) -> Iterator[Part]:
    """Yield partitions: row groups in their order, of one file or several, until there are `rows` rows."""
    pieces: list[Piece] = []
    have = 0
    for number, meta in enumerate(metas):
        for group in range(meta.num_row_groups):
            more = meta.row_group(group).num_rows
            if pieces and have + more > rows:
                yield Part(pieces=tuple(pieces), rows=have)
                pieces, have = [], 0
            if pieces and pieces[-1].file == number:
                pieces[-1] = pieces[-1].model_copy(update={"last": group + 1})
            else:
                pieces.append(Piece(file=number, first=group, last=group + 1))
            have += more
    if pieces:
        yield Part(pieces=tuple(pieces), rows=have)


def part_name(part: int) -> str:
    """Return the name of a partition's file."""
    return f"part-{part:05d}{_SUFFIX}"


def begun(destination: Place) -> tuple[Plan, str] | None:
    """Return the plan that a destination was begun with and its digest, or None if nothing was.

    Raises `DataError` when something else is there, or the plan cannot be read.
    """
    content = destination.read(PLAN)
    if content is None:
        if strange := next((one for one in destination.list() if not one.name.startswith(".")), None):
            raise DataError(
                f"{destination.uri} is not empty ({strange.name}), and no scoring job began there. Choose "
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


def write_plan(destination: Place, plan: Plan) -> tuple[Plan, str]:
    """Write the plan unless another process was faster; return the one that is in force, and its digest."""
    destination.put_new(PLAN, io.BytesIO(plan.model_dump_json().encode()))
    found = begun(destination)
    if found is None:
        raise DataError(f"{destination.uri} does not give back what is written there.")
    return found


def require_same(plan: Plan, *, model: str, source: str, keep: Sequence[str]) -> None:
    """Raise `DataError` if a destination was begun with something else than is asked for now."""
    asked = {"model": model, "source": source, **({"columns to keep": tuple(keep)} if keep else {})}
    there = {"model": plan.model, "source": plan.source, "columns to keep": plan.keep}
    other = [f"{name} {there[name]}, not {value}" for name, value in asked.items() if there[name] != value]
    if other:
        raise DataError(
            f"A scoring job with another plan began there: {'; '.join(other)}. Choose another destination."
        )


def require_unchanged(plan: Plan) -> Inputs:
    """Return a plan's inputs; raises `ChangedError` when they are not what they were when it was made."""
    inputs = Inputs.of(plan.source, get_model(plan.model))
    now = {one.name: one for one in inputs.files}
    then = {one.name: one.found for one in plan.files}
    for what, names in (
        ("is gone", then.keys() - now.keys()),
        ("is new", now.keys() - then.keys()),
        ("was changed", {name for name in then.keys() & now.keys() if then[name] != now[name]}),
    ):
        if names:
            raise ChangedError(
                f"{inputs.place.uri}/{min(names)} {what} since the job began, and {len(names) - 1} others. "
                "One job answers one state of its input: score what is there now to another destination."
            )
    return inputs
