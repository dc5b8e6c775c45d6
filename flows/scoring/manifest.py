"""What a scoring job has written: partitions, each with metadata, and the manifest of all of them."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field, ValidationError

from checks.errors import DataError
from flows.scoring.plan import PLAN, READERS, SUCCESS, Plan, PlanModel, partition_name, read_footer
from flows.scoring.storage import ObjectStore, StoredObject

# Key of the metadata in a partition's Parquet file.
METADATA_KEY = b"greenroom.score"


class FinishedPartition(PlanModel):
    """A partition that is written: its metadata, and name, size and tag of its object."""

    part: int
    rows: int
    rejected: int
    reasons: dict[str, int] = Field(default_factory=dict)
    name: str = ""
    size: int = 0
    etag: str = ""

    @property
    def stored(self) -> StoredObject:
        """The partition's object."""
        return StoredObject(self.name, self.size, self.etag)


class Manifest(PlanModel):
    """`_SUCCESS`, the list of all partitions of a finished job."""

    format: int = 1
    plan: str
    model: str
    version: int
    digest: str
    rows: int
    rejected: int
    parts: tuple[FinishedPartition, ...]


class PartitionMetadata(PlanModel):
    """The metadata in a partition's Parquet file."""

    plan: str
    model: str
    version: int
    digest: str
    part: int
    rows: int
    rejected: int
    reasons: dict[str, int]

    def to_parquet(self) -> dict[bytes, bytes]:
        """Return the key and the value that the Parquet file holds."""
        return {METADATA_KEY: json.dumps(self.model_dump(), sort_keys=True).encode()}


def finished_partitions(
    destination: ObjectStore, plan: Plan, plan_digest: str
) -> dict[int, FinishedPartition]:
    """Return the partitions that are written, by number; raises `DataError` if one is of another job."""
    objects = {stored.name: stored for stored in destination.list()}
    written = [part for part in range(len(plan.parts)) if partition_name(part) in objects]
    with ThreadPoolExecutor(READERS) as pool:
        partitions = pool.map(
            lambda part: check_partition(destination, plan, plan_digest, part, objects[partition_name(part)]),
            written,
        )
        return dict(zip(written, partitions, strict=True))


def check_partition(
    destination: ObjectStore, plan: Plan, plan_digest: str, part: int, stored: StoredObject
) -> FinishedPartition:
    """Return the description of a written partition; raises `DataError` if it is of another plan."""
    footer, _ = read_footer(destination, stored)
    try:
        metadata = PartitionMetadata.model_validate_json((footer.metadata or {}).get(METADATA_KEY, b""))
    except ValidationError:
        metadata = None
    expected = (plan_digest, part, plan.parts[part].rows)
    matches = metadata is not None and (metadata.plan, metadata.part, metadata.rows) == expected
    if metadata is None or not matches or footer.num_rows != metadata.rows:
        raise DataError(
            f"{destination.uri}/{stored.name} was not written by this job: its metadata does not fit the "
            "plan. Remove it and run again, or choose another destination."
        )
    return FinishedPartition(
        part=part,
        rows=metadata.rows,
        rejected=metadata.rejected,
        reasons=metadata.reasons,
        name=stored.name,
        size=stored.size,
        etag=stored.etag,
    )


def read_manifest(destination: ObjectStore, plan: Plan, plan_digest: str) -> Manifest | None:
    """Return the manifest of a finished job, or None.

    Raises `DataError` if the manifest cannot be read, or a partition was changed or removed since.
    """
    content = destination.read(SUCCESS)
    if content is None:
        return None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{destination.uri}/{SUCCESS} cannot be read: {error}") from error
    objects = {stored.name: stored for stored in destination.list()}
    damaged = [part.name for part in manifest.parts if objects.get(part.name) != part.stored]
    if damaged or manifest.plan != plan_digest or len(manifest.parts) != len(plan.parts):
        raise DataError(
            f"{destination.uri} was finished, and is not whole any more: {', '.join(damaged[:3]) or PLAN} "
            f"was changed or removed. Score to another destination, or remove {SUCCESS} and run again."
        )
    return manifest


def write_manifest(
    destination: ObjectStore, plan: Plan, plan_digest: str, partitions: dict[int, FinishedPartition]
) -> Manifest:
    """Write the manifest of all partitions; raises `DataError` if one is missing."""
    if missing := sorted(set(range(len(plan.parts))) - set(partitions)):
        raise DataError(
            f"{destination.uri} lacks {partition_name(missing[0])} and {len(missing) - 1} others."
        )
    manifest = Manifest(
        plan=plan_digest,
        model=plan.model,
        version=plan.version,
        digest=plan.digest,
        rows=sum(partition.rows for partition in partitions.values()),
        rejected=sum(partition.rejected for partition in partitions.values()),
        parts=tuple(partitions[part] for part in sorted(partitions)),
    )
    destination.put_new(SUCCESS, io.BytesIO(manifest.model_dump_json(indent=1).encode()))
    return manifest
