"""What a scoring job has written: partitions that say what they are of, and the manifest of all of them."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field, ValidationError

from flows.errors import DataError
from flows.scoring.plan import AT_ONCE, PLAN, SUCCESS, Plan, Said, footer, part_name
from flows.scoring.storage import Found, Place

# What a partition's Parquet file says of itself.
NOTE = b"greenroom.score"


class Done(Said):
    """What a finished partition says of itself, and what it is as an object."""

    part: int
    rows: int
    rejected: int
    reasons: dict[str, int] = Field(default_factory=dict)
    name: str = ""
    size: int = 0
    etag: str = ""


class Finished(Said):
    """`_SUCCESS`: the manifest of a job that is done."""

    format: int = 1
    plan: str
    model: str
    version: int
    digest: str
    rows: int
    rejected: int
    parts: tuple[Done, ...]


class Note(Said):
    """The note in a partition's Parquet file."""

    plan: str
    model: str
    version: int
    digest: str
    part: int
    rows: int
    rejected: int
    reasons: dict[str, int]

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the file's metadata that says it."""
        return {NOTE: json.dumps(self.model_dump(), sort_keys=True).encode()}


def look(destination: Place, plan: Plan, plan_digest: str) -> dict[int, Done]:
    """Return the partitions that are there, each held against the plan by what its file says.

    Raises `DataError` for one that is not this job's.
    """
    there = {one.name: one for one in destination.list()}
    found = [(part, there[part_name(part)]) for part in range(len(plan.parts)) if part_name(part) in there]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda one: check_part(destination, plan, plan_digest, *one), found)
        return {one.part: one for one in done}


def check_part(destination: Place, plan: Plan, plan_digest: str, part: int, one: Found) -> Done:
    """Return what a partition's file says of itself; raises `DataError` unless it is this plan's."""
    meta, _ = footer(destination, one)
    try:
        note = Note.model_validate_json((meta.metadata or {}).get(NOTE, b""))
    except ValidationError:
        note = None
    good = note and (note.plan, note.part, note.rows) == (plan_digest, part, plan.parts[part].rows)
    if note is None or not good or meta.num_rows != note.rows:
        raise DataError(
            f"{destination.uri}/{one.name} was not written by this job: its note does not fit the plan. "
            "Remove it and run again, or choose another destination."
        )
    return Done(
        part=part,
        rows=note.rows,
        rejected=note.rejected,
        reasons=note.reasons,
        name=one.name,
        size=one.size,
        etag=one.etag,
    )


def finished(destination: Place, plan: Plan, plan_digest: str) -> Finished | None:
    """Return the manifest of a job that is done, or None; `DataError` if its partitions are not whole."""
    content = destination.read(SUCCESS)
    if content is None:
        return None
    try:
        manifest = Finished.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{destination.uri}/{SUCCESS} cannot be read: {error}") from error
    there = {one.name: one for one in destination.list()}
    lost = [one.name for one in manifest.parts if there.get(one.name) != Found(one.name, one.size, one.etag)]
    if lost or manifest.plan != plan_digest or len(manifest.parts) != len(plan.parts):
        raise DataError(
            f"{destination.uri} was finished, and is not whole any more: {', '.join(lost[:3]) or PLAN} was "
            f"changed or removed. Score to another destination, or remove {SUCCESS} and run again."
        )
    return manifest


def write_success(destination: Place, plan: Plan, plan_digest: str, done: dict[int, Done]) -> Finished:
    """Write the manifest, of every partition; raises `DataError` while one is missing."""
    if lacking := sorted(set(range(len(plan.parts))) - set(done)):
        raise DataError(f"{destination.uri} lacks {part_name(lacking[0])} and {len(lacking) - 1} others.")
    manifest = Finished(
        plan=plan_digest,
        model=plan.model,
        version=plan.version,
        digest=plan.digest,
        rows=sum(one.rows for one in done.values()),
        rejected=sum(one.rejected for one in done.values()),
        parts=tuple(done[part] for part in sorted(done)),
    )
    destination.put_new(SUCCESS, io.BytesIO(manifest.model_dump_json(indent=1).encode()))
    return manifest
